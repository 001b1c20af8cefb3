"""Predicting hidden tokens (BERT-style pretraining)."""

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
    """Windows of text, framed if the tokenizer has a frame, some of whose tokens are hidden.

    Args:
        rate: the part of the tokens, or of the words, that is to be predicted.
        mask, random: the parts of these that are hidden, and that become another token; the rest
            stays.
        whole_word: choose words rather than tokens.
        vocabulary, masked, frame, begins: known with the tokenizer: its size, the hiding token,
            what stands around a window, and for each token whether a word begins with it.
        ordinary: the tokens that may stand in place of another.
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
        may = ~np.isin(windows, self.special)
        chosen = may & self._chosen(windows, random)
        fate = random.random(windows.shape)
        tokens = np.where(chosen & (fate < self.mask), self.masked, windows)
        others = self.ordinary[random.integers(len(self.ordinary), size=windows.shape)]
        swapped = chosen & (fate >= self.mask) & (fate < self.mask + self.random)
        tokens = np.where(swapped, others, tokens)
        return {"tokens": tokens, "labels": np.where(chosen, windows, IGNORE)}

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
    """Of each id, whether a word begins with it, as its spelling tells: not `##ing`, but `▁the`
    and ` the`. A tokenizer that marks neither has words of one token.
    """
    size = tokenizer.vocab_size
    spelt = [tokenizer.backend.id_to_token(number) or "" for number in range(size)]
    if any(piece.startswith("##") for piece in spelt):
        return np.array([not piece.startswith("##") for piece in spelt])
    for mark in ("\u2581", "\u0120"):  # of SentencePiece, and a byte-level tokenizer's space
        if any(piece.startswith(mark) for piece in spelt):
            # in byte-level pieces a line's end begins something new too
            return np.array([piece.startswith((mark, "\u010a")) for piece in spelt])
    return np.ones(size, dtype=bool)


class MaskedLM(TokenTask):
    """Predicts hidden tokens from both sides; the loss is the mean cross-entropy over them.

    Each token of a window, but special ones, is chosen with probability `rate`; of the chosen a
    part `mask` is hidden, a part `random` becomes any other ordinary token and the rest stays
    (Devlin et al. 2018, arXiv:1810.04805, section 3.1: 15 %, 80 %, 10 %, 10 %). The choice is a
    function of the seed and the step, in validation of the batch alone.

    Args:
        setup: what the run gives.
        rate, mask, random: see above. 40 % may do better than 15 % (Wettig et al. 2022,
            arXiv:2202.08005).
        whole_word: choose whole words, each with probability `rate`.
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
        made = MaskObjective(**{name: arguments[name] for name in names if name in arguments})
        checks = Checks()
        checks.that(0 < made.rate < 1, "rate", made.rate, "a part between 0 and 1")
        for name in ("mask", "random"):
            value = getattr(made, name)
            checks.that(0 <= value <= 1, name, value, "a part from 0 to 1")
        both = made.mask + made.random
        checks.that(both <= 1, "random", made.random, f"at most 1 - mask = {1 - made.mask:g}")
        checks.done()
        return made
