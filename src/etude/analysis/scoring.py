"""A run scored on its own data or on other files, and what of that the record keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.analysis import stored
from etude.analysis.evaluation import Evaluation, draw, evaluate_rows, per_class
from etude.analysis.windows import Windows
from etude.analysis.written import Beams, search_of
from etude.data.delimited import Quoting
from etude.data.examples.base import ExampleData
from etude.data.examples.source import Row
from etude.data.examples.tables import TableData
from etude.errors import Problem, RequestError
from etude.records import provenance
from etude.records.files import write_text
from etude.records.opening import EVALUATIONS_LOG, PREDICTIONS, appended, folder_in, read_bytes
from etude.records.signature import sha256_of
from etude.training.place import must_be_ours


def scored(
    run: Any,
    split: str,
    *,
    which: str = "best",
    files: list[str] | None = None,
    by: str | None = None,
    quoting: Quoting | None = None,
    beams: int | None = None,
    length_penalty: float | None = None,
    sequence_length: int | None = None,
    stride: int | None = None,
) -> dict[str, Any]:
    """What `etude evaluate` shows of one run (an `etude.api.Run`).

    The metrics are kept in `evaluations/`, with a line in `evaluations/log.jsonl` for each time
    that somebody looked, and predictions in `predictions/`.

    Args:
        quoting: of CSV and TSV among `files`; None is as the run's data.
        beams, length_penalty: of a search for targets; see `search_of`.
        sequence_length, stride: of running text; see `Windows`.

    Raises:
        RequestError: the data is gone, is not what the run was trained on, or lacks what is asked.
    """
    must_be_ours(run.path)
    data = run.data()
    if quoting is not None:
        if files is None or not isinstance(data, TableData):
            raise RequestError(Problem("--quoting", "--data with files of rows beside it", quoting))
        data.quoting = quoting
    checkpoint = run.record.chosen(which)
    task = run.checked.nodes["task"].constructor
    searched = search_of(task, beams, length_penalty)
    windows = Windows(sequence_length, stride)
    windows.check(task, data)
    on = split if files is None else ",".join(files)
    read = split if files is None else [*files, *([f"--{quoting}"] if quoting else [])]
    name = name_of(read, checkpoint.name, searched, windows)
    told: dict[str, Any] = {"run": str(run.path), "on": on, "checkpoint": checkpoint.name}
    made: list[Path] = []
    predictions: Path | None = None
    if not isinstance(data, ExampleData):
        _refuse_for_text(files, by)
        told["windows"] = windows.given  # older versions did not state them
        metrics = run.evaluate(split, sequence_length=sequence_length, stride=stride, which=which)
        told["metrics"] = metrics
    else:
        found = _on_rows(run, data, split, which, files, by, searched)
        told |= {"metrics": found.metrics, "by": by, "slices": found.slices}
        told |= {"rows": len(found.predictions), "rows_without_text": found.without_text}
        if found.counts is not None:
            told["classes"] = per_class(found)
            if found.spans:
                told["spans"] = found.spans
            told["confusion"] = {"labels": found.labels, "counts": found.counts.tolist()}
        predictions = folder_in(run.path, stored.PREDICTIONS) / f"{name}.jsonl"
        lines = (json.dumps(each, ensure_ascii=False) for each in found.predictions)
        write_text(predictions, "".join(f"{line}\n" for line in lines), PREDICTIONS)
        made += [predictions, *draw(found, folder_in(run.path, "figures"), name)]
    folder = folder_in(run.path, stored.EVALUATIONS)
    file = folder / f"{name}.json"
    stored.write(file, told, checkpoint.folders, predictions)
    line = {"time": provenance.now(), "on": on, "checkpoint": checkpoint.name, **windows.given}
    said = json.dumps({**line, "metrics": told["metrics"]}, ensure_ascii=False)
    with appended(folder / stored.LOG, EVALUATIONS_LOG) as log:
        log.write(f"{said}\n".encode())
    return {**told, "files": [str(path) for path in (file, *made)]}


def kept(run: Any, split: str, how: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The metrics that the record keeps of an evaluation; None if it has to be made.

    Args:
        how: `which`, and what `Beams` and `Windows` take.

    Raises:
        RequestError: what is kept was changed since.
    """
    asked = dict(how)
    checkpoint = run.record.chosen(asked.pop("which", "best"))
    windows = Windows(asked.pop("sequence_length", None), asked.pop("stride", None))
    name = name_of(split, checkpoint.name, Beams(**asked), windows)
    content = stored.read(run.path / stored.EVALUATIONS / f"{name}.json", checkpoint.folders)
    if content is None:
        return None
    of_rows = "by" in content
    if not of_rows and content.get("windows") != windows.given:
        return None  # of an older version, which gave windows of any length this name
    metrics: Mapping[str, float] = content["metrics"]
    return metrics


def example_scores(run: Any, split: str, which: str) -> list[float]:
    """The score of each row of a split, in their order; kept in the record once computed."""
    checkpoint = run.record.chosen(which)
    name = name_of(split, checkpoint.name, Beams())
    file = run.path / stored.PREDICTIONS / f"{name}.jsonl"
    about = run.path / stored.EVALUATIONS / f"{name}.json"
    if stored.read(about, checkpoint.folders, file) is None:
        scored(run, split, which=which)
    try:
        lines = read_bytes(file, PREDICTIONS).decode().splitlines()
        found = [(each["row"], float(each["score"])) for each in map(json.loads, lines)]
    except (ValueError, KeyError, TypeError) as error:
        hint = f"remove it and it is made again; {error}"
        problem = Problem(str(file), "a score for each row", hint=hint)
        raise RequestError(problem) from error
    return [score for _, score in sorted(found)]


def _on_rows(
    run: Any,
    data: ExampleData,
    split: str,
    which: str,
    files: list[str] | None,
    by: str | None,
    beams: Beams,
) -> Evaluation:
    task = run.checked.nodes["task"]
    rows = rows_of(run, data, split, files, by)
    labels = run.summary.get("data", {}).get("labels", [])
    return evaluate_rows(
        task.constructor, task.arguments, data, rows, run.model(which), labels, beams=beams, by=by
    )


def rows_of(
    run: Any, data: ExampleData, split: str, files: list[str] | None, by: str | None = None
) -> list[Row]:
    """The rows of a split that the run's data keeps, or all of other files.

    Args:
        by: a column that they have besides those of the run.

    Raises:
        RequestError: there are none, or the data is not what the run was trained on.
    """
    if files is not None:
        if not hasattr(data, "from_files"):
            expected = f"no files: {type(data).__name__} has none of its own"
            raise RequestError(Problem("--data", expected, files))
        if by is not None and hasattr(data, "also"):
            data.also = [by]
        return list(data.from_files(files))
    run.prepare(data)
    if by is not None and hasattr(data, "with_column"):
        data.with_column(split, by)
    kept = set(data.rows_of(split).tolist())  # type: ignore[arg-type]
    if not kept:
        empty = data.meta.splits[split].empty if split in data.meta.splits else 0
        hint = f"its {empty:,} rows have no text" if empty else None
        raise RequestError(Problem("--split", "a split that the run's data has", split, hint))
    return [row for number, row in enumerate(data.rows(split)) if number in kept]  # type: ignore[arg-type]


def _refuse_for_text(files: list[str] | None, by: str | None) -> None:
    problems = []
    if files is not None:
        problems.append(Problem("--data", "none: of a language model its own splits", files))
    if by is not None:
        problems.append(Problem("--by", "none: running text has no columns", by))
    if problems:
        raise RequestError(problems)


def name_of(
    on: str | Sequence[str],
    checkpoint: str,
    beams: Beams,
    windows: Windows | None = None,
) -> str:
    """What the files of an evaluation are called: by the split, or the files' name and where they
    lie; by the checkpoint; and by how targets were searched for, or text was cut, if not as usual.
    """
    if isinstance(on, str):
        first = on
    else:
        whole = sha256_of([str(Path(file).resolve()) for file in on])
        plain = re.sub(r"[^\w.-]+", "_", Path(on[0]).name)
        first = f"{plain.encode()[:60].decode(errors='ignore')}-{whole[:8]}"
    usual = Beams()
    search = "" if beams == usual else f"-beams{beams.beams}-penalty{beams.length_penalty:g}"
    given = {} if windows is None else windows.given
    cut = "".join(f"-{key}{value}" for key, value in given.items())
    return f"{first}-{checkpoint}{search}{cut.replace('_', '-')}"
