"""Further results of an evaluation: metrics of slices (subsets of the rows), scores per label, and
figures.

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
    """Returns the number of evaluated rows that have no text and are not scored.

    If the number is above 0, it is also logged as a warning.
    """
    without = len(evaluated.rows) - len(evaluated.read)
    if without:
        log.warning(
            "%s of %s rows have no text and are not scored",
            f"{without:,}",
            f"{len(evaluated.rows):,}",
        )
    return without


def rows_by_value(evaluated: Evaluated, by: str | None) -> dict[str, set[int]]:
    """Groups the evaluated rows by their value in the column `by`.

    Returns a dict from each value, as text, to the set of the numbers of its rows, from 0. Rows
    without text are omitted. If `by` is None, the dict is empty.

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
                Problem("by", "a column of the evaluated data", by, nearest(by, values))
            )
        groups.setdefault(str(values[by]), set()).add(number)
    return dict(sorted(groups.items()))


def slices(evaluation: Evaluation, groups: dict[str, set[int]]) -> dict[str, dict[str, float]]:
    """Computes the metrics of each group of rows of an evaluation.

    Args:
        evaluation: the evaluation.
        groups: dict from each group's name to its row numbers, from `rows_by_value`.

    Returns:
        A dict from each group's name to a dict of its metrics, in which `examples` is the number of
        its rows. Empty if the task cannot score parts of the data.
    """
    if evaluation.of is None:
        return {}
    return {name: {**evaluation.of(rows), "examples": len(rows)} for name, rows in groups.items()}


def per_class(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns a dict for each label: its name, precision, recall, F1 and number of examples.

    The keys are `label`, `precision`, `recall`, `f1` and `support` (the number of examples
    with this label: the sum of its row of the confusion matrix). A score whose denominator is 0 is
    0.

    Args:
        evaluation: evaluation of a classifier or tagger, which has a confusion matrix.
    """
    scores = class_scores(evaluation.counts)
    return [
        {"label": name, **{key: float(values[index]) for key, values in scores.items()}}
        for index, name in enumerate(evaluation.labels)
    ]


def draw_figures(evaluation: Evaluation, folder: Path, name: str) -> list[Path]:
    """Draws the confusion matrix and the calibration diagram, and returns the paths of the figures.

    A figure is omitted if the evaluation does not contain its values. The confusion matrix is also
    omitted if there are more than 60 labels.

    Args:
        evaluation: the evaluation.
        folder: folder of the figures.
        name: part of the file names `confusion-<name>.png` and `calibration-<name>.png`.
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
