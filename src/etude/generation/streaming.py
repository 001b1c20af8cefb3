"""Text in pieces as its tokens come; what has been passed on does not change afterwards.

A tokenizer's `decode` is asked for a few tokens at a time, so that a text costs in proportion to
its length. Two things make that more than decoding each token by itself. A character may be spread
over several tokens: until all of it is there, `decode` gives U+FFFD. And many tokenizers spell the
first token of a text differently (SentencePiece drops the space before it): so the tokens that are
decoded always begin with some that have been passed on already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from etude.generation.words import MAX_INCOMPLETE, Tokenizer, whole

TAIL_TOKENS = 16
"""The tokens that are kept where many in a row make no character."""


class IncrementalDecoder:
    """The text that tokens add to a text, piece by piece.

    Joined, the pieces are what `decode` adds for all tokens together, with every tokenizer whose
    decoded text only grows at its end.

    Args:
        tokenizer: decodes.
        before: the tokens that the text begins with, all of it whole characters; their text is in
            no piece.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._decode = tokenizer.decode
        self._window = list(before)
        self._settled = len(before)  # the tokens of the window that are passed on and whole
        self._text = self._decode(self._window)  # of the window
        self._shown = len(self._text)  # the characters of it that are passed on

    def push(self, token: int) -> str:
        """What can be passed on now that `token` has come; often nothing."""
        self._window.append(token)
        self._text = self._decode(self._window)
        known = whole(self._text)
        piece = known[self._shown :]
        self._shown += len(piece)
        if piece and known == self._text and (spelt := self._decode(self._window[self._settled :])):
            # All characters are whole: the tokens since the last such place are enough to go on.
            self._window = self._window[self._settled :]
            self._settled = len(self._window)
            self._text, self._shown = spelt, len(spelt)
        elif len(self._window) - self._settled > 2 * TAIL_TOKENS:
            self._shorten()
        return piece

    def finish(self) -> str:
        """What is left at the end of the text: an unfinished character, as U+FFFD."""
        piece, self._shown = self._text[self._shown :], len(self._text)
        return piece

    def _shorten(self) -> None:
        """Forgets tokens, of many that make no character, if the others give the same without."""
        context, tail = self._window[: self._settled], self._window[-TAIL_TOKENS:]
        before, text = self._decode(context), self._decode([*context, *tail])
        forgotten = len(self._decode(self._window[:-TAIL_TOKENS])) - len(before)
        same = self._text[forgotten + len(before) :] == text[len(before) :]
        enough = whole(text) == text or len(text) - len(before) > MAX_INCOMPLETE
        if same and enough and text.startswith(before):
            self._window = [*context, *tail]
            self._text, self._shown = text, self._shown - forgotten


class StopTextFilter:
    """Passes text on up to the first of some other texts, which is not passed on.

    Args:
        stops: the texts that end it; without any, everything passes at once.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.ended, self._held = list(stops), False, ""

    def push(self, piece: str) -> str:
        """What can be passed on: all that is not the beginning of a stop."""
        if self.ended:
            return ""
        text = self._held + piece
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        self.ended = bool(places)
        sure = min(places) if places else len(text) - self._partial_stop_length(text)
        self._held = "" if self.ended else text[sure:]
        return text[:sure]

    def finish(self) -> str:
        """What was held back, and was no stop after all."""
        held, self._held = self._held, ""
        return held

    def _partial_stop_length(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self.stops):
                return count
        return 0


class Continuation:
    """The text that tokens add to a prompt, up to where it ends, in pieces.

    Args:
        tokenizer: decodes.
        prompt: the tokens of the prompt, as far as it belongs to the text.
        stop_tokens: ids that end the text and are not shown.
        stops: texts that end it and are not shown.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stop_tokens: Iterable[int],
        stops: Sequence[str],
    ) -> None:
        self._decoder, self._filter = IncrementalDecoder(tokenizer, prompt), StopTextFilter(stops)
        self._stop_tokens, self.ended = frozenset(stop_tokens), False

    def push(self, token: int) -> str:
        """What can be passed on now that `token` has come."""
        self.ended = self.ended or token in self._stop_tokens
        if self.ended:
            return ""
        piece = self._filter.push(self._decoder.push(token))
        self.ended = self._filter.ended
        return piece

    def finish(self) -> str:
        """What is left, when no token comes any more."""
        last = self._filter.push(self._decoder.finish())
        return last + self._filter.finish()
