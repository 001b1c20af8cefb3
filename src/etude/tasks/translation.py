"""One text from another: translation, summaries, whatever comes in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.objective import Arrays, ExampleObjective, Numbers
from etude.errors import Problem, RequestError
from etude.models.encoder_decoder import EncoderDecoder
from etude.tasks.base import MicroBatch
from etude.tasks.token_task import TokenTask


@dataclass(frozen=True)
class PairObjective(ExampleObjective):
    """A source and a target, each with the end of text after it.

    Args:
        end: that token, once the tokenizer is known.
    """

    end: int | None = None

    fields: ClassVar[tuple[str, ...]] = ("source", "target")
    padded: ClassVar[Mapping[str, str]] = {"source": "source_keep", "labels": "target_keep"}
    packs = True

    def bound(self, tokenizer: Any, meta: Any) -> PairObjective:
        if tokenizer.end_of_text is None:
            expected = "a tokenizer with an end-of-text token, which says where a target ends"
            hint = "data.tokenizer.end_of_text can name one"
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
    """Logits (B, T, V) of `labels`, each from the source and the labels before it."""
    labels = micro["labels"]
    before = labels.new_full(labels.shape, model.start_token)
    before[:, 1:] = labels[:, :-1].clamp_min(0)
    names = ("source_keep", "source_documents", "target_documents")
    told = {name: micro[name] for name in names if name in micro}
    if "target_documents" in micro:
        before[micro["target_documents"].positions == 0] = model.start_token
    logits: Tensor = model(micro["source"], before, **told)
    return logits


class Translation(TokenTask):
    """Predicts the target of a source; the loss is the mean cross-entropy of the target's tokens,
    its end included (Sutskever et al. 2014, arXiv:1409.3215; Vaswani et al. 2017).

    Padding after a target needs no mask: no target sees what follows it.

    Args:
        setup: what the run gives.
        label_smoothing, z_loss: see `etude.tasks.losses.cross_entropy`; validation is without.
    """

    needs_causal_model = True
    models = (EncoderDecoder,)

    @classmethod
    def objective(cls, **arguments: Any) -> Any:
        return PairObjective()

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        source, target = (torch.randint(vocabulary, (batch, length)) for _ in range(2))
        return {"source": source, "labels": target, "step_targets": target.numel()}

    def logits(self, micro: MicroBatch) -> Tensor:
        return target_logits(self.model, micro)
