"""What would run: each job's place, state and size. Trains nothing, writes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from omegaconf import DictConfig

from etude.config.checks import Checked, check
from etude.config.compose import composed, searching
from etude.config.replaced import report_replaced
from etude.errors import EtudeError, Problem, RequestError
from etude.exclusive import exclusively
from etude.records.record import label_of
from etude.records.signature import DIGITS, group, sha256_of, signature
from etude.records.storage import check_root
from etude.secrets import without_secrets
from etude.sweeps.estimate import Estimator, Size
from etude.sweeps.expand import Sweep, expand, refused
from etude.training.build import Parts, build_parts
from etude.training.process import fresh_settings
from etude.training.room import check_room
from etude.training.state import State, asked_for, refusal, state_of

Told = Callable[[int, int], None]
"""Called with the number of jobs that are planned, and of all."""


@dataclass
class PlannedJob:
    """One job of a sweep, or a run alone.

    Attributes:
        label: its differences from the experiment file.
        overrides: what makes it.
        name: of its folder.
        signature, group: 12 digits; empty if its config is wrong.
        identity: what is hashed.
        state: what asking for it would do.
        size: None if its config is wrong.
        asked_for: what jobs have in common that are the same request; None if its config is wrong.
        same_as: the number, from 1, of an earlier job that is the same run.
    """

    label: str
    overrides: list[str]
    name: str
    signature: str
    group: str
    identity: dict[str, Any]
    state: State
    size: Size | None = None
    asked_for: tuple[Path, str] | None = None
    same_as: int | None = None


def plan(
    overrides: Sequence[str],
    *,
    multirun: bool = False,
    config_dir: str | None = None,
    measure: bool = True,
    told: Told | None = None,
) -> list[PlannedJob]:
    """Looks at what `etude train OVERRIDES` would do.

    Args:
        overrides: in Hydra's grammar.
        multirun: `key=a,b` sweeps, as with `etude train -m`.
        config_dir: a folder of the user's own configs.
        measure: try out a few training steps where no earlier run says how fast they are; a
            second for each model.
        told: hears of the progress.

    Raises:
        RequestError: the overrides of a job do not compose, so none would run, or this process
            trains. What is wrong with a config beyond that is the state of its job.
    """
    planner = _Planner(measure)
    jobs: list[PlannedJob] = []
    with exclusively("etude.plan"), searching(config_dir) as hydra:
        sweep = _expanded(overrides, hydra) if multirun else None
        wanted = [list(overrides)] if sweep is None else sweep.jobs or []
        for number, items in enumerate(wanted, start=1):
            try:
                config = composed([item.lstrip("+") for item in items] if sweep else items)
            except RequestError as error:
                raise refused(sweep, error) if sweep else error from error
            if sweep is None:  # of a sweep `expand` has reported it
                report_replaced(overrides)
            with _quiet():
                jobs.append(planner.job(config))
            if told is not None:
                told(number, len(wanted))
    first: dict[tuple[Path, str], int] = {}
    for number, job in enumerate(jobs, start=1):
        if job.asked_for is not None and first.setdefault(job.asked_for, number) != number:
            job.same_as = first[job.asked_for]
    return jobs


def _expanded(overrides: Sequence[str], hydra: Hydra) -> Sweep:
    sweep = expand(overrides, hydra)
    if sweep.jobs is None:
        expected = "basic: this sweeper chooses its jobs as they end, so they cannot be listed"
        raise RequestError(Problem("hydra/sweeper", expected, sweep.sweeper))
    return sweep


@contextmanager
def _quiet() -> Iterator[None]:
    """What preparing or building would say is no part of a plan."""
    logger = logging.getLogger("etude")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Planner:
    """Plans jobs one by one; data and sizes that they share are looked at once."""

    def __init__(self, measure: bool) -> None:
        self._estimator = Estimator(measure=measure)
        self._data: dict[str, Any] = {}
        self._fingerprints: dict[str, str] = {}

    def job(self, config: DictConfig) -> PlannedJob:
        typed = without_secrets(list(config.run.overrides))
        name = str(config.get("name") or "")  # as it was typed, until it is checked
        job = PlannedJob(label_of(typed), typed, name, "", "", {}, State("new", "new"))
        try:
            with fresh_settings():
                self._look(job, check(config))
        except RequestError as error:
            job.state = refusal(error.problems, job.state.path)
        except EtudeError as error:
            job.state = State("refused", f"refused: {error}", path=job.state.path)
        return job

    def _look(self, job: PlannedJob, checked: Checked) -> None:
        whole = signature(checked.identity)
        job.name, job.identity, job.asked_for = checked.name, checked.identity, asked_for(checked)
        job.signature, job.group = whole[:DIGITS], group(checked.identity)
        parts = build_parts(checked)
        key = sha256_of([checked.nodes["data"].canonical(), list(checked.config.extensions)])
        self._share_data(key, parts)

        def fingerprint() -> str:
            if key not in self._fingerprints:
                self._fingerprints[key] = parts.data.fingerprint()
            return self._fingerprints[key]

        def check_start(folder: Path) -> None:
            parts.trainer.check_machine()
            check_root(folder, unsafe=checked.run.unsafe_storage)

        job.state = state_of(checked, fingerprint, check_start)
        if job.state.kind != "refused":
            job.size = self._estimator.size(checked, parts, job.state, job.group)
            if job.state.works:
                job.size.notes += _refused_here(checked, parts, job.size.vocabulary)

    def _share_data(self, key: str, parts: Parts) -> None:
        """One data module for all jobs on the same data: it reads and remembers its files."""
        if key not in self._data:
            parts.data.check()
            self._data[key] = parts.data
        parts.data = self._data[key]


def _refused_here(checked: Checked, parts: Parts, vocabulary: int) -> list[str]:
    """What `etude train` would refuse on this machine; a plan may be meant for another."""
    try:
        check_room(checked, parts, vocabulary or None)
    except RequestError as error:
        return [
            f"`etude train` refuses it on this machine: {problem}" for problem in error.problems
        ]
    return []
