"""Task of algorithmic sequences: a decoder predicts each symbol that the rule of a sequence
determines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from etude.data.evaluation_data import Evaluated
from etude.data.objective import IGNORE, Objective
from etude.models.decoder import Decoder
from etude.tasks.losses import cross_entropy
from etude.tasks.metrics import Metrics, Sum, ratio
from etude.tasks.token_task import TokenTask


class MadeObjective(Objective):
    """Objective for synthetic sequences of symbols.

    An objective converts examples to the inputs and targets of a model. Here the data already
    contain both, and this objective returns them unchanged.
    """

    reads = "made"
    such_as = "data=induction, sort, ..."
    fields = ("tokens", "labels")


class AnswerMetrics(Metrics):
    """Metrics of predicted labels: `loss`, `accuracy` over the labels, and `exact`, the fraction of
    examples without an error.
    """

    def __init__(self) -> None:
        self.nats, self.right, self.labels = Sum(), Sum(), Sum()
        self.whole, self.examples = Sum(), Sum()

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        labels = batch["labels"]
        counted = labels != IGNORE
        right = (outputs.argmax(-1) == labels) & counted
        self.nats.add(cross_entropy(outputs, labels))
        self.right.add(right.sum())
        self.labels.add(counted.sum())
        self.whole.add((right | ~counted).all(-1).sum())
        self.examples.add(len(labels))

    def merge(self, other: AnswerMetrics) -> None:
        for name, own in vars(self).items():
            own.merge(getattr(other, name))

    def compute(self) -> dict[str, float]:
        return {
            "loss": ratio(self.nats, self.labels),
            "accuracy": ratio(self.right, self.labels),
            "exact": ratio(self.whole, self.examples),
        }


class Algorithmic(TokenTask):
    """Prediction of the symbols that the rule of a sequence determines (the labels). The loss is
    the mean cross-entropy over the labels; all other positions are ignored.

    `accuracy` is the fraction of labels that are predicted correctly, `exact` the fraction of
    examples in which all labels are predicted correctly. With `data.validate_training=true`, the
    same metrics of training examples are computed, too, as `seen/loss`, `seen/accuracy` and
    `seen/exact`.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
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
