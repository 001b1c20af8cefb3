"""Computation of the logits of growing texts, with a cache, padding, and a limited window."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class CausalModel(Protocol):
    """Interface of models that can generate text, such as `etude.models.decoder.Decoder`."""

    @property
    def window(self) -> int:
        """The maximum number of preceding tokens on which the next token depends."""

    def new_cache(self, batch: int, length: int) -> Any:
        """Returns an empty cache for `batch` sequences of up to `length` tokens.

        The cache is an `etude.nn.cache.KVCache`, or has the same methods.
        """

    def __call__(self, tokens: Tensor, cache: Any, *, last_only: bool, **more: Any) -> Tensor:
        """Returns the logits of the last position, of shape (B, 1, V).

        Args:
            tokens: token ids (B, T), which follow the tokens in the cache.
            cache: a cache from `new_cache`; None computes the logits without a cache.
            last_only: always true.
            more: `keep` and `positions`, for texts of different lengths; see `Decoder.forward`.
        """


class Reader:
    """Computes the logits of a batch of texts that grow token by token.

    With a cache of keys and values, each call reads only the new tokens. Once a text is longer than
    `model.window`, the next token depends only on the text's last `window` tokens. For each new
    token, these tokens are then all read again at positions 0, 1, ..., even with a cache.

    Args:
        model: the model that computes the logits.
        rows: the batch size B.
        end: the maximum length of the texts in tokens, including padding.
        padding: the number of padding columns before each text, of shape (B,); None means no
            padding.
        use_cache: whether to cache keys and values. Without a cache, each new token requires a pass
            over the whole text.
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
        """Returns the logits (B, V) of the token after the first `length` columns of `text`.

        In successive calls, `text` must begin with the columns that were read before.

        Args:
            text: token ids of the B texts, of shape (B, L) with L >= `length`.
            length: number of columns, including those that earlier calls read.
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
        """Replaces each text by `times` copies in adjacent rows, to continue it in several ways."""
        if times == 1:
            return
        if self.padding is not None:
            self.padding = self.padding.repeat_interleave(times)
        if self.cache is not None:
            self.cache.repeat(times)

    @property
    def can_drop(self) -> bool:
        """Whether `select` may remove all texts of a prompt.

        True if the keys and values of the complete text are cached. If not, an encoder-decoder
        assumes that all prompts have the same number of rows, so no prompt may be removed.
        """
        return self.cache is not None and self._end - 1 <= self.window  # the last token is not read

    def select(self, rows: Tensor, since: int = 0) -> None:
        """Reorders, repeats or removes texts: the new text i is the old text `rows[i]`.

        Each text must be replaced by a text of the same prompt, unless `can_drop` is true.

        Args:
            rows: indices of R old texts, of shape (R,).
            since: the first column at which a text and its replacement may differ.
        """
        if self.padding is not None:
            self.padding = self.padding.index_select(0, rows)
        if self.cache is not None:
            self.cache.select(rows, since=since)
