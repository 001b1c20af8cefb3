"""Sequence-to-sequence tasks: translation, summarisation and other pairs of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.evaluation_data import Evaluated
from etude.data.objective import Arrays, ExampleObjective, Numbers
from etude.errors import Problem, RequestError
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.seq2seq import Seq2Seq
from etude.tasks.base import MicroBatch
from etude.tasks.metrics import Evaluation
from etude.tasks.options import Beams, EvaluationOptions
from etude.tasks.texts import TextMetrics, translations
from etude.tasks.token_task import TokenTask


@dataclass(frozen=True)
class PairObjective(ExampleObjective):
    """Objective (conversion to model inputs and targets) for pairs of a source and a target text,
    each followed by the end-of-text token.

    Args:
        end: id of the end-of-text token; set once the tokenizer is known.
    """

    end: int | None = None

    fields: ClassVar[tuple[str, ...]] = ("source", "target")
    padded: ClassVar[Mapping[str, str]] = {"source": "source_keep", "labels": "target_keep"}
    packs = True

    def bound(self, tokenizer: Any, meta: Any) -> PairObjective:
        return self.bound_to_rows(tokenizer, 0)

    def bound_to_rows(self, tokenizer: Any, sequence_length: int) -> PairObjective:
        if tokenizer.end_of_text is None:
            expected = "a tokenizer with an end-of-text token, which ends a target"
            hint = "set data.tokenizer.end_of_text"
            raise RequestError(Problem("data.tokenizer", expected, hint=hint))
        return replace(self, end=tokenizer.end_of_text)

    def lengths(self, lengths: Mapping[str, Numbers]) -> Numbers:
        return np.maximum(lengths["source"], lengths["target"]) + 1

    def compose(self, fields: Arrays) -> Arrays:
        end = [] if self.end is None else [self.end]
        return {
            "source": np.append(fields["source"], end).astype(np.int64),
            "labels": np.append(fields["target"], end).astype(np.int64),
        }


def target_logits(model: nn.Module, micro: MicroBatch) -> Tensor:
    """Returns logits of shape (B, T, V): for each label, those that the model computes from the
    source and the preceding labels.

    Args:
        model: an encoder-decoder.
        micro: micro-batch with the token ids `source` and `labels`; it may also contain the padding
            mask `source_keep`, or the documents of packed sequences, `source_documents` and
            `target_documents`.
    """
    labels = micro["labels"]
    inputs = labels.new_full(labels.shape, model.start_token)
    inputs[:, 1:] = labels[:, :-1].clamp_min(0)
    names = ("source_keep", "source_documents", "target_documents")
    options = {name: micro[name] for name in names if name in micro}
    if "target_documents" in micro:
        inputs[micro["target_documents"].positions == 0] = model.start_token
    logits: Tensor = model(micro["source"], inputs, **options)
    return logits


class TargetTask(TokenTask):
    """Prediction of a target text from a source text. The loss is the mean cross-entropy of the
    target's tokens and the end-of-text token (Sutskever et al. 2014, arXiv:1409.3215; Vaswani et
    al. 2017).

    Padding after a target needs no mask: no target attends to later positions.
    """

    needs_causal_model = True
    models = (EncoderDecoder,)

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        source, target = (torch.randint(vocabulary, (batch, length)) for _ in range(2))
        return {"source": source, "labels": target, "step_targets": target.numel()}

    def samples(self, data: Any, options: Any) -> list[str]:
        return self.answered(data, options)

    def outputs(self, micro: MicroBatch) -> Tensor:
        return target_logits(self.model, micro)


class Translation(TargetTask):
    """Translation of a source text by an encoder-decoder. The loss is the mean cross-entropy of the
    target's tokens and the end-of-text token (see `TargetTask`).

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        label_smoothing, z_loss: see `etude.tasks.losses.cross_entropy`. It is not applied
            in validation.
    """

    @classmethod
    def objective(cls, **arguments: Any) -> PairObjective:
        return PairObjective()

    @classmethod
    def evaluation_options(cls, data: Any, **options: Any) -> EvaluationOptions:
        return Beams.checked(cls.__name__, **options)

    def evaluate(self, evaluated: Evaluated, options: EvaluationOptions) -> Evaluation:
        metrics = TextMetrics()
        pairs = {number: evaluated.data.pair(evaluated.rows[number]) for number in evaluated.read}
        sources = [source for source, _ in pairs.values()]
        for (number, (_, target)), text in zip(
            pairs.items(), self._targets(evaluated, sources, options), strict=True
        ):
            metrics.add(number, target, text)
        return metrics.evaluation(evaluated)

    def line(self, prediction: Mapping[str, Any]) -> str:
        return str(prediction["target"])

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        sources = [evaluated.data.pair(evaluated.rows[number])[0] for number in evaluated.read]
        texts = self._targets(evaluated, sources, options)
        for source, target in zip(sources, texts, strict=True):
            yield {"source": source, "target": target}

    def _targets(self, evaluated: Evaluated, sources: Sequence[str], options: Any) -> list[str]:
        model = Seq2Seq(self.model, self.tokenizer)  # type: ignore[arg-type]
        return translations(model, sources, options, evaluated.data.sequence_length)
