"""What can be asked of a run by one key: a field of its record, a metric, a key of its config.

`status`, `val/loss`, `optimizer.lr`, `model.position` (or `model/position`, the file chosen) are
all keys; lists, filters, comparisons and notebooks share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etude.config.flat import TARGET
from etude.errors import Problem, RequestError, nearest
from etude.records.record import Record

MISSING: Any = object()


class ClassName(str):
    """The class of a part whose file is not known; `rotary` and `Rotary` mean the same then."""

    __slots__ = ()


FIELDS: dict[str, Callable[[Record], Any]] = {
    "run": lambda record: f"{record.path.parent.name}/{record.path.name}",
    "path": lambda record: str(record.path),
    "name": lambda record: record.info.get("name"),
    "signature": lambda record: record.path.name,
    "group": lambda record: record.info.get("group"),
    "label": lambda record: record.label,
    "status": lambda record: record.status,
    "seed": lambda record: record.info.get("seed"),
    "parameters": lambda record: record.info.get("parameters"),
    "step": lambda record: record.step,
    "total_steps": lambda record: record.info.get("total_steps"),
    "tokens": lambda record: record.info.get("tokens"),
    "seconds": lambda record: record.info.get("seconds"),
    "best": lambda record: best(record).get("value"),
    "best/step": lambda record: best(record).get("step"),
    "started": lambda record: (record.info.get("starts") or [{}])[0].get("time"),
    "finished": lambda record: record.info.get("finished"),
    "host": lambda record: record.last_start.get("host"),
    "commit": lambda record: record.last_start.get("commit"),
    "source": lambda record: record.last_start.get("source"),
    "tags": lambda record: record.info.get("tags"),
    "tag": lambda record: record.info.get("tags"),
    "notes": lambda record: record.info.get("notes"),
    "error": lambda record: record.info.get("error"),
}
"""Of the record itself, whatever was trained; None where a run has no such value (yet)."""

_OF_A_ROW = ("step", "tokens", "time")


def best(record: Record) -> dict[str, Any]:
    """`metric`, `value` and `step` of the best validation; empty before the first."""
    found = record.info.get("best")
    return found if isinstance(found, dict) else {}


def fact(record: Record, key: str) -> Any:
    """The value of `key`; `MISSING` where the run has no such key."""
    field = FIELDS.get(key)
    if field is not None:
        return field(record)
    dotted = key.replace("/", ".")
    config = record.config
    if dotted in config:
        return config[dotted]
    choices = record.info.get("choices", {})
    group = dotted.replace(".", "/")
    if group in choices:
        return choices[group]
    target = config.get(f"{dotted}.{TARGET}")
    if isinstance(target, str):
        return ClassName(target.rpartition(".")[2])
    if "/" in key:
        if key == f"best/{best(record).get('metric')}":
            return best(record).get("value")
        return record.latest.get(key, MISSING)
    return MISSING


def config_facts(record: Record) -> dict[str, Any]:
    """The config alone: chosen files (or classes) by their dotted group, and all values."""
    values: dict[str, Any] = {}
    for path, value in record.config.items():
        node, _, last = path.rpartition(".")
        if last != TARGET:
            values[path] = value
        elif node:
            values[node] = fact(record, node)
    return values


def metric_facts(record: Record) -> dict[str, Any]:
    """The latest value of each metric, without the step's own facts."""
    return {key: value for key, value in record.latest.items() if key not in _OF_A_ROW}


def keys(record: Record) -> Iterator[str]:
    """Every key that `fact` answers for this run."""
    yield from FIELDS
    yield from config_facts(record)
    yield from record.info.get("choices", {})
    yield from metric_facts(record)
    if metric := best(record).get("metric"):
        yield f"best/{metric}"


def must_exist(asked: Iterable[tuple[str, str]], records: Iterable[Record]) -> None:
    """Refuses keys that no run has.

    Args:
        asked: the key, and what was typed around it.
        records: of all runs that were looked at; not iterated without need.

    Raises:
        RequestError: for each such key, with the nearest that exists.
    """
    left = {key: where for key, where in asked if key not in FIELDS}
    if not left:
        return
    choices: set[str] = set()
    for record in records:
        try:
            found = [key for key in left if fact(record, key) is not MISSING]
            for key in found:
                del left[key]
            if not left:
                return
            choices.update(keys(record))
        except RequestError:  # one of its files is damaged, which was reported
            continue
    if choices:  # else there is no run to have a key
        raise RequestError(
            Problem(where, "a key that some run has", key, nearest(key, choices))
            for key, where in left.items()
        )
