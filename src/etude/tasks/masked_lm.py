"""Masked language modelling (BERT-style pretraining)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.data.objective import IGNORE, Arrays, Numbers, WindowObjective
from etude.data.tokenizer import FRAMES, MASKS, Tokenizer
from etude.errors import Checks
from etude.models.encoder import Encoder
from etude.tasks.base import Setup
from etude.tasks.token_task import TokenTask


@dataclass(frozen=True)
class MaskObjective(WindowObjective):
    """Objective (conversion to model inputs and targets) that masks tokens in windows of text.

    If the tokenizer has special tokens that enclose a text, such as [CLS] and [SEP], they enclose
    each window.

    Args:
        rate: fraction of the tokens, or of the words, that are selected for prediction.
        mask, random: fractions of the selected tokens that are replaced by the mask token, and by a
            random token; the other selected tokens are unchanged.
        whole_word: whether to select words rather than tokens.
        masked, frame, begins: id of the mask token; ids of the special tokens before and after a
            window; for each token id, whether the token begins a word. All are set once the
            tokenizer is known.
        ordinary: ids of the tokens that are not special; random tokens are drawn from these.
        special: ids of the special tokens, which are never selected.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    whole_word: bool = False
    masked: int = 0
    frame: tuple[int, int] | None = None
    begins: NDArray[np.bool_] | None = None
    ordinary: Numbers | None = None
    special: tuple[int, ...] = ()

    def special_tokens(self, known: Mapping[str, int]) -> list[str]:
        return [] if any(name in known for name in MASKS) else [MASKS[0]]

    def bound(self, tokenizer: Any, meta: Any) -> MaskObjective:
        special = tokenizer.special_tokens()
        frames = [frame for frame in FRAMES if all(name in special for name in frame)]
        first, last = frames[0] if frames else (None, None)
        numbers = np.arange(tokenizer.vocab_size)
        ordinary = np.setdiff1d(numbers, np.array([*special.values()], dtype=np.int64))
        return replace(
            self,
            masked=tokenizer.mask,
            frame=None if first is None or last is None else (special[first], special[last]),
            begins=word_begins(tokenizer) if self.whole_word else None,
            ordinary=ordinary,
            special=tuple(sorted(special.values())),
        )

    def raw(self, length: int) -> int:
        return length if self.frame is None else length - 2

    def __call__(self, windows: Numbers, random: np.random.Generator) -> Arrays:
        if self.frame is not None:
            sides = [np.full((len(windows), 1), token) for token in self.frame]
            windows = np.concatenate([sides[0], windows, sides[1]], axis=1)
        assert self.ordinary is not None
        selectable = ~np.isin(windows, self.special)
        selected = selectable & self._chosen(windows, random)
        action = random.random(windows.shape)
        tokens = np.where(selected & (action < self.mask), self.masked, windows)
        others = self.ordinary[random.integers(len(self.ordinary), size=windows.shape)]
        swapped = selected & (action >= self.mask) & (action < self.mask + self.random)
        tokens = np.where(swapped, others, tokens)
        return {"tokens": tokens, "labels": np.where(selected, windows, IGNORE)}

    def _chosen(self, windows: Numbers, random: np.random.Generator) -> NDArray[np.bool_]:
        drawn = random.random(windows.shape)
        if self.begins is None:
            return drawn < self.rate
        # every token of a word has the draw of its first
        begins = self.begins[windows] | np.isin(windows, self.special)
        begins[:, 0] = True
        word = np.maximum.accumulate(np.where(begins, np.arange(windows.shape[1]), 0), axis=1)
        return np.take_along_axis(drawn, word, axis=1) < self.rate


def word_begins(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Returns, for each token id, whether the token begins a word, according to its spelling.

    Tokens such as `▁the` and ` the` begin a word, tokens such as `##ing` don't. If no token has
    such a mark, each token is a word.
    """
    size = tokenizer.vocab_size
    pieces = [tokenizer.backend.id_to_token(number) or "" for number in range(size)]
    if any(piece.startswith("##") for piece in pieces):
        return np.array([not piece.startswith("##") for piece in pieces])
    for mark in ("\u2581", "\u0120"):  # the space of SentencePiece and of byte-level tokenizers
        if any(piece.startswith(mark) for piece in pieces):
            # in byte-level pieces, a newline also begins a word
            return np.array([piece.startswith((mark, "\u010a")) for piece in pieces])
    return np.ones(size, dtype=bool)


class MaskedLM(TokenTask):
    """Prediction of masked tokens from the tokens on both sides; the loss is the mean cross-entropy
    over the selected tokens.

    Each token of a window, except special tokens, is selected with probability `rate`; of the
    selected tokens a fraction `mask` is replaced by the mask token, a fraction `random` by any
    ordinary token, and the rest is unchanged (Devlin et al. 2018, arXiv:1810.04805, section 3.1:
    15 %, 80 %, 10 %, 10 %). In training, the selection depends only on the run's seed and the
    step; in validation, it depends only on the number of the batch.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.
        rate: fraction of the tokens that are selected. 40 % may be better than 15 % (Wettig et al.
            2022, arXiv:2202.08005).
        mask: fraction of the selected tokens that are replaced by the mask token.
        random: fraction of the selected tokens that are replaced by random tokens.
        whole_word: whether to select whole words, each with probability `rate`.
    """

    models = (Encoder,)
    head = "vocabulary"

    def __init__(
        self,
        setup: Setup,
        *,
        rate: float = 0.15,
        mask: float = 0.8,
        random: float = 0.1,
        whole_word: bool = False,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__(setup, label_smoothing=label_smoothing, z_loss=z_loss, monitor=monitor)

    @classmethod
    def objective(cls, **arguments: Any) -> MaskObjective:
        names = ("rate", "mask", "random", "whole_word")
        objective = MaskObjective(**{name: arguments[name] for name in names if name in arguments})
        checks = Checks()
        checks.that(0 < objective.rate < 1, "rate", objective.rate, "a fraction between 0 and 1")
        for name in ("mask", "random"):
            value = getattr(objective, name)
            checks.that(0 <= value <= 1, name, value, "a fraction from 0 to 1")
        total = objective.mask + objective.random
        checks.that(
            total <= 1,
            "random",
            objective.random,
            f"at most {1 - objective.mask:g}, which is 1 - mask",
        )
        checks.done()
        return objective
