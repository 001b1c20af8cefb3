"""Selects the checkpoint from which a run continues, and checks its files before they are used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etude.errors import RequestError
from etude.records.integrity import IMMUTABLE_FILES, METRICS, file_fault, manifest_name
from etude.records.manifest import STATE, verify_checkpoint
from etude.records.metrics_file import iter_rows
from etude.records.missing_rows import missing_row
from etude.records.record import Record


@dataclass(frozen=True)
class ResumePoint:
    """Checkpoint and optimizer step from which a run continues.

    Attributes:
        checkpoint: Folder of the checkpoint; None starts from the beginning.
        step: Number of optimizer steps that are already trained.
        passed_over: Later checkpoints that cannot be used, the latest first, as pairs of the folder
            and the reason.
    """

    checkpoint: Path | None
    step: int
    passed_over: tuple[tuple[Path, str], ...] = ()


def resume_point(record: Record) -> ResumePoint:
    """Returns the point from which a run continues: its latest checkpoint that is undamaged and up
    to whose step `metrics.jsonl` is complete. Without such a checkpoint, the point is the beginning
    of the run.

    If rows were lost in a power cut, the run continues from an earlier checkpoint and writes the
    lost rows again.
    """
    passed_over: list[tuple[Path, str]] = []
    for step, folder in reversed(record.checkpoints()):
        why = _unusable(record, step, folder)
        if why is None:
            return ResumePoint(folder, step, tuple(passed_over))
        passed_over.append((folder, why))
    return ResumePoint(None, 0, tuple(passed_over))


def _unusable(record: Record, step: int, folder: Path) -> str | None:
    """Returns the reason why a run cannot continue from the checkpoint in `folder`, as a predicate
    such as "is damaged: ..."; None if the run can continue from it.
    """
    if fault := file_fault(record.info, record.path, manifest_name(folder)):
        return f"has changed since it was saved: {fault.text}"
    try:
        manifest = verify_checkpoint(folder)
    except RequestError as error:
        return f"is damaged: {error}"
    metrics = record.metrics
    stated = manifest.get("metrics")
    if stated is not None:
        if metrics.starts_with(stated):
            return None
        changed = f"the first {stated.get('bytes')} bytes of {metrics.path} have changed"
        return f"cannot be used: {changed}"
    steps = [row["step"] for row in iter_rows(metrics.path) if isinstance(row.get("step"), int)]
    missing = missing_row(record.info, steps, step)
    if missing is None or (missing == step and _validation_due(folder)):
        return None
    return f"cannot be used: the row of step {missing} is missing from {metrics.path}"


def _validation_due(folder: Path) -> bool:
    """Returns whether the checkpoint in `folder` was saved before the validation at its step had
    ended. The row of metrics of this step is then not yet written.
    """
    import torch

    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    callbacks = state.get("callbacks", {}).values()
    return any(isinstance(each, dict) and each.get("validation_due") for each in callbacks)


def check_before_use(record: Record) -> None:
    """Checks that the files of a run have not been modified, before the run is reused or continued.

    Files that are missing from an unfinished run are written again.

    Raises:
        RequestError: A file was modified or, in a finished run, is missing.
    """
    done = record.info.get("status") == "finished"
    files = [name for name in IMMUTABLE_FILES if done or (record.path / name).exists()]
    try:
        record.check(*files, *([METRICS] if done else []))
    except RequestError as error:
        hint = (
            "set run.on_existing=again to train again"
            if done
            else "delete the run with `etude runs rm`"
        )
        raise RequestError(replace(p, hint=f"{p.hint}; {hint}") for p in error.problems) from error
