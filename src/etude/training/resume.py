"""The checkpoint that a run goes on from: whole, and with all rows that were written before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etude.errors import RequestError
from etude.records.gaps import missing_row
from etude.records.integrity import METRICS, WRITTEN_ONCE, file_fault, manifest_name
from etude.records.manifest import STATE, verify
from etude.records.metrics import rows
from etude.records.record import Record


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Attributes:
        checkpoint: its folder; None begins anew.
        step: optimizer steps that need not be trained again.
        passed_over: the later checkpoints that cannot be used, the latest first, and why.
    """

    checkpoint: Path | None
    step: int
    passed_over: tuple[tuple[Path, str], ...] = ()


def resume_point(record: Record) -> ResumePoint:
    """The latest checkpoint whose files are as they were written and whose rows are there.

    Rows that a power cut took away are written again, by training again from where they begin.
    """
    passed_over: list[tuple[Path, str]] = []
    for step, folder in reversed(record.checkpoints()):
        why = _unusable(record, step, folder)
        if why is None:
            return ResumePoint(folder, step, tuple(passed_over))
        passed_over.append((folder, why))
    return ResumePoint(None, 0, tuple(passed_over))


def _unusable(record: Record, step: int, folder: Path) -> str | None:
    """Why a run cannot go on from a checkpoint; None if it can."""
    if fault := file_fault(record.info, record.path, manifest_name(folder)):
        return f"is another than was saved: {fault.text}"
    try:
        manifest = verify(folder)
    except RequestError as error:
        return f"is damaged: {error}"
    metrics = record.metrics
    stated = manifest.get("metrics")
    if stated is not None:
        if metrics.begins_with(stated):
            return None
        return f"was saved after {stated.get('bytes')} bytes of {metrics.path}, which differ now"
    steps = [row["step"] for row in rows(metrics.path) if isinstance(row.get("step"), int)]
    missing = missing_row(record.info, steps, step)
    if missing is None or (missing == step and _validation_due(folder)):
        return None
    return f"was saved after the row of step {missing}, which {metrics.path} does not have"


def _validation_due(folder: Path) -> bool:
    """Whether a checkpoint was saved before its step's validation, and so before its row."""
    import torch

    state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    callbacks = state.get("callbacks", {}).values()
    return any(isinstance(each, dict) and each.get("validation_due") for each in callbacks)


def check_before_use(record: Record) -> None:
    """Refuses a record that was changed, before it is reused or goes on.

    Files that are missing from a run that has not ended are written again.

    Raises:
        RequestError: names what was changed, and what can be done.
    """
    done = record.info.get("status") == "finished"
    there = [name for name in WRITTEN_ONCE if done or (record.path / name).exists()]
    try:
        record.check(*there, *([METRICS] if done else []))
    except RequestError as error:
        hint = "run.on_existing=again trains anew" if done else "etude runs rm removes the run"
        raise RequestError(replace(p, hint=f"{p.hint}; {hint}") for p in error.problems) from error
