"""Next-token prediction (GPT-style pretraining)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.data.evaluation_data import Evaluated
from etude.data.loading import evaluation_positions
from etude.data.prepare import TOKENS
from etude.errors import InvalidArguments, Problem, RequestError
from etude.generation.model_modes import evaluation_mode
from etude.models.decoder import Decoder
from etude.models.wrappers import writer
from etude.tasks.base import MicroBatch, Task, packing
from etude.tasks.metrics import Evaluation, Metrics, Sum, perplexity
from etude.tasks.options import EvaluationOptions, Windows


def next_token_loss(model: nn.Module, micro: MicroBatch) -> Tensor:
    """Returns the summed negative log-likelihood of the targets, in nats.

    The sum is in float32 or higher: in bfloat16 it would have three significant digits.

    Args:
        model: maps tokens (B, T) to logits (B, T, V).
        micro: `tokens` and `targets`, both (B, T); targets are the tokens shifted by one position.
            If `documents` is present, tokens of different documents don't attend to each other.
    """
    return summed_nats(model(micro["tokens"], **packing(micro)), micro["targets"])


def summed_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the summed negative log-likelihood of targets (B, T), given logits (B, T, V), in
    nats.
    """
    logits = logits.flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets.flatten(), reduction="sum")


def window_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the negative log-likelihood of each target, (B, T), in nats, given logits (B, T, V)
    and targets (B, T).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
    return F.cross_entropy(logits, targets, reduction="none")


def language_model_metrics(nats: float, targets: int, text_bytes: int | None) -> dict[str, float]:
    """Returns the metrics of a language model on a text, given the summed loss.

    Args:
        nats: summed negative log-likelihood of all predicted tokens.
        targets: number of predicted tokens.
        text_bytes: number of UTF-8 bytes of the text that these tokens encode; None if unknown, or
            if the tokens encode no text.

    Returns:
        `loss` (nats per token), `perplexity` (its exponential) and, unless `text_bytes` is None,
        `bits_per_byte`, which is comparable between tokenizers.
    """
    loss = nats / targets
    metrics = {"loss": loss, "perplexity": perplexity(loss)}
    if text_bytes is not None:
        metrics["bits_per_byte"] = nats / math.log(2) / text_bytes
    return metrics


class LanguageModelMetrics(Metrics):
    """Accumulator of a language model's metrics on a text; see `language_model_metrics`.

    Args:
        text_bytes: number of UTF-8 bytes of the text that the targets encode; None if unknown.
    """

    def __init__(self, text_bytes: int | None) -> None:
        self.text_bytes = text_bytes
        self.nats, self.targets = Sum(), Sum()

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        self.nats.add(summed_nats(outputs, batch["targets"]))
        self.targets.add(batch["targets"].numel())

    def merge(self, other: LanguageModelMetrics) -> None:
        self.nats.merge(other.nats)
        self.targets.merge(other.targets)

    def compute(self) -> dict[str, float]:
        return language_model_metrics(self.nats.value, int(self.targets.value), self.text_bytes)


class CausalLM(Task):
    """Task of next-token prediction. Validation covers the whole split and, if the data is a
    mixture of sources, each source separately.
    """

    metrics_class: ClassVar[type[LanguageModelMetrics]] = LanguageModelMetrics
    metric_names = ("val/loss", "val/perplexity", "val/bits_per_byte")
    scores_are = "losses of windows in nats per token, lower is better"
    needs_causal_model = True
    models = (Decoder,)

    def loss(self, micro: MicroBatch) -> Tensor:
        return next_token_loss(self.model, micro)

    def metrics(self, evaluated: Evaluated) -> LanguageModelMetrics:
        return self.metrics_class(evaluated.text_bytes)

    def samples(self, data: Any, options: Any) -> list[str]:
        """Returns `options.samples` continuations of `options.sample_prompt`, determined by the
        weights and the run's seed; an empty list if the model cannot generate text.
        """
        model = writer(self.model, self.tokenizer)
        if model is None:
            return []
        texts = model.generate(
            [options.sample_prompt],
            samples=options.samples,
            max_new_tokens=options.sample_tokens,
            temperature=0.8,
            seed=self.seed,
        )
        return [texts] if isinstance(texts, str) else texts

    @classmethod
    def evaluation_options(cls, data: Any, **stated: Any) -> Windows:
        options: Any = Windows.checked(cls.__name__, **stated)
        options.check(data)
        return options

    def evaluate(self, evaluated: Evaluated, options: EvaluationOptions) -> Evaluation:
        windows: Any = options
        data: Any = evaluated.data
        vocabulary, tokens = data.tokenizer_.vocab_size, data.evaluated_tokens(evaluated.split)
        windows.check_room(tokens, vocabulary, self.device_of_model)
        length, split = windows.sequence_length, evaluated.split
        try:
            if windows.stride is not None:
                ids = data.store.column(split, TOKENS).values
                length = length or data.sequence_length
                metrics = sliding_score(self.model, ids, length, windows.stride, vocabulary)
                return Evaluation({**metrics, **data.bytes_metrics(split, metrics)})
            cut = replace(evaluated, batches=lambda: data.evaluation_batches(split, length))
            return super().evaluate(cut, options)
        except InvalidArguments as error:
            raise RequestError(error.problems) from error

    @torch.inference_mode()
    def scores(self, evaluated: Evaluated) -> list[float]:
        """Returns the mean negative log-likelihood of each window in the batches of `evaluated`, in
        nats per token, in order. Lower is better.
        """
        losses: list[float] = []
        with evaluation_mode(self.model):
            for batch in self.batches_of(evaluated):
                nats = window_nats(self.outputs(batch), batch["targets"])
                losses += nats.double().mean(1).tolist()
        return losses

    @classmethod
    def no_predictions(cls, run: str) -> Problem:
        return replace(
            super().no_predictions(run), hint=f"to continue texts, run etude generate {run}"
        )


@torch.inference_mode()
def sliding_score(
    model: nn.Module,
    tokens: Any,
    length: int,
    stride: int,
    vocabulary: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Returns the loss and the perplexity of a language model on a text, computed in overlapping
    windows.

    Window w begins at token `w * stride`. All targets of the first window count. Of each later
    window, only the last `stride` targets count; each of them has at least `length - stride` tokens
    of context. The last window ends with the text; it can be shorter, and fewer of its targets
    count. So no target counts twice.

    Args:
        model: maps tokens (B, T) to logits (B, T, V).
        tokens: token ids of the text.
        length: number of targets in a window.
        stride: distance between the starts of windows, normally at most `length`. With
            `length` + 1, windows don't overlap, and the first token of a window is never a target.
        vocabulary: vocabulary size; it limits how many windows are computed at once.
        on_progress: function that is called with the number of tokens scored so far.

    Returns:
        `loss` in nats per token, `perplexity`, and `nats`, the summed loss.
    """
    ids = torch.from_numpy(tokens.astype("int64"))
    total = len(ids) - 1
    size = max(1, evaluation_positions(vocabulary) // length)
    starts = [0, *range(stride, min(total, max(stride, total - length + stride)), stride)]
    nats, counted, done = 0.0, 0, 0
    model.eval()
    device = next(model.parameters()).device
    whole = [start for start in starts if start + length <= total]
    groups = [whole[first : first + size] for first in range(0, len(whole), size)]
    groups += [[start] for start in starts if start + length > total]
    for group in groups:
        rows = torch.stack([ids[start : start + length + 1] for start in group])
        rows = rows.to(device)
        losses = window_nats(model(rows[:, :-1]), rows[:, 1:]).cpu().double()
        for start, row in zip(group, losses, strict=True):
            new = row[max(0, done - start) :]
            nats += float(new.sum())
            counted += len(new)
            done = max(done, start + len(row))
        on_progress(done)
    metrics = language_model_metrics(nats, counted, None)
    return {**metrics, "nats": nats}
