"""Where a run stands, found from its config and the files alone: what asking for it would do.

`train`, `plan`, sweeps and papers all ask here. Nothing heavy is imported, so that a run which is
done is recognised at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from etude.config.checks import Checked
from etude.config.flat import flat_config
from etude.config.schema import OUT_OF_SIGNATURE
from etude.errors import Problem, RequestError, RunFailed
from etude.records import fingerprints
from etude.records.lock import LOCK_FILE, holder, is_held
from etude.records.opening import is_there
from etude.records.record import DONE, Record, run_folder
from etude.records.signature import signature
from etude.records.status import Status
from etude.training.place import cache_folder, current_folder
from etude.training.resume import check_before_use, resume_point
from etude.training.starts import source_changes

log = logging.getLogger("etude")

Kind = Literal["new", "done", "diverged", "paused", "continues", "held", "refused"]
"""`new` begins, `continues` goes on from a step, `paused` has been brought to `run.stop_at_step`,
`done` is reused, `diverged` would do so again, `held` is being trained by another process,
`refused` is not possible."""

_WHOLE = ("run", "vars")
"""Keys out of the signature that are more than one setting."""
_NOTES = ("overrides", "choices", "tags", "notes")
"""What is under `run` and changes nothing."""


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        said: the kind for people.
        step: optimizer steps that need not be trained again.
        path: the run's folder, which may not exist.
        problems: why it is refused.
        record: what is there of it.
    """

    kind: Kind
    said: str
    step: int = 0
    path: Path | None = None
    problems: tuple[Problem, ...] = ()
    record: Record | None = None

    @property
    def works(self) -> bool:
        """Whether asking for the run would train something, now."""
        return self.kind in ("new", "continues")


@dataclass
class Outcome:
    """How a request to train ended.

    Attributes:
        status: finished or paused.
        record: the run's record.
        reused: nothing was trained: the run had been finished before.
    """

    status: str
    record: Record
    reused: bool = False

    @property
    def of_the_job(self) -> Status:
        """The status of a job that asked for it."""
        return Status.REUSED if self.reused else Status(self.status)


def refusal(problems: list[Problem], path: Path | None = None) -> State:
    """The state of a run that is not possible."""
    said = "refused: " + "; ".join(map(str, problems))
    return State("refused", said, path=path, problems=tuple(problems))


def folder_of(checked: Checked) -> Path:
    """The run's folder, which may not exist.

    Raises:
        RequestError: what is there in its place is no record.
    """
    return current_folder(_base_of(checked), checked)


def asked_for(checked: Checked) -> tuple[Path, str]:
    """The folder of the run that is asked for, and all that says how it is carried out but does not
    enter its signature: two requests that have both in common are one.
    """
    run = {key: value for key, value in checked.shown["run"].items() if key not in _NOTES}
    others = [_value_at(checked.shown, key) for key in OUT_OF_SIGNATURE if key not in _WHOLE]
    return _base_of(checked), json.dumps([run, others], sort_keys=True, default=str)


def _value_at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _base_of(checked: Checked) -> Path:
    """The folder of the run before it was trained again (`~2`)."""
    return run_folder(Path(checked.run.root), checked.name, signature(checked.identity))


def ended(checked: Checked, folder: Path, fingerprint: Callable[[], str]) -> State | None:
    """The state of a run that is not to be trained, whoever asks; None if something is left to do.

    Args:
        folder: the run's.
        fingerprint: of the data as it is now; called if there is a record. It, and this function,
            raise RequestError for data that cannot be used.
    """
    if not is_there(folder / "run.json"):
        return None
    record = Record.read(folder)
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
        over = record.status in DONE
        what = "run.on_existing=again trains anew" if over else "`etude runs rm` removes the run"
        hint = f"corpus or tokenizer changed; {what}"
        return refusal([Problem("data", expected, found, hint)], folder)
    if record.status == Status.FINISHED:
        return State("done", "done", record.info.get("step", 0), folder, record=record)
    if record.status == Status.DIVERGED:
        step = record.info.get("diverged", {}).get("step", 0)
        return State("diverged", f"diverged before, at step {step}", step, folder, record=record)
    return None


def state_of(
    checked: Checked, fingerprint: Callable[[], str], check_start: Callable[[Path], None]
) -> State:
    """What `etude train` would find, in the order in which it looks.

    Args:
        fingerprint: as for `ended`.
        check_start: raises RequestError if a new run cannot begin in a folder on this machine.
    """
    try:
        folder = folder_of(checked)
        if (found := ended(checked, folder, fingerprint)) is not None:
            return found
        record = Record.read(folder) if is_there(folder / "run.json") else None
    except RequestError as error:
        return refusal(error.problems)
    if is_held(folder):
        held_by = holder(folder / LOCK_FILE)
        who = f"process {held_by.get('pid')} on {held_by.get('host')}" if held_by else None
        return State("held", f"held by {who or 'another process'}", path=folder)
    if record is None:
        try:
            check_start(folder)
        except RequestError as error:
            return refusal(error.problems, folder)
        return State("new", "new", path=folder)
    point = resume_point(record)
    step, stop_at = point.step, checked.run.stop_at_step
    if stop_at is not None and stop_at <= step < record.info.get("total_steps", 0):
        return State("paused", f"paused before, at step {step}", step, folder, record=record)
    said = f"continues from step {step}"
    if point.passed_over:
        said += f" ({point.passed_over[0][0].name} cannot be used)"
    return State("continues", f"{said} ({record.status})", step, folder, record=record)


def outcome_of(checked: Checked, state: State | None) -> Outcome | None:
    """What a request to train comes to where nothing is left to do, which is logged.

    Raises:
        RequestError: the run is refused.
        RunFailed: it had diverged, which it would do again.
    """
    if state is None:
        return None
    if state.kind == "refused":
        raise RequestError(state.problems)
    if state.kind == "diverged":
        raise RunFailed(
            f"diverged before at step {state.step}, and would again: {state.path}"
            " (run.on_existing=again tries all the same)",
            "diverged",
            state.path,
        )
    assert state.record is not None
    start = state.record.info["starts"][-1]
    changed = source_changes(checked, state.record.info["starts"])
    differs = f"the source of {', '.join(changed)} differs now" if changed else "the same source"
    log.info(
        "finished before: %s (trained by commit %s, source %s; %s)",
        state.path,
        start["commit"] or "unknown",
        start["source"],
        differs,
    )
    return Outcome("finished", state.record, reused=True)


def finished_at_once(checked: Checked) -> Outcome | None:
    """The outcome of a run that is known to be finished without building anything of it; None where
    the long way has to be gone.

    It is known if nothing but its name or seed, or where it is recorded, was typed otherwise than
    when it was trained, and if no file of its data has been changed since their content was read.
    """
    try:
        folder = folder_of(checked)
        if checked.loggers or not is_there(folder / "run.json"):
            return None
        record = Record.read(folder)
        if record.status != Status.FINISHED or record.info.get("config") != flat_config(checked):
            return None
    except RequestError:
        return None
    found = fingerprints.remembered(cache_folder(checked), checked.identity["data"])
    if found is None:
        return None
    return outcome_of(checked, ended(checked, folder, lambda: found))
