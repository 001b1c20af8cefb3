"""The runs that a paper's cells are read from: those that are there, and those to be trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from etude.api import Run, train_record
from etude.config.compose import compose
from etude.config.environment import mask_of
from etude.errors import InvalidArguments, RequestError
from etude.papers.claims import Paper
from etude.records.record import Record, run_folder
from etude.records.signature import signature
from etude.secrets import mask_messages
from etude.sweeps.board import Board
from etude.sweeps.job import Job, carry_out
from etude.sweeps.pool import Pool, Task
from etude.sweeps.slots import slots, visible_gpus
from etude.training.build import check_all
from etude.training.place import current_folder

log = logging.getLogger("etude")


@dataclass(frozen=True)
class Arm:
    """One run of a paper.

    Attributes:
        name: of the arm that it belongs to.
        seed: of the run.
        overrides: what `etude train` would be given.
    """

    name: str
    seed: int
    overrides: list[str]

    @property
    def label(self) -> str:
        return f"{self.name} seed={self.seed}"

    def finished(self) -> Path | None:
        """The record of this run, if it is finished.

        Raises:
            RequestError: the overrides do not fit.
        """
        checked = check_all(compose(self.overrides))
        base = run_folder(Path(checked.run.root), checked.name, signature(checked.identity))
        folder = current_folder(base, checked)
        try:
            done = Record.read(folder).status == "finished"
        except RequestError:
            return None
        return folder if done else None


def arms_of(name: str, paper: Paper, root: Path, *, smoke: bool = False) -> list[Arm]:
    """All runs of a paper, arm by arm, a seed each.

    Args:
        smoke: in the form that only shows that all parts fit together.
    """
    more = [*paper.smoke, "run.samples=0"] if smoke else ["run.samples=0"]
    place = [f"name={name}", f"run.root={root}"]
    return [
        Arm(arm, seed, [*overrides, *more, f"seed={seed}", *place])
        for arm, overrides in paper.runs.items()
        for seed in (paper.seeds[:1] if smoke else paper.seeds)
    ]


def train_missing(arms: Sequence[Arm], logs: Path, jobs: int | str) -> None:
    """Trains what is not finished, several at once; what one ends with, the others do not feel.

    Args:
        logs: a folder for what the processes print.
        jobs: at once, or `auto`.

    Raises:
        RequestError: the overrides of a run do not fit, or `jobs` is no number.
        Interrupted: a signal came; the runs have saved, and the same command goes on.
    """
    missing = [arm for arm in arms if arm.finished() is None]
    if not missing:
        return
    try:
        places = slots(jobs, 1, gpus=visible_gpus())
    except InvalidArguments as error:
        problems = [replace(problem, where="--jobs") for problem in error.problems]
        raise RequestError(problems) from error
    there = len(arms) - len(missing)
    log.info("%d runs%s", len(missing), f", {there} more are there" if there else "")
    board = Board(len(missing), len(places))

    def tasks() -> Iterator[Task | None]:
        for number, arm in enumerate(missing, 1):
            job = Job(arm.label, "waiting", overrides=list(arm.overrides))
            call = partial(_trained, arm)
            yield Task(number, job, call, logs / f"{arm.name}-{arm.seed}.txt")

    try:
        Pool(places, board, lambda job: None).run(tasks())  # the board tells how each ended
    finally:
        board.close()


def runs_of(arms: Sequence[Arm]) -> dict[str, list[Run]]:
    """The finished runs of each arm, in the order of their seeds; arms without any are left out."""
    found: dict[str, list[Run]] = {}
    for arm in arms:
        if (folder := arm.finished()) is not None:
            found.setdefault(arm.name, []).append(Run(Record.read(folder)))
    return found


def _trained(arm: Arm) -> Job:
    """In a process of its own."""
    config = compose(arm.overrides)
    mask_messages(mask_of(config))
    return replace(carry_out(config, arm.overrides, train_record), label=arm.label)
