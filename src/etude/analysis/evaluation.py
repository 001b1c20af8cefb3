"""A trained model's scores, and what it said of each row: slices, tables of labels, figures.

Metrics stand in `evaluations/`, and predictions, an object a line, in `predictions/`, both named by
split and checkpoint. Texts are not copied there: they stay where they are.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from etude.console import NOTICES
from etude.data.evaluated import Evaluated
from etude.errors import Problem, RequestError, nearest
from etude.tasks.counts import class_scores
from etude.tasks.metrics import Evaluation

log = logging.getLogger(NOTICES)


def report_rows_without_text(evaluated: Evaluated) -> int:
    """Says how many rows are not scored, and returns the number."""
    without = len(evaluated.rows) - len(evaluated.read)
    if without:
        log.warning(
            "%s of %s rows have no text and are not scored",
            f"{without:,}",
            f"{len(evaluated.rows):,}",
        )
    return without


def groups_of(evaluated: Evaluated, by: str | None) -> dict[str, set[int]]:
    """The numbers of the rows that have each value of a column.

    Raises:
        RequestError: a row has no such column.
    """
    if by is None:
        return {}
    groups: dict[str, set[int]] = {}
    for number in evaluated.read:
        values = evaluated.rows[number].values
        if by not in values:
            raise RequestError(Problem("--by", "a column of the rows", by, nearest(by, values)))
        groups.setdefault(str(values[by]), set()).add(number)
    return dict(sorted(groups.items()))


def slices(evaluation: Evaluation, groups: dict[str, set[int]]) -> dict[str, dict[str, float]]:
    """The metrics of each group of rows, and `examples`, how many it has."""
    if evaluation.of is None:
        return {}
    return {name: {**evaluation.of(rows), "examples": len(rows)} for name, rows in groups.items()}


def per_class(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of each label."""
    scores = class_scores(evaluation.counts)
    return [
        {"label": name, **{key: float(values[place]) for key, values in scores.items()}}
        for place, name in enumerate(evaluation.labels)
    ]


def draw(evaluation: Evaluation, folder: Path, name: str) -> list[Path]:
    """The confusion matrix and the calibration as figures; where they are."""
    from etude.analysis.figures import calibration_figure, confusion_figure

    made = []
    if evaluation.counts is not None and len(evaluation.labels) <= 60:
        path = folder / f"confusion-{name}.png"
        confusion_figure(evaluation.counts, evaluation.labels, path)
        made.append(path)
    if evaluation.calibration:
        path = folder / f"calibration-{name}.png"
        calibration_figure(evaluation.calibration, evaluation.metrics["calibration_error"], path)
        made.append(path)
    return made
