"""Values of a saved run by key: fields of `run.json`, metrics, and config values.

Examples of keys are `status`, `val/loss`, `optimizer.lr` and `model.position` (or `model/position`,
the chosen file). Lists, filters, comparisons and notebooks use the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etude.config.flattening import TARGET
from etude.errors import Problem, RequestError, nearest
from etude.records.record import Record

MISSING: Any = object()


class ClassName(str):
    """Class name of a component of the config, such as `Rotary` for the key `model.position`.

    It is the key's value if the run does not record which config file was chosen. In filters and
    comparisons, it is equal to the name of a config file, such as `rotary`, if they differ only in
    case and underscores.
    """

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
    "duration": lambda record: record.info.get("seconds"),
    "best": lambda record: best_validation(record).get("value"),
    "best/step": lambda record: best_validation(record).get("step"),
    "started": lambda record: record.first_start.get("time"),
    "finished": lambda record: record.info.get("finished"),
    "host": lambda record: record.last_start.get("host"),
    "commit": lambda record: record.last_start.get("commit"),
    "source": lambda record: record.last_start.get("source"),
    "tags": lambda record: record.info.get("tags"),
    "tag": lambda record: record.info.get("tags"),
    "notes": lambda record: record.info.get("notes"),
    "error": lambda record: record.info.get("error"),
}
"""Functions that return a field of a run, by key; None if the run has no value (yet)."""

_ROW_FIELDS = ("step", "tokens", "time")


def best_validation(record: Record) -> dict[str, Any]:
    """Returns a dictionary that describes the best validation of a run.

    The keys are `metric` (name of the monitored metric), `value` (its best value) and `step` (the
    optimizer step).

    The dictionary is empty before the first validation.
    """
    info = record.info.get("best")
    return info if isinstance(info, dict) else {}


def monitored_metric(record: Record) -> str:
    """Returns the name of the metric that selects the best checkpoint."""
    metric = best_validation(record).get("metric")
    if metric is None and isinstance(config := record.info.get("config"), dict):
        metric = config.get("task.monitor")
    return str(metric or "val/loss")


def order_metrics(keys: Iterable[str], monitor: str) -> list[str]:
    """Returns the keys of a row of metrics in the order in which they are shown.

    The order is: step, tokens, training loss, monitored metric, other validation metrics, other
    metrics, learning rate, speed, time. Keys of the same group keep their order.

    Args:
        keys: the keys of a row, such as `step` and `val/loss`.
        monitor: the monitored metric, which selects the best checkpoint.
    """
    first = ("step", "tokens", "train/loss", monitor)
    last = ("lr", "perf/", "time")

    def rank(key: str) -> int:
        if key in first:
            return first.index(key)
        if key.startswith("val/"):
            return len(first)
        return len(first) + next((i for i, each in enumerate(last, 2) if key.startswith(each)), 1)

    return sorted(keys, key=rank)


_CLASS_SCORES = ("precision", "recall", "f1")


def positive_class_note(config: Mapping[str, Any], metrics: Iterable[str]) -> str | None:
    """Returns a sentence that names the class to which precision, recall and F1 refer.

    Args:
        config: values of the run's config by key path.
        metrics: names of the metrics that are shown.

    Returns:
        The sentence; None if the task has no positive class, or if no metric that refers to this
        class is shown.
    """
    positive = config.get("task.positive")
    names = {name.removeprefix("val/") for name in metrics}
    shown = [name for name in _CLASS_SCORES if name in names]
    if positive is None or not shown:
        return None
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)
    return f"{listed} {'are those' if shown[1:] else 'is that'} of the class {positive!r}"


def field_value(record: Record, key: str) -> Any:
    """Returns a run's value of a key such as `val/loss`; `MISSING` if the run lacks the key.

    For a metric, this is the latest value; `best/val/loss` is the best value of the monitored
    metric. A field that has no value in this run is None.
    """
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
        if key == f"best/{best_validation(record).get('metric')}":
            return best_validation(record).get("value")
        return record.latest.get(key, MISSING)
    return MISSING


def config_values(record: Record) -> dict[str, Any]:
    """Returns a dictionary from the key paths of a run's config to their values.

    The value of a key that names a class, such as `model.position`, is the name of the chosen
    config file or, if no file was chosen, the name of the class.
    """
    values: dict[str, Any] = {}
    for path, value in record.config.items():
        node, _, last = path.rpartition(".")
        if last != TARGET:
            values[path] = value
        elif node:
            values[node] = field_value(record, node)
    return values


def latest_metrics(record: Record) -> dict[str, Any]:
    """Returns a dictionary from each metric of a run to its latest value.

    Step, tokens and time are not included.
    """
    return {key: value for key, value in record.latest.items() if key not in _ROW_FIELDS}


def available_keys(record: Record) -> Iterator[str]:
    """Yields every key of which a run has a value that `field_value` returns."""
    yield from FIELDS
    yield from config_values(record)
    yield from record.info.get("choices", {})
    yield from latest_metrics(record)
    if metric := best_validation(record).get("metric"):
        yield f"best/{metric}"


def complete_keys(
    keys: Sequence[str], records: Iterable[Record], where: str = "condition"
) -> list[str]:
    """Returns the complete key for each key, which may be only the end of a config key.

    A key of a config or a record, and a key that no config key ends with, is returned unchanged.

    Args:
        keys: the keys, such as `lr` for `optimizer.lr`.
        records: the runs.
        where: name of the argument with the keys, for messages.

    Raises:
        RequestError: several keys end with one of the keys.
    """
    configs = {key for record in records for key in config_values(record)}
    known = {*FIELDS, *configs}
    problems, complete = [], []
    for key in keys:
        ends = sorted(each for each in configs if each.endswith(f".{key}"))
        if key not in known and len(ends) > 1:
            hint = f"choose from: {', '.join(ends)}"
            problems.append(Problem(where, "one key of the runs", key, hint))
        complete.append(key if key in known or not ends else ends[0])
    if problems:
        raise RequestError(problems)
    return complete


def check_keys_exist(requested: Iterable[tuple[str, str]], records: Iterable[Record]) -> None:
    """Checks that each key exists in at least one run.

    Args:
        requested: pairs of a key and the command's argument that contains the key.
        records: all runs that were searched; iterated only if needed.

    Raises:
        RequestError: a key is unknown; the message suggests the nearest existing key.
    """
    unknown = {key: where for key, where in requested if key not in FIELDS}
    if not unknown:
        return
    choices: set[str] = set()
    for record in records:
        try:
            present = [key for key in unknown if field_value(record, key) is not MISSING]
            for key in present:
                del unknown[key]
            if not unknown:
                return
            choices.update(available_keys(record))
        except RequestError:  # a damaged file, already reported
            continue
    if choices:  # without runs, no key can exist
        raise RequestError(
            Problem(where, "a key of at least one run", key, nearest(key, choices - {key}))
            for key, where in unknown.items()
        )
