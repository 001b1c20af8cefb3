"""A run scored on its own data or on other files, and what of that the record keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.analysis import stored
from etude.analysis.evaluation import (
    draw,
    groups_of,
    per_class,
    report_rows_without_text,
    slices,
)
from etude.data.delimited import Quoting
from etude.data.evaluated import Evaluated, Request
from etude.errors import Problem, RequestError
from etude.records import provenance
from etude.records.files import write_text
from etude.records.opening import EVALUATIONS_LOG, PREDICTIONS, appended, folder_in, read_bytes
from etude.records.signature import sha256_of
from etude.tasks.options import EvaluationOptions
from etude.training.place import must_be_ours


def scored(
    run: Any,
    split: str,
    *,
    which: str = "best",
    files: list[str] | None = None,
    by: str | None = None,
    quoting: Quoting | None = None,
    **how: Any,
) -> dict[str, Any]:
    """What `etude evaluate` shows of one run (an `etude.api.Run`).

    The metrics are kept in `evaluations/`, with a line in `evaluations/log.jsonl` for each time
    that somebody looked, and predictions in `predictions/`.

    Args:
        quoting: of CSV and TSV among `files`; None is as the run's data.
        how: the task's options (`etude.tasks.options`); None is as usual.

    Raises:
        RequestError: the data is gone, is not what the run was trained on, or lacks what is asked.
    """
    must_be_ours(run.path)
    data = run.data()
    options = options_of(run, data, how)
    asked = Request(split, files, by, quoting)
    return write_evaluation(run, run.evaluated(data, asked), asked, options, which)


def write_evaluation(
    run: Any, evaluated: Evaluated, asked: Request, options: EvaluationOptions, which: str
) -> dict[str, Any]:
    """Evaluates what has been read, keeps the result in the record, and returns it; see `scored`.

    Args:
        evaluated: what `asked` asks for.
        which: the checkpoint.
    """
    must_be_ours(run.path)
    files, by, checkpoint = asked.files, asked.by, run.record.chosen(which)
    on = asked.split if files is None else ",".join(files)
    quoting = [f"--{asked.quoting}"] if asked.quoting else []
    read = asked.split if files is None else [*files, *quoting]
    name = name_of(read, checkpoint.name, options)
    told: dict[str, Any] = {"run": str(run.path), "on": on, "checkpoint": checkpoint.name}
    groups = groups_of(evaluated, by)
    without = report_rows_without_text(evaluated)
    found = run.task(which).evaluate(evaluated, options)
    made: list[Path] = []
    predictions: Path | None = None
    told["metrics"] = found.metrics
    if options.told is not None:
        told["windows"] = options.told  # older versions did not state them
    if evaluated.rows:
        told |= {"by": by, "slices": slices(found, groups)}
        told |= {"rows": len(found.predictions), "rows_without_text": without}
        if found.counts is not None:
            told["classes"] = per_class(found)
            if found.spans:
                told["spans"] = found.spans
            told["confusion"] = {"labels": found.labels, "counts": found.counts.tolist()}
        for each in found.predictions:
            each["where"] = evaluated.rows[each["row"]].where
        predictions = folder_in(run.path, stored.PREDICTIONS) / f"{name}.jsonl"
        lines = (json.dumps(each, ensure_ascii=False) for each in found.predictions)
        write_text(predictions, "".join(f"{line}\n" for line in lines), PREDICTIONS)
        made += [predictions, *draw(found, folder_in(run.path, "figures"), name)]
    folder = folder_in(run.path, stored.EVALUATIONS)
    file = folder / f"{name}.json"
    stored.write(file, told, checkpoint.folders, predictions)
    line = {"time": provenance.now(), "on": on, "checkpoint": checkpoint.name}
    line |= options.told or {}
    said = json.dumps({**line, "metrics": told["metrics"]}, ensure_ascii=False)
    with appended(folder / stored.LOG, EVALUATIONS_LOG) as log:
        log.write(f"{said}\n".encode())
    return {**told, "files": [str(path) for path in (file, *made)]}


def options_of(run: Any, data: Any, how: Mapping[str, Any]) -> EvaluationOptions:
    """How a run is evaluated.

    Args:
        data: the run's.
        how: by name; None is as usual.

    Raises:
        RequestError: the run's task has no such option, or not with this value.
    """
    kind: Any = run.checked.nodes["task"].constructor
    options: EvaluationOptions = kind.evaluation_options(data, **how)
    return options


def kept(run: Any, split: str, how: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The metrics that the record keeps of an evaluation; None if it has to be made.

    Args:
        how: `which`, and the task's options.

    Raises:
        RequestError: what is kept was changed since.
    """
    asked = dict(how)
    checkpoint = run.record.chosen(asked.pop("which", "best"))
    options = options_of(run, run.data(), asked)
    file = run.path / stored.EVALUATIONS / f"{name_of(split, checkpoint.name, options)}.json"
    content = stored.read(file, checkpoint.folders)
    if content is None:
        return None
    if options.told is not None and content.get("windows") != options.told:
        return None  # of an older version, which gave windows of any length this name
    metrics: Mapping[str, float] = content["metrics"]
    return metrics


def example_scores(run: Any, split: str, which: str) -> list[float]:
    """The score of each example of a split, in their order; kept in the record once computed.

    Rows are kept in `predictions/<name>.jsonl`, with what was said of each; the scores alone in
    `predictions/<name>.json`, where the task says them of something else.
    """
    data, checkpoint = run.data(), run.record.chosen(which)
    options = options_of(run, data, {})
    name = name_of(split, checkpoint.name, options)
    rows = run.path / stored.PREDICTIONS / f"{name}.jsonl"
    about = run.path / stored.EVALUATIONS / f"{name}.json"
    kind: Any = run.checked.nodes["task"].constructor
    of_rows = not kind.says_scores()
    if of_rows and stored.read(about, checkpoint.folders, rows) is not None:
        return _of_rows(rows)
    file = run.path / stored.PREDICTIONS / f"{name}.json"
    if (content := stored.read(file, checkpoint.folders)) is not None:
        found = content.get("loss")
        if not isinstance(found, list):
            raise RequestError(Problem(str(file), "a list of losses", found, "remove it"))
        return found
    asked = Request(split)
    evaluated = run.evaluated(data, asked)
    if of_rows and evaluated.rows:
        write_evaluation(run, evaluated, asked, options, which)
        return _of_rows(rows)
    must_be_ours(run.path)
    found = run.task(which).scores(evaluated)
    folder_in(run.path, stored.PREDICTIONS)
    stored.write(file, {"data": data.fingerprint(), "loss": found}, checkpoint.folders)
    return found


def _of_rows(file: Path) -> list[float]:
    try:
        lines = read_bytes(file, PREDICTIONS).decode().splitlines()
        found = [(each["row"], float(each["score"])) for each in map(json.loads, lines)]
    except (ValueError, KeyError, TypeError) as error:
        hint = f"remove it and it is made again; {error}"
        problem = Problem(str(file), "a score for each row", hint=hint)
        raise RequestError(problem) from error
    return [score for _, score in sorted(found)]


def name_of(on: str | Sequence[str], checkpoint: str, options: EvaluationOptions) -> str:
    """What the files of an evaluation are called: by the split, or the files' name and where they
    lie; by the checkpoint; and by the options that are not as usual.
    """
    if isinstance(on, str):
        first = on
    else:
        whole = sha256_of([str(Path(file).resolve()) for file in on])
        plain = re.sub(r"[^\w.-]+", "_", Path(on[0]).name)
        first = f"{plain.encode()[:60].decode(errors='ignore')}-{whole[:8]}"
    return f"{first}-{checkpoint}{options.name}"
