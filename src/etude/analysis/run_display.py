"""Displays of runs in notebooks: one run with its curve, and a table of several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from etude.counts import counted
from etude.markup.charts import line_chart
from etude.markup.fragments import (
    Html,
    badge,
    code,
    display,
    error,
    fields,
    folded,
    join,
    note,
    table,
    title,
)
from etude.records.config_file import read_config
from etude.records.metrics_file import read_frame
from etude.records.record import Record
from etude.records.record_fields import (
    best_validation,
    field_value,
    latest_metrics,
    monitored_metric,
    order_metrics,
)
from etude.records.status import Status
from etude.records.text_tables import format_cell, format_metric
from etude.records.times import format_duration, format_time

MOST_ROWS = 50
"""Maximum number of runs in a table."""

_MOST_METRICS = 12
_MOST_CHARACTERS = 2000
_MOST_CHECKPOINTS = 12


def run_html(record: Record) -> str:
    """Returns the display of a run as HTML.

    Parts of a damaged record that cannot be read are replaced by the error message.

    Args:
        record: the run's record.
    """
    info = record.info
    name = info.get("name", record.path.parent.name)
    head = title(name, code(record.path.name), _guarded(_status, record))
    parts: list[tuple[str, Callable[[Record], Any]]] = [
        ("overrides", _overrides),
        ("steps", lambda run: f"{run.step:,} of {_number(run.info.get('total_steps'))}"),
        ("parameters", lambda run: _number(run.info.get("parameters"))),
        ("time", _time),
        ("best", _best),
        ("diverged", lambda run: run.info.get("diverged")),
        ("checkpoints", _checkpoints),
        ("tags", lambda run: ", ".join(map(str, run.info.get("tags") or []))),
        ("notes", lambda run: run.info.get("notes")),
        ("folder", lambda run: code(run.path)),
    ]
    shown = [(name, _guarded(part, record)) for name, part in parts]
    return display(
        head,
        _guarded(_failure, record),
        fields((name, value) for name, value in shown if value),
        _guarded(_curve, record),
        _guarded(_metrics, record),
    )


def runs_html(records: Sequence[Record]) -> str:
    """Returns a table of runs as HTML, with at most `MOST_ROWS` rows.

    Args:
        records: the runs' records.
    """
    if not records:
        return display(note("no runs"))
    columns = ("run", "label", "status", "step", "parameters", "duration", "best", "metric")
    shown = records[:MOST_ROWS]
    more = len(records) - len(shown)
    rest = note(f"and {counted(more, 'more run')}; `frame()` returns all") if more else ""
    rows = [_row(record) for record in shown]
    head = title(counted(len(records), "run"))
    return display(head, table(columns, rows, numeric=(3, 4, 5, 6)), rest)


def _row(record: Record) -> list[Any]:
    name = join([str(record.info.get("name", "")), "/", code(record.path.name)])
    cells: list[Callable[[Record], Any]] = [
        lambda run: run.label,
        _status,
        lambda run: f"{run.step:,}",
        lambda run: _number(run.info.get("parameters")),
        lambda run: format_cell("duration", run.info.get("seconds")),
        lambda run: format_cell("best", best_validation(run).get("value")),
        lambda run: best_validation(run).get("metric", ""),
    ]
    return [name, *(_guarded(cell, record) for cell in cells)]


def _guarded(part: Callable[[Record], Any], record: Record) -> Any:
    """Returns a part of a display, or the error message if the record is damaged.

    A notebook shows a traceback if a display raises an exception, and a damaged record can contain
    any value.
    """
    try:
        return part(record)
    except Exception as problem:
        lines = str(problem).splitlines() or [type(problem).__name__]
        return note(f"cannot be read: {lines[0]}")


def _failure(record: Record) -> Html:
    """Returns the error with which a run failed, and its traceback; empty for other runs."""
    message, trace = record.info.get("error"), record.info.get("traceback")
    parts = [error(str(message)[:_MOST_CHARACTERS])] if message else []
    if trace:
        parts.append(folded("traceback", error(str(trace)[-_MOST_CHARACTERS:])))
    return join(parts)


def _status(record: Record) -> Html:
    status = record.status
    known = Status(status) if status in tuple(Status) else None
    tone = ""
    if known is not None:
        tone = "good" if known.is_trained else "bad" if known.is_failure else ""
        tone = "active" if known is Status.RUNNING else tone
    return badge(status, tone)


def _overrides(record: Record) -> Html | str:
    config = read_config(record.path / "config.yaml")
    return join(map(code, config.run.overrides), " ") or "none"


def _time(record: Record) -> str:
    started = format_time(field_value(record, "started"))
    took = format_duration(record.info["seconds"]) if "seconds" in record.info else ""
    return ", ".join(filter(None, [took, started and f"started {started}"]))


def _best(record: Record) -> str:
    best = best_validation(record)
    if not best:
        return ""
    return f"{best['metric']} {format_metric(best['value'])} at step {best['step']:,}"


def _checkpoints(record: Record) -> str:
    steps = [f"{step:,}" for step, _ in record.checkpoints()]
    if len(steps) > _MOST_CHECKPOINTS:
        hidden = len(steps) - _MOST_CHECKPOINTS
        half = _MOST_CHECKPOINTS // 2
        steps = [*steps[:half], f"... {hidden} more ...", *steps[-half:]]
    return ", ".join(steps) or "none"


def _curve(record: Record) -> Html:
    """Returns the curve of the monitored metric or, before the first validation, of the loss."""
    frame = read_frame(record.path / "metrics.jsonl")
    for metric in (monitored_metric(record), "train/loss"):
        if metric in frame and "step" in frame:
            rows = frame[["step", metric]].dropna()
            if len(rows):
                return line_chart(rows["step"].tolist(), rows[metric].tolist(), title=metric)
    return note("no metrics yet")


def _metrics(record: Record) -> Html | str:
    values = latest_metrics(record)
    names = order_metrics(values, monitored_metric(record))
    rows = [(name, format_cell(name, values[name])) for name in names]
    if not rows:
        return ""
    kind = "final metrics" if record.info.get("final") else "latest metrics"
    few = len(rows) <= _MOST_METRICS
    return folded(
        f"{kind} ({len(rows):,})", table(("metric", "value"), rows, numeric=(1,)), is_open=few
    )


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"
