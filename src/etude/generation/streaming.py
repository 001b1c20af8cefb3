"""Streaming of generated text in pieces. A piece never changes once it has been returned.

Only a few tokens are decoded at a time, so the cost is proportional to the text's length. Tokens
cannot be decoded one by one, for two reasons. A character may consist of several tokens; `decode`
returns U+FFFD until the character is complete. And many tokenizers decode the first token of a text
differently (SentencePiece drops the space before it), so each call of `decode` also receives some
earlier tokens, whose text has been returned already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from etude.generation.text_constraints import MAX_INCOMPLETE, Tokenizer, strip_incomplete_character

TAIL_TOKENS = 16
"""The number of tokens retained from a long sequence of tokens that form no character."""


class IncrementalDecoder:
    """Decoder that returns the text of each new token, in pieces of complete characters.

    The joined pieces equal the text that `decode` returns for all new tokens together, if each
    further token only adds characters at the end of the decoded text.

    Args:
        tokenizer: the tokenizer.
        before: the tokens before the new ones. They form complete characters; their text is not
            returned.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._decode = tokenizer.decode
        self._window = list(before)
        self._settled = len(before)  # tokens of the window whose text was returned
        self._text = self._decode(self._window)
        self._shown = len(self._text)  # characters of the window that were returned

    def push(self, token: int) -> str:
        """Adds a token and returns the new complete characters.

        The result is empty if the token does not complete a character.
        """
        self._window.append(token)
        self._text = self._decode(self._window)
        known = strip_incomplete_character(self._text)
        piece = known[self._shown :]
        self._shown += len(piece)
        if piece and known == self._text and (text := self._decode(self._window[self._settled :])):
            # All characters are complete: the tokens since the last such position are sufficient.
            self._window = self._window[self._settled :]
            self._settled = len(self._window)
            self._text, self._shown = text, len(text)
        elif len(self._window) - self._settled > 2 * TAIL_TOKENS:
            self._shorten()
        return piece

    def finish(self) -> str:
        """Returns the rest of the text: empty, or U+FFFD for an incomplete character."""
        piece, self._shown = self._text[self._shown :], len(self._text)
        return piece

    def _shorten(self) -> None:
        """Removes old tokens from the tokens that `push` decodes again with each new token.

        There are many such tokens if they do not end a character for long. The oldest are removed
        only if this does not change the decoded text of the remaining tokens.
        """
        context, tail = self._window[: self._settled], self._window[-TAIL_TOKENS:]
        before, text = self._decode(context), self._decode([*context, *tail])
        forgotten = len(self._decode(self._window[:-TAIL_TOKENS])) - len(before)
        same = self._text[forgotten + len(before) :] == text[len(before) :]
        enough = (
            strip_incomplete_character(text) == text or len(text) - len(before) > MAX_INCOMPLETE
        )
        if same and enough and text.startswith(before):
            self._window = [*context, *tail]
            self._text, self._shown = text, self._shown - forgotten


class StopTextFilter:
    """Filter that receives a text in pieces, and returns its part before the first stop text.

    Args:
        stops: the stop texts, which end the text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.ended, self._held = list(stops), False, ""

    def push(self, piece: str) -> str:
        """Adds a piece of the text, and returns new text that certainly precedes any stop text.

        If the text so far ends with a possible start of a stop text, this part is returned by a
        later call, or never if it is the start of a stop text. After a stop text, the result is
        always empty.
        """
        if self.ended:
            return ""
        text = self._held + piece
        positions = [position for stop in self.stops if (position := text.find(stop)) >= 0]
        self.ended = bool(positions)
        sure = min(positions) if positions else len(text) - self._partial_stop_length(text)
        self._held = "" if self.ended else text[sure:]
        return text[:sure]

    def finish(self) -> str:
        """Returns the end of the text that `push` held back as a possible start of a stop text."""
        held, self._held = self._held, ""
        return held

    def _partial_stop_length(self, text: str) -> int:
        """Returns the length of the longest end of `text` that is the start of a stop text.

        The result is 0 if there is none. `text` contains no complete stop text.
        """
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self.stops):
                return count
        return 0


class Continuation:
    """Stream of the text after a prompt, up to a stop token or a stop text.

    Args:
        tokenizer: the tokenizer.
        prompt: the tokens of the prompt before the new text; their text is not returned.
        stop_tokens: ids that end the text and are not returned.
        stops: texts that end the text and are not returned.
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
        """Adds a token and returns the new text that later tokens cannot change.

        The result is often empty, because a character or a possible stop text is incomplete. After
        a stop token or a stop text, it is always empty.
        """
        self.ended = self.ended or token in self._stop_tokens
        if self.ended:
            return ""
        piece = self._filter.push(self._decoder.push(token))
        self.ended = self._filter.ended
        return piece

    def finish(self) -> str:
        """Returns the rest of the text after the last token."""
        last = self._filter.push(self._decoder.finish())
        return last + self._filter.finish()
