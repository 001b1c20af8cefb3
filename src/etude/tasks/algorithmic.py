"""Sequences that a rule makes: a decoder says what follows wherever the rule is certain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from etude.data.evaluated import Evaluated
from etude.data.objective import IGNORE, Objective
from etude.models.decoder import Decoder
from etude.tasks.losses import cross_entropy
from etude.tasks.metrics import Metrics, Sum, ratio
from etude.tasks.token_task import TokenTask


class MadeObjective(Objective):
    """Takes the examples as the rule makes them."""

    reads = "made"
    such_as = "data=induction, sort, ..."
    fields = ("tokens", "labels")


class AnswerMetrics(Metrics):
    """`loss`, `accuracy` over the labels, and `exact`, the part of the examples without a wrong
    one.
    """

    def __init__(self) -> None:
        self.nats, self.right, self.labels = Sum(), Sum(), Sum()
        self.whole, self.examples = Sum(), Sum()

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        labels = batch["labels"]
        there = labels != IGNORE
        right = (outputs.argmax(-1) == labels) & there
        self.nats.add(cross_entropy(outputs, labels))
        self.right.add(right.sum())
        self.labels.add(there.sum())
        self.whole.add((right | ~there).all(-1).sum())
        self.examples.add(len(labels))

    def merge(self, other: AnswerMetrics) -> None:
        for name, mine in vars(self).items():
            mine.merge(getattr(other, name))

    def compute(self) -> dict[str, float]:
        return {
            "loss": ratio(self.nats, self.labels),
            "accuracy": ratio(self.right, self.labels),
            "exact": ratio(self.whole, self.examples),
        }


class Algorithmic(TokenTask):
    """The mean cross-entropy over the labels; all other places do not count.

    `accuracy` is the part of the labels that are said rightly, `exact` that of the examples of
    which all are. With `data.validate_training` the same of examples that are trained on, as
    `seen/loss`, `seen/accuracy` and `seen/exact`.

    Args:
        setup: what the run gives.
        label_smoothing, z_loss, monitor: see `TokenTask`.
    """

    metric_names = (
        "val/loss", "val/accuracy", "val/exact", "seen/loss", "seen/accuracy", "seen/exact",
    )  # fmt: skip
    needs_causal_model = True
    models = (Decoder,)

    @classmethod
    def objective(cls, **arguments: Any) -> Objective:
        return MadeObjective()

    def samples(self, data: Any, options: Any) -> list[str]:
        return self.answered(data, options, whole=True) if data.answers_last else []

    def metrics(self, evaluated: Evaluated) -> AnswerMetrics:  # type: ignore[override]
        return AnswerMetrics()
