"""Evaluation of a run on its own data or on other files; results are stored in the run folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.analysis import stored_evaluations
from etude.analysis.evaluation import (
    draw_figures,
    per_class,
    report_rows_without_text,
    rows_by_value,
    slices,
)
from etude.data.delimited import Quoting
from etude.data.evaluation_data import Evaluated, EvaluationRequest
from etude.errors import Problem, RequestError
from etude.records import provenance
from etude.records.files import write_text
from etude.records.opening import (
    EVALUATIONS_LOG,
    PREDICTIONS,
    make_subfolder,
    open_for_append,
    read_bytes,
)
from etude.records.signature import sha256_of
from etude.tasks.options import EvaluationOptions
from etude.training.run_folder import check_no_links

_RECOMPUTE = "to compute the scores again, delete the file"


def evaluate_run(
    run: Any,
    split: str,
    *,
    which: str | int = "best",
    files: list[str] | None = None,
    by: str | None = None,
    quoting: Quoting | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Evaluates a run, as the command `etude evaluate` does, and returns the results as a dict.

    The metrics are stored in `evaluations/`, with a line in `evaluations/log.jsonl` for each
    evaluation, and predictions in `predictions/`.

    The result has the keys `run` (the run's folder), `on` (the split or the files), `checkpoint`
    (its name), `metrics` (a dict) and `files` (paths of the written files). Data with rows adds
    `by`, `slices` (a dict from each value of the column to its metrics), `rows` and
    `rows_without_text` (numbers of rows). A classifier or tagger adds `classes` (see
    `etude.analysis.evaluation.per_class`) and `confusion` (the confusion matrix). If there
    are any, a language model's options of windows (`etude.tasks.options.Windows`) are under
    `windows`, and a tagger's scores of each label of spans, such as LOC, under `spans`.

    Args:
        run: an `etude.api.Run`.
        split: split to evaluate on if `files` is None.
        which: checkpoint to use.
        files: files to evaluate on; None for the split of the run's own data.
        by: column of the data; the metrics are also computed for each of its values (slices).
        quoting: quoting of CSV and TSV in `files`; None for the quoting of the run's data.
        how: the task's options for evaluation (`etude.tasks.options`); an option that is None has
            its default.

    Raises:
        RequestError: the data is missing or was changed, or lacks a requested column or split.
    """
    check_no_links(run.path)
    data = run.data()
    options = evaluation_options(run, data, how)
    request = EvaluationRequest(split, files, by, quoting)
    return write_evaluation(run, run.evaluated(data, request), request, options, which)


def write_evaluation(
    run: Any,
    evaluated: Evaluated,
    request: EvaluationRequest,
    options: EvaluationOptions,
    which: str | int,
) -> dict[str, Any]:
    """Evaluates a run on loaded data, stores the results in the run folder, and returns them.

    The stored files and the result are those of `evaluate_run`.

    Args:
        run: an `etude.api.Run`.
        evaluated: the data that `request` selects.
        request: the split or files, the column that defines slices, and the quoting.
        options: the task's options.
        which: checkpoint to use.
    """
    check_no_links(run.path)
    files, by, checkpoint = request.files, request.by, run.record.chosen(which)
    on = request.split if files is None else ",".join(files)
    quoting = [f"--{request.quoting}"] if request.quoting else []
    read = request.split if files is None else [*files, *quoting]
    name = evaluation_name(read, checkpoint.name, options)
    results: dict[str, Any] = {"run": str(run.path), "on": on, "checkpoint": checkpoint.name}
    groups = rows_by_value(evaluated, by)
    rows_without_text = report_rows_without_text(evaluated)
    evaluation = run.task(which).evaluate(evaluated, options)
    paths: list[Path] = []
    predictions: Path | None = None
    results["metrics"] = evaluation.metrics
    if options.as_record is not None:
        results["windows"] = options.as_record  # missing in older versions
    if evaluated.rows:
        results |= {"by": by, "slices": slices(evaluation, groups)}
        results |= {"rows": len(evaluation.predictions), "rows_without_text": rows_without_text}
        if evaluation.counts is not None:
            results["classes"] = per_class(evaluation)
            if evaluation.spans:
                results["spans"] = evaluation.spans
            results["confusion"] = {
                "labels": evaluation.labels,
                "counts": evaluation.counts.tolist(),
            }
        for each in evaluation.predictions:
            each["where"] = evaluated.rows[each["row"]].where
        predictions = make_subfolder(run.path, stored_evaluations.PREDICTIONS) / f"{name}.jsonl"
        lines = (json.dumps(each, ensure_ascii=False) for each in evaluation.predictions)
        write_text(predictions, "".join(f"{line}\n" for line in lines), PREDICTIONS)
        paths += [predictions, *draw_figures(evaluation, make_subfolder(run.path, "figures"), name)]
    folder = make_subfolder(run.path, stored_evaluations.EVALUATIONS)
    file = folder / f"{name}.json"
    stored_evaluations.write(file, results, checkpoint.folders, predictions)
    line = {"time": provenance.timestamp(), "on": on, "checkpoint": checkpoint.name}
    line |= options.as_record or {}
    log_line = json.dumps({**line, "metrics": results["metrics"]}, ensure_ascii=False)
    with open_for_append(folder / stored_evaluations.LOG, EVALUATIONS_LOG) as log:
        log.write(f"{log_line}\n".encode())
    return {**results, "files": [str(path) for path in (file, *paths)]}


def evaluation_options(run: Any, data: Any, how: Mapping[str, Any]) -> EvaluationOptions:
    """Returns the options of a run's task for evaluation, after checking them.

    Args:
        run: an `etude.api.Run`.
        data: the run's data module.
        how: options by name; an option that is None has its default.

    Raises:
        RequestError: the run's task has no such option, or does not accept the value.
    """
    kind: Any = run.checked.nodes["task"].constructor
    options: EvaluationOptions = kind.evaluation_options(data, **how)
    return options


def stored_metrics(run: Any, split: str, how: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Returns the metrics that an earlier evaluation of a run stored; None if there are none.

    The result is a dict from the name of each metric, such as `loss`, to its value.

    Metrics that were computed with other weights or other windows of tokens are ignored.

    Args:
        run: an `etude.api.Run`.
        split: evaluated split.
        how: options of the evaluation: `which` (the checkpoint; default: `best`), and the task's
            options.

    Raises:
        RequestError: the stored file was changed.
    """
    options_by_name = dict(how)
    checkpoint = run.record.chosen(options_by_name.pop("which", "best"))
    options = evaluation_options(run, run.data(), options_by_name)
    file = (
        run.path
        / stored_evaluations.EVALUATIONS
        / f"{evaluation_name(split, checkpoint.name, options)}.json"
    )
    content = stored_evaluations.read(file, checkpoint.folders)
    if content is None:
        return None
    if options.as_record is not None and content.get("windows") != options.as_record:
        return None  # an older version used this name for windows of any length
    metrics: Mapping[str, float] = content["metrics"]
    return metrics


def example_scores(run: Any, split: str, which: str | int) -> list[float]:
    """Returns the score of each example of a split, in order, and stores them in the run folder.

    The task determines the score. For a language model, it is the mean loss of a window in nats per
    token. For a classifier, it is 1 for a correct prediction and otherwise 0.

    If the examples are rows of a dataset, their scores are stored with the predictions, in
    `predictions/<name>.jsonl`. If they are other units, such as windows of tokens, their scores are
    stored in `predictions/<name>.json`. Stored scores are reused. `<name>` is the result of
    `evaluation_name`.

    Args:
        run: an `etude.api.Run`.
        split: split to score.
        which: checkpoint to use.

    Raises:
        RequestError: the data is missing or was changed, or a stored file was changed.
    """
    data, checkpoint = run.data(), run.record.chosen(which)
    options = evaluation_options(run, data, {})
    name = evaluation_name(split, checkpoint.name, options)
    rows = run.path / stored_evaluations.PREDICTIONS / f"{name}.jsonl"
    about = run.path / stored_evaluations.EVALUATIONS / f"{name}.json"
    kind: Any = run.checked.nodes["task"].constructor
    has_row_scores = not kind.has_scores()
    if has_row_scores and stored_evaluations.read(about, checkpoint.folders, rows) is not None:
        return _row_scores(rows)
    file = run.path / stored_evaluations.PREDICTIONS / f"{name}.json"
    if (content := stored_evaluations.read(file, checkpoint.folders)) is not None:
        losses = content.get("loss")
        if not isinstance(losses, list):
            raise RequestError(Problem(str(file), "a list of losses", losses, _RECOMPUTE))
        return losses
    request = EvaluationRequest(split)
    evaluated = run.evaluated(data, request)
    if has_row_scores and evaluated.rows:
        write_evaluation(run, evaluated, request, options, which)
        return _row_scores(rows)
    check_no_links(run.path)
    scores = run.task(which).scores(evaluated)
    make_subfolder(run.path, stored_evaluations.PREDICTIONS)
    stored_evaluations.write(file, {"data": data.fingerprint(), "loss": scores}, checkpoint.folders)
    return scores


def _row_scores(file: Path) -> list[float]:
    try:
        lines = read_bytes(file, PREDICTIONS).decode().splitlines()
        scores = [(each["row"], float(each["score"])) for each in map(json.loads, lines)]
    except (ValueError, KeyError, TypeError) as error:
        hint = f"{_RECOMPUTE}; {type(error).__name__}: {error}"
        problem = Problem(str(file), "lines with a row number and a score", hint=hint)
        raise RequestError(problem) from error
    return [score for _, score in sorted(scores)]


def evaluation_name(on: str | Sequence[str], checkpoint: str, options: EvaluationOptions) -> str:
    """Returns the name of an evaluation's files, without their suffix.

    The name consists of three parts: the split (for files, the first file's name and a hash of all
    paths), the checkpoint, and the options that are not the defaults.

    Args:
        on: the split, or the evaluated files.
        checkpoint: name of the checkpoint.
        options: options of the evaluation.
    """
    if isinstance(on, str):
        data_name = on
    else:
        paths_hash = sha256_of([str(Path(file).resolve()) for file in on])
        file_name = re.sub(r"[^\w.-]+", "_", Path(on[0]).name)
        data_name = f"{file_name.encode()[:60].decode(errors='ignore')}-{paths_hash[:8]}"
    return f"{data_name}-{checkpoint}{options.name}"
