"""State of a run, determined from its config and the files in its folder.

Used by `train`, `plan`, sweeps and papers. Heavy libraries are not imported, so that a finished run
is recognised quickly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from etude.config.checks import CheckedConfig
from etude.config.flattening import flatten_config
from etude.config.schema import OUT_OF_SIGNATURE
from etude.errors import Problem, RequestError, RunFailed
from etude.records import fingerprints
from etude.records.lock import LOCK_FILE, is_held, read_holder
from etude.records.opening import path_exists
from etude.records.record import FINAL_STATUSES, Record, run_folder
from etude.records.signature import signature
from etude.records.status import Status
from etude.training.resume import check_before_use, resume_point
from etude.training.run_folder import cache_folder, current_folder
from etude.training.start_reports import source_changes

log = logging.getLogger("etude")

Kind = Literal["new", "done", "diverged", "paused", "continues", "held", "refused"]
"""`new`: would start; `continues`: would continue from a step; `paused`: has reached
`run.stop_at_step`; `done`: would be reused; `diverged`: would diverge again; `held`: another
process trains it; `refused`: cannot be trained."""

_WHOLE = ("run", "vars")
"""Config groups outside the signature that `request_key` does not include as a whole."""
_NOTES = ("overrides", "choices", "tags", "notes")
"""Keys under `run` that don't affect how the run is trained."""


@dataclass(frozen=True)
class RunState:
    """State of a run: whether it would start, continue or be reused, or cannot be trained.

    Attributes:
        kind: `new` (would start), `continues` (from `step`), `done` (is finished and would be
            reused), `paused` (has reached `run.stop_at_step`), `diverged` (would diverge again),
            `held` (another process trains it) or `refused` (cannot be trained).
        description: Description of the state, for the user.
        step: Number of optimizer steps that are already trained.
        path: The run's folder, which may not exist; None if it could not be determined.
        problems: Reasons why the run cannot be trained; empty unless `kind` is `refused`.
        record: The run's folder as a `Record`; None if `kind` is `new`, `held` or `refused`.
    """

    kind: Kind
    description: str
    step: int = 0
    path: Path | None = None
    problems: tuple[Problem, ...] = ()
    record: Record | None = None

    @property
    def works(self) -> bool:
        """Whether requesting the run now would train it."""
        return self.kind in ("new", "continues")


@dataclass
class Outcome:
    """Result of a request to train.

    Attributes:
        status: `finished` or `paused`.
        record: The run's folder as a `Record`.
        reused: Whether nothing was trained because the run was already finished or paused.
    """

    status: str
    record: Record
    reused: bool = False

    @property
    def job_status(self) -> Status:
        """Status of the job that requested the run."""
        return Status.REUSED if self.reused else Status(self.status)


def refusal(problems: list[Problem], path: Path | None = None) -> RunState:
    """Returns the state of a run that cannot be trained because of `problems`. Its description
    lists them.

    Args:
        problems: Reasons why the run cannot be trained.
        path: The run's folder; None if it could not be determined.
    """
    description = "refused: " + "; ".join(map(str, problems))
    return RunState("refused", description, path=path, problems=tuple(problems))


def run_folder_of(checked: CheckedConfig) -> Path:
    """Returns the folder of the run that a request to train would use, which may not exist: that of
    the config's latest run, or a new one; see `etude.training.run_folder.current_folder`.

    Raises:
        RequestError: The folder exists and is not the folder of a run.
    """
    return current_folder(_base_of(checked), checked)


def request_key(checked: CheckedConfig) -> tuple[Path, str]:
    """Returns a key that is equal for two equal requests to train.

    The key consists of the run's folder and a JSON text. The folder depends on the settings in the
    run's signature (a hash of the config). The text contains the other settings that affect how the
    run is trained.
    """
    run = {key: value for key, value in checked.shown["run"].items() if key not in _NOTES}
    others = [_value_at(checked.shown, key) for key in OUT_OF_SIGNATURE if key not in _WHOLE]
    return _base_of(checked), json.dumps([run, others], sort_keys=True, default=str)


def _value_at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _base_of(checked: CheckedConfig) -> Path:
    """Returns the folder of the first run of a config, without the suffix `~2` of a repetition."""
    return run_folder(Path(checked.run.root), checked.name, signature(checked.identity))


def ended(checked: CheckedConfig, folder: Path, fingerprint: Callable[[], str]) -> RunState | None:
    """Returns the state of a run that is finished, has diverged or cannot be trained: its `kind` is
    `done`, `diverged` or `refused`. Returns None if there are steps left to train, also if the run
    is paused or held, or if the folder contains no `run.json`.

    Args:
        checked: Checked config of the run.
        folder: The run's folder.
        fingerprint: Function that returns the fingerprint of the current data; called only if the
            run's folder contains a `run.json`.

    Raises:
        RequestError: The data cannot be used.
    """
    if not path_exists(folder / "run.json"):
        return None
    record = Record.read(folder)
    if checked.run.on_existing == "error":
        expected = "a config that has no run yet"
        hint = f"existing run: {folder}, {record.status}"
        return refusal([Problem("run.on_existing", expected, "error", hint)], folder)
    try:
        check_before_use(record)
    except RequestError as error:
        return refusal(error.problems, folder)
    trained_on, current = record.info.get("data", {}).get("fingerprint"), fingerprint()
    if trained_on != current:
        expected = (
            f"the fingerprint of the data that the run in {folder} was trained on, {trained_on}"
        )
        over = record.status in FINAL_STATUSES
        way_out = (
            "set run.on_existing=again to train again"
            if over
            else "delete the run with `etude runs rm`"
        )
        hint = f"the corpus or the tokenizer has changed; {way_out}"
        return refusal([Problem("data", expected, current, hint)], folder)
    if record.status == Status.FINISHED:
        return RunState("done", "done", record.info.get("step", 0), folder, record=record)
    if record.status == Status.DIVERGED:
        step = record.info.get("diverged", {}).get("step", 0)
        return RunState("diverged", f"already diverged at step {step}", step, folder, record=record)
    return None


def determine_state(
    checked: CheckedConfig, fingerprint: Callable[[], str], check_start: Callable[[Path], None]
) -> RunState:
    """Returns the state of a run, with the same checks in the same order as `etude train`.

    Args:
        checked: Checked config of the run.
        fingerprint: Function that returns the fingerprint of the current data; see `ended`.
        check_start: Function that raises RequestError if a new run cannot start in the given folder
            on this machine.
    """
    try:
        folder = run_folder_of(checked)
        if (state := ended(checked, folder, fingerprint)) is not None:
            return state
        record = Record.read(folder) if path_exists(folder / "run.json") else None
    except RequestError as error:
        return refusal(error.problems)
    if is_held(folder):
        held_by = read_holder(folder / LOCK_FILE)
        process = f"process {held_by.get('pid')} on {held_by.get('host')}" if held_by else None
        return RunState("held", f"locked by {process or 'another process'}", path=folder)
    if record is None:
        try:
            check_start(folder)
        except RequestError as error:
            return refusal(error.problems, folder)
        return RunState("new", "new", path=folder)
    point = resume_point(record)
    step, stop_at = point.step, checked.run.stop_at_step
    if stop_at is not None and stop_at <= step < record.info.get("total_steps", 0):
        return RunState("paused", f"already paused at step {step}", step, folder, record=record)
    description = f"continues from step {step}"
    if point.passed_over:
        description += f" (checkpoint {point.passed_over[0][0].name} cannot be used)"
    return RunState("continues", f"{description} ({record.status})", step, folder, record=record)


def outcome_of(checked: CheckedConfig, state: RunState | None) -> Outcome | None:
    """Returns the outcome of a request to train a run that is already finished, and logs it.
    Returns None if `state`, the result of `ended`, is None: then there are steps to train.

    Args:
        checked: Checked config of the run.
        state: State of the run, with the kind `done`, `diverged` or `refused`; or None.

    Raises:
        RequestError: The run cannot be trained.
        RunFailed: The run diverged in an earlier start and would diverge again.
    """
    if state is None:
        return None
    if state.kind == "refused":
        raise RequestError(state.problems)
    if state.kind == "diverged":
        raise RunFailed(
            f"already diverged at step {state.step}, and would diverge again: {state.path}"
            " (set run.on_existing=again to train it again)",
            "diverged",
            state.path,
        )
    assert state.record is not None
    start = state.record.info["starts"][-1]
    changed = source_changes(checked, state.record.info["starts"])
    names = ", ".join(changed)
    differs = "unchanged source code"
    if changed:
        differs = f"the source code of {names} has changed; to train again with it, set "
        differs += "run.on_existing=again"
    log.info(
        "already finished: %s (commit %s, source hash %s; %s)",
        state.path,
        start["commit"] or "unknown",
        start["source"],
        differs,
    )
    _report_ignored_labels(checked, state.record)
    return Outcome("finished", state.record, reused=True)


def _report_ignored_labels(checked: CheckedConfig, record: Record) -> None:
    """Reports tags and notes that a finished run does not get."""
    shown = checked.shown["run"]
    for key, value in (("tags", list(shown["tags"])), ("notes", shown["notes"])):
        if value and value != record.info.get(key):
            log.warning("run.%s=%s is ignored: a finished run keeps its %s", key, value, key)


def reuse_finished(checked: CheckedConfig) -> Outcome | None:
    """Returns the outcome of a finished run without building its data, model or optimizer.

    Returns None if the run is not finished. Also returns None if the full checks are needed,
    because the config sets loggers or differs from the saved config, or a file of the data has
    changed since the data's fingerprint was cached.

    Raises:
        RequestError: The run cannot be reused, for example because one of its files was modified.
    """
    try:
        folder = run_folder_of(checked)
        if checked.loggers or not path_exists(folder / "run.json"):
            return None
        record = Record.read(folder)
        if record.status != Status.FINISHED or record.info.get("config") != flatten_config(checked):
            return None
    except RequestError:
        return None
    cached = fingerprints.cached_fingerprint(cache_folder(checked), checked.identity["data"])
    if cached is None:
        return None
    return outcome_of(checked, ended(checked, folder, lambda: cached))
