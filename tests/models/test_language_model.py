from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from etude.errors import InvalidArguments
from etude.models.decoder import Decoder
from etude.models.language_model import LanguageModel
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Rotary


class Bytes:
    """Tokenizer of UTF-8 bytes, with 256 for the end of a text."""

    vocab_size = 257

    def __init__(self, end_of_text: int | None = 256) -> None:
        self.end_of_text = end_of_text

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class Script(nn.Module):
    """Model that predicts the given bytes, one after another, for any input."""

    window = 1000

    def __init__(self, said: bytes, end: int | None = 256) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.said = [*said, end] if end is not None else [*said]

    def new_cache(self, batch: int, length: int) -> Any:
        self.turn = 0
        return type("Cache", (), {"length": 0})()

    def forward(self, tokens: Tensor, cache: Any, *, last_only: bool) -> Tensor:
        following = torch.full((len(tokens), 1), self.said[self.turn])
        self.turn += 1
        return nn.functional.one_hot(following, 257).float()


def scripted(said: bytes, end: int | None = 256) -> LanguageModel:
    return LanguageModel(Script(said, end), Bytes())  # type: ignore[arg-type]


def random_model(**changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    module = Decoder(
        vocab_size=257,
        layers=1,
        heads=2,
        dim=16,
        max_length=16,
        attention=MultiHeadAttention,
        position=Rotary,
        norm=LayerNorm,
        feedforward=GELU,
        mask=Causal,
        block=PreNormBlock,
        **changes,
    )
    return LanguageModel(module, Bytes())


def test_text_begins_with_the_prompt_and_ends_at_the_end_of_text():
    assert scripted(b" and so").generate("Once", greedy=True) == "Once and so"
    assert scripted(b"abcdef").generate(">", greedy=True, max_new_tokens=3) == ">abc"


def test_an_empty_prompt_starts_a_new_document():
    assert scripted(b"Chapter").generate("", greedy=True) == "Chapter"
    model = LanguageModel(Script(b"x"), Bytes(end_of_text=None))  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match="end-of-text"):
        model.generate("")


def test_what_comes_back_follows_what_was_asked():
    model = random_model()
    assert isinstance(model.generate("a", max_new_tokens=2), str)
    several = model.generate("a", samples=3, max_new_tokens=2, seed=0)
    assert len(several) == 3
    assert all(text.startswith("a") for text in several)
    assert len(model.generate(["a"], max_new_tokens=2)) == 1
    texts = model.generate(["a", "bcd"], samples=2, max_new_tokens=2)
    assert [text[:1] for text in texts] == ["a", "a", "b", "b"]
    assert model.generate([]) == []


def test_a_seed_fixes_the_choices():
    model = random_model()
    draw = {"samples": 4, "max_new_tokens": 20}
    assert model.generate("a", seed=0, **draw) == model.generate("a", seed=0, **draw)
    assert model.generate("a", seed=0, **draw) != model.generate("a", seed=1, **draw)
    assert len(set(model.generate("a", seed=0, **draw))) == 4


def test_rows_stop_on_their_own():
    """Each sample ends at its own end of text, although the others continue."""
    model = random_model()
    with torch.no_grad():
        model.module.embedding.weight.mul_(0).add_(0.01 * torch.randn(257, 16))
        # All logits nearly equal but for two: "x" and the end of text.
        model.module.embedding.weight[[ord("x"), 256]] += 3.0
        model.module.norm.bias.fill_(1.0)
        model.module.norm.weight.zero_()
    texts = model.generate("x", samples=40, max_new_tokens=30, seed=0)
    lengths = {len(text) for text in texts}
    assert len(lengths) > 3
    assert {character for text in texts for character in text} == {"x"}


@given(text=st.text(max_size=12), prompt=st.text(max_size=5))
def test_streamed_pieces_are_whole_and_make_up_the_text(text, prompt):
    pieces: list[str] = []
    result = scripted(text.encode()).generate(prompt, greedy=True, stream=pieces.append)
    assert result == prompt + text
    assert "".join(pieces) == result
    assert all(pieces)
    if "\ufffd" not in prompt + text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_pieces_come_as_soon_as_they_are_whole():
    pieces: list[str] = []
    scripted("é€🙂!".encode()).generate("ab", greedy=True, stream=pieces.append)
    assert pieces == ["ab", "é", "€", "🙂", "!"]


def test_a_character_that_was_cut_off_is_shown_at_the_end():
    pieces: list[str] = []
    said = "é".encode()[:1]
    assert scripted(said).generate("a", greedy=True, stream=pieces.append) == "a\ufffd"
    assert pieces == ["a", "\ufffd"]


@pytest.mark.parametrize("arguments", [{"samples": 2}, {"prompt": ["a"]}, {"prompt": ["a", "b"]}])
def test_only_one_text_can_be_streamed(arguments):
    with pytest.raises(InvalidArguments, match="stream"):
        random_model().generate(**({"prompt": "a", "stream": print} | arguments))


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"samples": 0}, "samples"),
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
        ({"beams": 2, "stream": print}, "stream"),
        ({"stop": ["a", ""]}, "stop"),
        ({"forbidden": ""}, "forbidden"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_named(arguments, where):
    with pytest.raises(InvalidArguments) as caught:
        random_model().generate("a", **arguments)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_a_list_gives_each_prompt_the_text_it_has_alone():
    model = random_model()
    model.module.double()
    prompts = ["a", "some longer words", "", "bcd", "a"]
    draw: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.5, "seed": 4}
    for way in ({"greedy": True}, draw, draw | {"samples": 3}, {"beams": 3, "samples": 2}):
        together = model.generate(prompts, **({"max_new_tokens": 12} | way))
        n = way.get("samples", 1)
        for i, prompt in enumerate(prompts[:4]):
            alone = model.generate(prompt, **({"max_new_tokens": 12} | way))
            assert together[n * i : n * i + n] == ([alone] if n == 1 else alone)
    # A repeated prompt is a further sample of it.
    assert model.generate(["a", "a"], **draw) == model.generate("a", samples=2, **draw)
    assert len(set(model.generate(["a"] * 5, **draw))) == 5


def test_batches_of_any_size_give_the_same_and_come_as_they_are_done():
    model = random_model()
    model.module.double()
    draw: dict[str, Any] = {"max_new_tokens": 6, "samples": 2, "seed": 1}
    prompts = ["a", "bc", "def", "g", "hi"]
    batches: list[list[str]] = []
    small = model.generate(prompts, batch_size=4, ready=batches.append, **draw)
    assert small == model.generate(prompts, **draw) == [x for batch in batches for x in batch]
    assert [len(batch) for batch in batches] == [4, 4, 2]


def test_text_that_stops_a_text_is_cut_off():
    said = b"one. two, three"
    assert scripted(said).generate(">", greedy=True, stop=", t") == ">one. two"
    assert scripted(said).generate(">", greedy=True, stop=["x", ". ", "e."]) == ">on"
    assert scripted(said).generate("one, t", greedy=True, stop=[", t"]) == "one, tone. two"
    assert scripted(said).generate(">", greedy=True, stop="w", max_new_tokens=3) == ">one"


@pytest.mark.parametrize("stop", [", t", ". two", "ee", "é"])
def test_no_piece_of_a_stop_text_is_streamed(stop):
    pieces: list[str] = []
    said = "one. ttwo, three é, four".encode()
    text = scripted(said).generate(">", greedy=True, stop=stop, stream=pieces.append)
    assert "".join(pieces) == text == ">" + said.decode().split(stop)[0]
    assert len(pieces) > 4


def test_what_was_held_back_is_shown_after_all():
    pieces: list[str] = []
    text = scripted(b"one, ").generate(">", greedy=True, stop=", t", stream=pieces.append)
    assert "".join(pieces) == text == ">one, "


def test_forbidden_words_are_not_written():
    model = random_model()
    with torch.no_grad():  # the letters of "no" alone are likely
        model.module.norm.weight.zero_()
        model.module.norm.bias.fill_(1.0)
        model.module.embedding.weight.zero_()
        model.module.embedding.weight[[*b"noNO "]] += 5.0
    draw: dict[str, Any] = {"samples": 20, "max_new_tokens": 40, "seed": 0}
    assert any(" no " in text.lower() for text in model.generate("n", **draw))
    for words in ("no", ["NO", "on"]):
        for text in model.generate("n", forbidden=words, **draw):
            assert "no" not in text.lower().split()
            if words != "no":
                assert "on" not in text.lower().split()


def test_another_first_token_and_more_ends():
    model = random_model()
    plain = LanguageModel(model.module, Bytes(end_of_text=None), begin_token=7, stop_tokens=[9])
    ids = torch.tensor([[7, *b"ab"]])
    expected = model.module(ids)[0, -1].argmax()
    text = plain.generate("ab", greedy=True, max_new_tokens=1)
    assert text == "ab" + bytes([expected]).decode(errors="replace")
    assert isinstance(plain.generate("", max_new_tokens=2), str)
    stopping = LanguageModel(model.module, Bytes(), stop_tokens=[int(expected)])
    assert stopping.stop_tokens == [256, int(expected)]


def test_called_with_ids_it_gives_the_logits_of_its_module():
    model = random_model()
    ids = [[1, 2, 3], [4, 5, 6]]
    expected = model.module(torch.tensor(ids))
    torch.testing.assert_close(model(ids), expected)
    torch.testing.assert_close(model(torch.tensor(ids)), expected)
    torch.testing.assert_close(model(ids[1]), expected[1])
    assert model(ids).requires_grad


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"samples": 10_000_000}, "samples"),
        ({"beams": 10_000_000}, "beams"),
        ({"samples": 10**9}, "samples"),
        ({"max_new_tokens": 10**9}, "max_new_tokens"),
    ],
)
def test_more_text_than_there_is_memory_for(
    options: dict[str, int], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10^7 rows of 257 four-byte logits are 10 GB, without the cache."""
    monkeypatch.setattr("etude.models.text_generator.memory_for", lambda _: 8 * 2**30)
    with pytest.raises(InvalidArguments) as refused:
        random_model().generate("a", **options)
    assert [problem.where for problem in refused.value.problems] == [key]
