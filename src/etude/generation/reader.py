"""Texts that grow by a token at a time, read by a model: with a cache, padding, and the window."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class CausalModel(Protocol):
    """What generation needs of a model (an `nn.Module` besides, or a `Reading` of one)."""

    @property
    def window(self) -> int:
        """The number of tokens that the next one may depend on."""

    def new_cache(self, batch: int, length: int) -> Any:
        """An empty cache for `batch` sequences of up to `length` tokens; see `KVCache`."""

    def __call__(self, tokens: Tensor, cache: Any, *, last_only: bool, **more: Any) -> Tensor:
        """Logits of the last position (B, 1, V), given what the cache holds.

        Args:
            more: for a batch of different lengths, `keep` and `positions`; see `Decoder.forward`.
        """


class Reader:
    """Reads what is new in growing texts.

    Once a text is longer than `model.window`, the next token depends on its last `window` tokens
    alone, read anew at positions 0, 1, ...: with and without a cache the same.

    Args:
        model: gives the logits.
        rows: B.
        end: the number of columns that the texts will have at most.
        padding: (B,), how many columns before each text are none of it; None is 0 for all.
        use_cache: keep keys and values; without it every token costs a pass over all before it.
    """

    def __init__(
        self, model: CausalModel, rows: int, end: int, padding: Tensor | None, use_cache: bool
    ) -> None:
        self.model, self.window = model, model.window
        self.padding, self._end = padding, end
        self.cache = model.new_cache(rows, min(self.window, end)) if use_cache else None
        if padding is not None:
            self._columns = torch.arange(end, device=padding.device)

    def read(self, text: Tensor, length: int) -> Tensor:
        """The logits (B, V) of what follows the first `length` columns of `text`, which begins
        with what was read before.
        """
        cache = self.cache
        if cache is not None and length <= self.window:
            first = cache.length
        else:
            self.cache = cache = None
            first = max(0, length - self.window)
        unread = text[:, first:length]
        if self.padding is None:
            return self.model(unread, cache, last_only=True)[:, -1]
        # The cache begins at column 0, a window at its own first column.
        start = 0 if cache is not None else first
        padding = (self.padding - start).clamp(min=0)[:, None]
        columns = self._columns[: length - start]
        return self.model(
            unread.clamp(min=0),
            cache,
            last_only=True,
            keep=columns >= padding,
            positions=(columns[first - start :] - padding).clamp(min=0),
        )[:, -1]

    def repeat(self, times: int) -> None:
        """Makes each text `times` texts, which stand together."""
        if times == 1:
            return
        if self.padding is not None:
            self.padding = self.padding.repeat_interleave(times)
        if self.cache is not None:
            self.cache.repeat(times)

    @property
    def can_drop(self) -> bool:
        """Whether `select` may leave prompts out: they must be in a cache, to the end. A model with
        a source before it tells by the number of rows which one each has, until that is cached.
        """
        return self.cache is not None and self._end - 1 <= self.window  # the last isn't read

    def select(self, rows: Tensor, since: int = 0) -> None:
        """Goes on with the texts that `rows` (B',) names, in the place of as many others of the
        same prompts; or, where `can_drop` says so, of some prompts only.

        Args:
            since: before this column, a row and the one that takes its place are the same.
        """
        if self.padding is not None:
            self.padding = self.padding.index_select(0, rows)
        if self.cache is not None:
            self.cache.select(rows, since=since)
