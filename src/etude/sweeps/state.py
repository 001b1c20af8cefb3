"""What `etude train` would do with a config, found out from the files alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etude.config.checks import Checked
from etude.errors import Problem, RequestError
from etude.records.lock import LOCK_FILE, holder, is_held
from etude.records.opening import is_there
from etude.records.record import DONE, Record, run_folder
from etude.records.storage import check_root
from etude.training.build import Parts
from etude.training.place import current_folder
from etude.training.resume import check_before_use, resume_point

Kind = Literal["new", "done", "diverged", "paused", "continues", "held", "refused"]


@dataclass(frozen=True)
class State:
    """Where a run stands, and so what asking for it would do.

    Attributes:
        kind: `new` begins, `continues` goes on from `step`, `paused` has been brought to
            `run.stop_at_step`, `done` is reused, `diverged` would do so again, `held` is being
            trained by another process, `refused` is not possible.
        said: the same for people.
        step: optimizer steps that need not be trained again.
        path: the run's folder, which may not exist.
        problems: why it is refused.
    """

    kind: Kind
    said: str
    step: int = 0
    path: Path | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def works(self) -> bool:
        """Whether asking for the run would train something, now."""
        return self.kind in ("new", "continues")


def refusal(problems: list[Problem], path: Path | None = None) -> State:
    """The state of a run that is not possible."""
    said = "refused: " + "; ".join(map(str, problems))
    return State("refused", said, path=path, problems=tuple(problems))


def state_of(
    checked: Checked, parts: Parts, signature: str, fingerprint: Callable[[], str]
) -> State:
    """What `etude train` would find, in the order in which it looks.

    Args:
        signature: the run's, whole.
        fingerprint: of the data as it is now; called if there is a record. It, and this function,
            raise RequestError for data that cannot be used.
    """
    base = run_folder(Path(checked.run.root), checked.name, signature)
    try:
        folder = current_folder(base, checked)
        record = Record.read(folder) if is_there(folder / "run.json") else None
    except RequestError as error:
        return refusal(error.problems, base)
    if record is None:
        if is_held(folder):
            return _held(folder)
        try:
            parts.trainer.check_machine()
            check_root(folder, unsafe=checked.run.unsafe_storage)
        except RequestError as error:
            return refusal(error.problems, folder)
        return State("new", "new", path=folder)
    if checked.run.on_existing == "error":
        there = f"there: {folder}, {record.status}"
        return refusal([Problem("run.on_existing", "no such run yet", "error", there)], folder)
    try:
        check_before_use(record)
    except RequestError as error:
        return refusal(error.problems, folder)
    trained_on, found = record.info.get("data", {}).get("fingerprint"), fingerprint()
    if trained_on != found:
        expected = f"the content that {folder} was trained on ({trained_on})"
        hint = "the corpus changed"
        if record.status in DONE:
            hint += "; run.on_existing=again trains anew"
        return refusal([Problem("data", expected, found, hint)], folder)
    return _of_record(record, checked.run.stop_at_step)


def _of_record(record: Record, stop_at: int | None) -> State:
    folder = record.path
    if record.status == "finished":
        return State("done", "done", record.info.get("step", 0), folder)
    if record.status == "diverged":
        step = record.info.get("diverged", {}).get("step", 0)
        return State("diverged", f"diverged before, at step {step}", step, folder)
    if is_held(folder):
        return _held(folder)
    point = resume_point(record)
    step = point.step
    total = record.info.get("total_steps", 0)
    if stop_at is not None and stop_at <= step < total:
        return State("paused", f"paused before, at step {step}", step, folder)
    said = f"continues from step {step}"
    if point.passed_over:
        said += f" ({point.passed_over[0][0].name} cannot be used)"
    return State("continues", f"{said} ({record.status})", step, folder)


def _held(folder: Path) -> State:
    found = holder(folder / LOCK_FILE)
    who = f"process {found.get('pid')} on {found.get('host')}" if found else "another process"
    return State("held", f"held by {who}", path=folder)
