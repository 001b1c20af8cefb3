"""Further results of an evaluation: metrics of slices, scores per label, and figures.

Metrics are stored in `evaluations/`. Predictions are stored in `predictions/`, as one JSON object
per line and without the texts. The files are named by split and checkpoint.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from etude.console import NOTICES
from etude.data.evaluation_data import Evaluated
from etude.errors import Problem, RequestError, nearest
from etude.tasks.counts import class_scores
from etude.tasks.metrics import Evaluation

log = logging.getLogger(NOTICES)


def report_rows_without_text(evaluated: Evaluated) -> int:
    """Logs and returns the number of rows without text, which are not scored."""
    without = len(evaluated.rows) - len(evaluated.read)
    if without:
        log.warning(
            "%s of %s rows have no text and are not scored",
            f"{without:,}",
            f"{len(evaluated.rows):,}",
        )
    return without


def rows_by_value(evaluated: Evaluated, by: str | None) -> dict[str, set[int]]:
    """Returns a dict from each value of the column `by` to the numbers of the rows with the value.

    Only rows with text are included. If `by` is None, the dict is empty.

    Raises:
        RequestError: a row has no such column.
    """
    if by is None:
        return {}
    groups: dict[str, set[int]] = {}
    for number in evaluated.read:
        values = evaluated.rows[number].values
        if by not in values:
            raise RequestError(
                Problem("--by", "a column of the evaluated data", by, nearest(by, values))
            )
        groups.setdefault(str(values[by]), set()).add(number)
    return dict(sorted(groups.items()))


def slices(evaluation: Evaluation, groups: dict[str, set[int]]) -> dict[str, dict[str, float]]:
    """Returns a dict from each group's name to its metrics and its number of `examples`.

    Empty if the task cannot score parts of the data.

    Args:
        groups: result of `rows_by_value`.
    """
    if evaluation.of is None:
        return {}
    return {name: {**evaluation.of(rows), "examples": len(rows)} for name, rows in groups.items()}


def per_class(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns a dict for each label: its name, precision, recall, F1 and number of examples."""
    scores = class_scores(evaluation.counts)
    return [
        {"label": name, **{key: float(values[index]) for key, values in scores.items()}}
        for index, name in enumerate(evaluation.labels)
    ]


def draw_figures(evaluation: Evaluation, folder: Path, name: str) -> list[Path]:
    """Draws the confusion matrix and the calibration diagram, and returns the figures' paths.

    A figure is omitted if the evaluation does not contain its values, and the confusion matrix if
    there are more than 60 labels.

    Args:
        folder: folder of the figures.
        name: suffix of the files' names.
    """
    from etude.analysis.figures import calibration_figure, confusion_figure

    paths = []
    if evaluation.counts is not None and len(evaluation.labels) <= 60:
        path = folder / f"confusion-{name}.png"
        confusion_figure(evaluation.counts, evaluation.labels, path)
        paths.append(path)
    if evaluation.calibration:
        path = folder / f"calibration-{name}.png"
        calibration_figure(evaluation.calibration, evaluation.metrics["calibration_error"], path)
        paths.append(path)
    return paths
