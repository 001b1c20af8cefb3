"""Streaming: the pieces are the text, without delay, at a bounded cost, for each tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import FALLING_BACK, TEXT, TOKENIZERS
from torch import Tensor, nn

from etude.generation.streaming import IncrementalDecoder, StopTextFilter
from etude.models.language_model import LanguageModel

PROMPTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["The cat", "THE Cat ", "🙂", "é北京🙂", " ", "  two", "x\ufffd", "e\u0301"]),
)


_FEW = st.integers(0, 3)
NAMES = st.sampled_from(sorted(TOKENIZERS))


def ids_of(name: str) -> st.SearchStrategy[list[int]]:
    """Strategy of random ids, and of ids of texts with some left out."""
    tokenizer = TOKENIZERS[name]
    anything = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12)
    some = st.one_of(st.text(max_size=5), st.sampled_from(["the cat, é北京", "🙂", " a  b\n"]))
    texts = st.builds(tokenizer.encode, some)
    cut = st.builds(lambda ids, a, b: ids[a : len(ids) - b], texts, st.integers(0, 2), _FEW)
    parts = st.lists(st.one_of(anything, cut), min_size=1, max_size=3)
    return parts.map(lambda parts: [i for part in parts for i in part] or [0])


def unfinished(text: str) -> int:
    """Returns the number of characters at the end of a text that may still change."""
    return min(3, len(text) - len(text.rstrip("\ufffd")))


def check_pieces(tokenizer: Any, before: list[int], ids: list[int]) -> None:
    start = len(tokenizer.decode(before))
    pieces, joined = IncrementalDecoder(tokenizer, before), ""
    for count, token in enumerate(ids, 1):
        joined += pieces.push(token)
        text = tokenizer.decode([*before, *ids[:count]])
        assert joined == text[start : max(start, len(text) - unfinished(text))], count
    joined += pieces.finish()
    assert joined == tokenizer.decode([*before, *ids])[start:]


@settings(max_examples=60, deadline=None)
@given(NAMES, st.data())
def test_pieces_are_the_decoded_text_as_soon_as_it_is_known(name: str, data: st.DataObject) -> None:
    any_pieces(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_pieces_of_each_kind_at_length(name: str, data: st.DataObject) -> None:
    any_pieces(name, data)


def any_pieces(name: str, data: st.DataObject) -> None:
    before = TOKENIZERS[name].encode(data.draw(PROMPTS))
    check_pieces(TOKENIZERS[name], before, data.draw(ids_of(name)))


def runs(name: str) -> dict[str, list[int]]:
    """Long sequences of each kind of token: text, parts of characters, empty text."""
    tokenizer = TOKENIZERS[name]
    spelt = {text: i for i in range(tokenizer.vocab_size) if (text := tokenizer.decode([i]))}
    broken = [i for i in range(tokenizer.vocab_size) if "\ufffd" in tokenizer.decode([i])]
    empty = [i for i in range(tokenizer.vocab_size) if not tokenizer.decode([i])]
    found = {"text": tokenizer.encode(TEXT) * 9, "one": [spelt[min(spelt)]] * 300}
    if broken:
        found |= {"one part": broken[:1] * 300, "parts": (broken * 300)[:300]}
        found["halves"] = tokenizer.encode("🙂")[:2] * 150
        found["a part and text"] = [*broken[-1:], *tokenizer.encode("the")] * 200
    if empty:
        found |= {"nothing": empty[-1:] * 300, "spaces": empty[:1] * 300}
        found["nothing in parts"] = [*empty[-1:], *broken[:1]] * 150
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_cost_is_in_proportion_to_the_length(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    for sort, ids in runs(name).items():
        ids = ids[:300]
        counting = Counting(tokenizer)
        pieces = IncrementalDecoder(counting)
        text = "".join([*(pieces.push(i) for i in ids), pieces.finish()])
        assert text == tokenizer.decode(ids), sort
        few = 6 if sort in ("text", "one") else 36  # from the start each time: 150
        assert counting.decoded < few * len(ids), sort


class Counting:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.decoded = tokenizer, 0

    def decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        return self.tokenizer.decode(list(ids))


@given(
    text=st.text(alphabet="abc", max_size=12),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_a_text_passes_up_to_the_first_stop_that_is_complete(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    """The stop text that is complete first cuts the text, at its first position."""
    expected = text
    for end in range(len(text) + 1):
        places = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if places:
            expected = text[: min(places)]
            break
    up_to, passed = StopTextFilter(stops), ""
    for character in text:
        passed += up_to.push(character)
        assert expected.startswith(passed)
    assert passed + up_to.finish() == expected
    # IncrementalDecoder of any size: with a single stop the same.
    if len(stops) == 1:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
        up_to = StopTextFilter(stops)
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert "".join([*map(up_to.push, parts), up_to.finish()]) == expected


class Script(nn.Module):
    """Model that predicts the given ids in turn for any input, then repeats the last."""

    window = 10_000

    def __init__(self, said: list[int], vocab_size: int) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.said, self.vocab_size = said, vocab_size

    def new_cache(self, batch: int, length: int) -> Any:
        self.turn = 0
        return type("Cache", (), {"length": 0})()

    def forward(self, tokens: Tensor, cache: Any, **_: Any) -> Tensor:
        following = torch.full((len(tokens), 1), self.said[min(self.turn, len(self.said) - 1)])
        self.turn += 1
        return nn.functional.one_hot(following, self.vocab_size).float()


def said(name: str, ids: list[int], prompt: str, **more: Any) -> tuple[str, list[str]]:
    """Returns the text and its pieces."""
    tokenizer = TOKENIZERS[name]
    module = Script(ids, tokenizer.vocab_size)
    begin = tokenizer.vocab_size - 1
    model = LanguageModel(module, tokenizer, begin_token=begin)  # type: ignore[arg-type]
    options: dict[str, Any] = {"greedy": True, "max_new_tokens": len(ids), **more}
    pieces: list[str] = []
    text = model.generate(prompt, stream=pieces.append, **options)
    assert text == model.generate(prompt, **options) == model.generate([prompt], **options)[0]
    return str(text), pieces


@settings(max_examples=25, deadline=None)
@given(NAMES, st.data())
def test_the_prompt_as_typed_then_what_the_tokens_add(name: str, data: st.DataObject) -> None:
    any_text(name, data)


@settings(max_examples=25, deadline=None)
@given(NAMES, st.data())
def test_a_stop_is_cut_off_wherever_it_stands(name: str, data: st.DataObject) -> None:
    any_stop(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["any_text", "any_stop"])
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_texts_of_each_kind_at_length(name: str, check: str, data: st.DataObject) -> None:
    globals()[check](name, data)


def any_text(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    prompt, ids = data.draw(PROMPTS), data.draw(ids_of(name))
    text, pieces = said(name, ids, prompt)
    until = ids.index(tokenizer.end_of_text) if tokenizer.end_of_text in ids else len(ids)
    before = tokenizer.encode(prompt)
    added = tokenizer.decode([*before, *ids[:until]])[len(tokenizer.decode(before)) :]
    assert text == prompt + added
    assert "".join(pieces) == text
    assert all(pieces)
    if prompt:
        assert pieces[0] == prompt


def any_stop(name: str, data: st.DataObject) -> None:
    prompt, ids = data.draw(PROMPTS), data.draw(ids_of(name))
    whole = said(name, ids, prompt)[0][len(prompt) :]
    start = data.draw(st.integers(0, max(0, len(whole) - 1)))
    stop = whole[start : start + data.draw(st.integers(1, 4))] or "x"
    text, pieces = said(name, ids, prompt, stop=stop)
    assert text == prompt + whole.partition(stop)[0]
    assert "".join(pieces) == text


@pytest.mark.parametrize("name", FALLING_BACK)
def test_half_a_character_takes_none_of_the_prompt_s(name: str) -> None:
    """One more byte makes the library return U+FFFD for every byte of the previous emoji."""
    tokenizer = TOKENIZERS[name]
    half = tokenizer.backend.token_to_id("<0xF0>")
    assert said(name, [half], "🙂")[0] == "🙂\ufffd"
    ids = [*tokenizer.encode("🙂"), half]
    text, pieces = said(name, ids, "a")
    assert text.replace(" ", "") == "a🙂\ufffd"
    assert [piece for piece in pieces if "🙂" in piece]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_first_word_of_a_text_ends_at_no_space_before_it(name: str) -> None:
    """SentencePiece's first token begins with a hidden space, which is not a stop text."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("the cat")
    expected = tokenizer.decode(ids).partition(" ")[0]
    assert said(name, ids, "", stop=" ")[0] == expected
