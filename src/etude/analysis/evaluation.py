"""A trained model's score on a split, or on other rows, and what it said of each example.

Metrics stand in `evaluations/`, and predictions, an object a line, in `predictions/`, both named by
split and checkpoint. Texts are not copied there: they stay where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from etude.analysis.written import Beams, answers, bound_to, compared, translations
from etude.console import NOTICES
from etude.data.examples.base import ExampleData
from etude.data.examples.classes import key_of, numbered
from etude.data.examples.source import Row
from etude.data.examples.steps import ExampleEvaluation, Table
from etude.data.loading import EVALUATION_POSITIONS, evaluation_positions, loader
from etude.errors import Problem, RequestError, nearest
from etude.tasks.classification import Classification
from etude.tasks.counts import (
    are_spans,
    calibration_error,
    class_scores,
    classification_metrics,
    confusion,
    span_metrics,
    span_scores,
)
from etude.tasks.instruction import Instruction
from etude.tasks.predictions import class_probabilities, word_tags
from etude.tasks.tagging import Tagging, span_counts
from etude.tasks.token_task import score_tokens
from etude.tasks.translation import Translation

BINS = 10
"""Of the calibration error."""


log = logging.getLogger(NOTICES)


@dataclass
class Evaluation:
    """What was found.

    Attributes:
        metrics: by name.
        predictions: an object for each row, with `row`, its number from 0, and `score`, from 0 to
            1: of a label whether it is right, of tags the part that is, of a target its chrF.
        counts: of a classifier or tagger, how often each label was predicted as each.
        labels: the names of these.
        calibration: of a classifier, of each bin mean confidence, accuracy and number.
        spans: of a tagger of spans, the scores of each kind.
        slices: the metrics of the rows that have each value of a column.
        without_text: rows that are not scored.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    counts: Any = None
    labels: list[str] = field(default_factory=list)
    calibration: list[tuple[float, float, int]] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)
    slices: dict[str, dict[str, float]] = field(default_factory=dict)
    without_text: int = 0


def evaluate_rows(
    task: type,
    options: Mapping[str, Any],
    data: ExampleData,
    rows: Sequence[Row],
    model: Any,
    labels: Sequence[str],
    *,
    beams: Beams | None = None,
    by: str | None = None,
) -> Evaluation:
    """Scores a model on labelled rows.

    Args:
        task, options: the run's, and what its config states for it.
        data: the run's, not necessarily prepared.
        rows: with what is to be predicted.
        model: module and tokenizer.
        labels: the run's.
        beams: how targets are searched for.
        by: a column; the rows with each of its values are scored apart too.

    Raises:
        RequestError: no rows with text, or the column is not there.
    """
    kept = [number for number, row in enumerate(rows) if data.texts(row)]
    if not kept:
        hint = f"none of the {len(rows):,} has any"
        raise RequestError(Problem("--data", "rows with text", hint=hint))
    without = len(rows) - len(kept)
    if without:
        log.warning(
            "%s of %s rows have no text and are not scored", f"{without:,}", f"{len(rows):,}"
        )
    groups = _groups(rows, kept, by)
    if issubclass(task, Classification):
        found = _classified(options, data, rows, model, labels)
    elif issubclass(task, Tagging):
        found = _tagged(data, rows, model, labels)
    elif issubclass(task, Translation):
        found = _translated(data, [rows[number] for number in kept], kept, model, beams or Beams())
    elif issubclass(task, Instruction):
        found = _answered(task, options, data, rows, kept, model)
    else:
        expected = "a run of classification, tagging, translation, instruction or running text"
        raise RequestError(Problem("RUN", expected, task.__name__))
    score: Any = found.pop("score")
    result = Evaluation(**found, without_text=without)
    for each in result.predictions:
        each["where"] = rows[each["row"]].where
    for name, members in groups.items():
        inside = [each for each in result.predictions if each["row"] in members]
        result.slices[name] = {**score(inside), "examples": len(inside)}
    return result


def batches_of(table: Table) -> Iterator[Any]:
    """A table's examples in batches."""
    return iter(loader(ExampleEvaluation(table, EVALUATION_POSITIONS)))


def _classified(
    options: Mapping[str, Any],
    data: ExampleData,
    rows: Sequence[Row],
    model: Any,
    labels: Sequence[str],
) -> dict[str, Any]:
    named = options.get("positive")
    positive = list(labels).index(str(named)) if named in labels else None
    table, numbers = data.of_rows(rows, model.tokenizer, labels)
    probabilities = class_probabilities(model.module, batches_of(table), numbers)
    known = numbered(labels)
    predictions: list[dict[str, Any]] = []
    for row, each in probabilities.items():
        label = labels[known[key_of(data.labels_of(rows[row])[0])]]
        best = int(each.argmax())
        predictions.append(
            {
                "row": row,
                "label": label,
                "prediction": labels[best],
                "right": label == labels[best],
                "score": float(label == labels[best]),
                "probabilities": [round(float(p), 6) for p in each],
            }
        )

    def counted(some: Sequence[Mapping[str, Any]]) -> Any:
        names = {name: number for number, name in enumerate(labels)}
        pairs = [(names[each["label"]], names[each["prediction"]]) for each in some]
        actual, found = (np.array(side) for side in zip(*pairs, strict=True))
        return confusion(actual, found, len(labels))

    def score(some: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return classification_metrics(counted(some), positive) if some else {}

    confidences = np.array([max(each["probabilities"]) for each in predictions])
    right = np.array([each["right"] for each in predictions])
    error, bins = calibration_error(confidences, right, BINS)
    actual = np.array([list(labels).index(each["label"]) for each in predictions])
    chance = np.stack([probabilities[each["row"]] for each in predictions])
    nats = -np.log(np.maximum(chance[np.arange(len(actual)), actual], 1e-300))
    metrics = {"loss": float(nats.mean()), **score(predictions), "calibration_error": error}
    return {
        "metrics": metrics,
        "predictions": predictions,
        "counts": counted(predictions),
        "labels": list(labels),
        "calibration": bins,
        "score": score,
    }


def _tagged(
    data: ExampleData, rows: Sequence[Row], model: Any, labels: Sequence[str]
) -> dict[str, Any]:
    table, numbers = data.of_rows(rows, model.tokenizer, labels)
    tags = word_tags(model.module, batches_of(table), numbers)
    known = numbered(labels)
    predictions: list[dict[str, Any]] = []
    for row, found in tags.items():
        words = [labels[known[key_of(tag)]] for tag in data.labels_of(rows[row])]
        guesses = [labels[tag] for tag in found]
        right = len(guesses) == len(words) and guesses == words
        hits = sum(a == b for a, b in zip(words, guesses, strict=False))
        told = {"row": row, "label": words, "prediction": guesses, "right": right}
        predictions.append({**told, "score": hits / len(words)})
    names = {name: number for number, name in enumerate(labels)}

    def counted(some: Sequence[Mapping[str, Any]]) -> Any:
        pairs = [
            (names[tag], names[guess])
            for each in some
            for tag, guess in zip(each["label"], each["prediction"], strict=False)
        ]
        actual, found = (np.array(side) for side in zip(*pairs, strict=True))
        return confusion(actual, found, len(labels))

    def score(some: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        if not some:
            return {}
        found = classification_metrics(counted(some))
        metrics = {name: found[name] for name in ("accuracy", "f1_macro")}
        metrics["sentence_accuracy"] = float(np.mean([each["right"] for each in some]))
        if are_spans(labels):
            sums = np.zeros(3, dtype=int)
            for each in some:
                cut = each["label"][: len(each["prediction"])]
                sums += span_counts(cut, each["prediction"])
            metrics |= span_metrics(*sums.tolist())
        return metrics

    cut_to_said = ((e["label"][: len(e["prediction"])], e["prediction"]) for e in predictions)
    cut = sum(len(each["label"]) - len(each["prediction"]) for each in predictions)
    return {
        "metrics": {**score(predictions), "words_cut_off": float(cut)},
        "predictions": predictions,
        "counts": counted(predictions),
        "labels": list(labels),
        "spans": span_scores(cut_to_said) if are_spans(labels) else [],
        "score": score,
    }


def _translated(
    data: Any, rows: Sequence[Row], numbers: Sequence[int], model: Any, beams: Beams
) -> dict[str, Any]:
    pairs = [data.pair(row) for row in rows]
    texts = translations(model, [source for source, _ in pairs], beams, data.sequence_length)
    return compared(numbers, [target for _, target in pairs], texts)


def _answered(
    task: type[Instruction],
    options: Mapping[str, Any],
    data: Any,
    rows: Sequence[Row],
    numbers: Sequence[int],
    model: Any,
) -> dict[str, Any]:
    bound = bound_to(task, options, data, model)
    data.objective = bound
    table, _ = data.of_rows(rows, model.tokenizer, [])
    positions = evaluation_positions(model.tokenizer.vocab_size)
    losses = score_tokens(task, model.module, loader(ExampleEvaluation(table, positions)))
    pairs = [data.pair(rows[number]) for number in numbers]
    texts = answers(model, bound, [source for source, _ in pairs], data.sequence_length)
    losses["token_accuracy"] = losses.pop("accuracy")
    found = compared(numbers, [target for _, target in pairs], texts)
    return {**found, "metrics": {**losses, **found["metrics"]}}


def _groups(rows: Sequence[Row], kept: Sequence[int], by: str | None) -> dict[str, set[int]]:
    if by is None:
        return {}
    groups: dict[str, set[int]] = {}
    for number in kept:
        values = rows[number].values
        if by not in values:
            raise RequestError(Problem("--by", "a column of the rows", by, nearest(by, values)))
        groups.setdefault(str(values[by]), set()).add(number)
    return dict(sorted(groups.items()))


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
