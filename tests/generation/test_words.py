"""Forbidden words and stop texts, for any split into tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import TOKENIZERS as KINDS

from etude.data.tokenizer import BPE, Byte, Char, Tokenizer
from etude.data.wordpiece import WordPiece
from etude.errors import InvalidArguments
from etude.generation.sampling import choose
from etude.generation.text_constraints import ForbiddenWords, StopText, TokenTexts

TEXT = (
    "The cat sat on the mat; the category of cats, concatenated. CAT! The naïve café. 我爱北京。 "
)
TOKENIZERS = {
    "bytes": Byte().train([TEXT]),
    "characters": Char().train([TEXT, TEXT.upper()]),
    "bpe": BPE(vocab_size=400).train([TEXT * 20]),
    "wordpiece": WordPiece(vocab_size=200).train([TEXT * 20]),
    "llama": KINDS["llama"],
    "gemma": KINDS["gemma"],
}


def completing(tokenizer: Tokenizer, words: list[str], text: str) -> set[str]:
    """Returns the texts of the forbidden next tokens."""
    spelling = TokenTexts(tokenizer)
    ids = torch.tensor([tokenizer.encode(text)])
    logits = ForbiddenWords(spelling, words)(ids, torch.zeros(1, tokenizer.vocab_size))
    found = (logits[0] == -torch.inf).nonzero().flatten().tolist()
    return {tokenizer.decode([i]) for i in found}


def test_however_it_is_cut_and_cased() -> None:
    bpe = TOKENIZERS["bpe"]
    assert {" cat", " CAT"} & {bpe.decode([i]) for i in range(bpe.vocab_size)}
    for text, last in (("the ca", {"t", "T"}), ("the C", {"at"}), ("CA", {"t", "T"})):
        assert completing(bpe, ["Cat"], text) >= {x for x in last if len(bpe.encode(x)) == 1}, text
    assert " cat" in completing(bpe, ["cat"], "the")
    assert "cat" in completing(bpe, ["cat"], "the ") or len(bpe.encode("cat")) > 1


@pytest.mark.parametrize("name", ["bytes", "characters"])
def test_only_what_completes_the_word_is_forbidden(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert completing(tokenizer, ["cat"], "a ca") == {"t", "T"}
    assert completing(tokenizer, ["cat"], "conca") == set()  # within another word
    assert completing(tokenizer, ["cat"], "the ") == set()
    assert completing(tokenizer, ["t c"], "cat ") == set()
    assert completing(tokenizer, ["; t"], "mat; ") == {"t", "T"}
    assert completing(tokenizer, [" cat "], "a ca") == {"t", "T"}
    assert completing(tokenizer, ["cat", "mat"], "ca") == {"t", "T"}
    assert completing(tokenizer, ["on the"], "on th") == {"e", "E"}


class IncrementalDecoder:
    """Tokenizer with the given texts as tokens; the first is the end of text."""

    end_of_text = 0

    def __init__(self, *texts: str) -> None:
        self.texts = ["<end>", "a", *texts]
        self.vocab_size = len(self.texts)

    def encode(self, text: str) -> list[int]:
        return [self.texts.index(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.texts[i] for i in ids)


def test_tokens_that_show_where_a_word_ends() -> None:
    """With `cat` forbidden, ` category` and `concat` are allowed, ` cat` and `Cat,` are not."""
    pieces = IncrementalDecoder(
        *(" cat", " category", "Cat,", "cats", "a cat sat", "concat", "con-cat", "the category "),
        *("t", "ts", "T!", "tegory", " ", "c", "x"),
    )

    def banned(*written: str) -> set[str]:
        ids = torch.tensor([[pieces.texts.index(text) for text in written]])
        logits = ForbiddenWords(TokenTexts(pieces), ["cat"])(ids, torch.zeros(1, pieces.vocab_size))
        return {pieces.texts[i] for i in (logits[0] == -torch.inf).nonzero().flatten()}

    within = {" cat", "a cat sat", "con-cat"}
    assert banned("x", " ") == within | {"Cat,"}
    assert banned("x") == within
    assert banned(" ", "c", "a") == within | {"t", "T!"}
    assert banned("x", "c", "a") == within


def test_scripts_without_spaces_and_split_characters() -> None:
    assert completing(TOKENIZERS["characters"], ["北京"], "我爱北") == {"京"}
    tokenizer = TOKENIZERS["bytes"]
    ids = list("我爱北京".encode())[:-1]
    forbid = ForbiddenWords(TokenTexts(tokenizer), ["北京"])
    logits = forbid(torch.tensor([ids]), torch.zeros(1, tokenizer.vocab_size))
    assert (logits[0] == -torch.inf).nonzero().flatten().tolist() == ["京".encode()[-1]]
    ids = list("un CAFÉ".encode())[:-1]
    forbid = ForbiddenWords(TokenTexts(tokenizer), ["café"])
    logits = forbid(torch.tensor([ids]), torch.zeros(1, tokenizer.vocab_size))
    banned = {bytes([*ids, i]).decode() for i in (logits[0] == -torch.inf).nonzero().flatten()}
    assert banned == {"un CAFÉ"} | {"un CAFé"} & banned


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_words_and_stops_of_single_bytes(name: str) -> None:
    """The checked part of the text begins and ends inside characters."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("爱" * 9 + "茶京")[1:-1]
    forbid = ForbiddenWords(TokenTexts(tokenizer), ["茶京"])
    logits = forbid(torch.tensor([ids]), torch.zeros(1, tokenizer.vocab_size))
    last = tokenizer.encode("京")[-1]
    assert (logits[0] == -torch.inf).nonzero().flatten().tolist() == [last]
    stop = StopText(TokenTexts(tokenizer), ["茶京"])
    assert stop(torch.tensor([[*ids, last]])).item()
    assert stop(torch.tensor([[*ids, last, tokenizer.encode("爱")[-3]]])).item()
    assert not stop(torch.tensor([ids])).item()
    broken = StopText(TokenTexts(tokenizer), ["\ufffd"])
    assert not broken(torch.tensor([ids])).item()  # further bytes may complete a character


@settings(max_examples=15, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(["cat", "The", "on the", "naïve", "at", "c", "京", "; the", "mat"]),
        min_size=1,
        max_size=4,
    ),
    name=st.sampled_from(["bytes", "characters", "bpe", "llama", "gemma"]),
    seed=st.integers(0, 1000),
)
def test_random_texts_never_hold_them(words: list[str], name: str, seed: int) -> None:
    """Samples among the tokens of a text that contains the words many times."""
    tokenizer = TOKENIZERS[name]
    generator = torch.Generator().manual_seed(seed)
    usual = torch.tensor(sorted({*tokenizer.encode(TEXT), *tokenizer.encode(TEXT.upper())}))
    logits = torch.full((4, tokenizer.vocab_size), -1e4)
    logits[:, usual] = 0.0
    forbid = ForbiddenWords(TokenTexts(tokenizer), words)
    tokens = torch.tensor([tokenizer.encode("The")[:1]] * 4)
    for _ in range(60):
        chosen = choose(forbid(tokens, logits), generator=generator)
        tokens = torch.cat((tokens, chosen[:, None]), dim=1)
    begun = len(tokenizer.decode(tokens[0, :1].tolist()))
    for row in tokens.tolist():
        text = tokenizer.decode(row)
        for word in words:
            # A word in the prompt is not generated text.
            edges = r"(?<!\w){}(?!\w)" if word.isascii() and word.isalpha() else "{}"
            pattern = re.compile(edges.format(re.escape(word)), re.IGNORECASE)
            assert not [m for m in pattern.finditer(text) if m.end() > begun], (word, text)


def test_wordpiece_words() -> None:
    tokenizer = TOKENIZERS["wordpiece"]
    spelling = TokenTexts(tokenizer)
    forbid = ForbiddenWords(spelling, ["CAT"])
    ids = torch.tensor([tokenizer.encode("the mat")])
    logits = forbid(ids, torch.zeros(1, tokenizer.vocab_size))
    assert logits[0, tokenizer.encode("cat")[-1]] == -torch.inf or len(tokenizer.encode("cat")) > 1
    assert logits[0, tokenizer.encode("the")[-1]] == 0


@pytest.mark.parametrize("name", ["bytes", "characters", "bpe", "llama", "gemma"])
def test_stops_as_soon_as_the_text_is_there(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    stop = StopText(TokenTexts(tokenizer), ["mat;", "é"])
    ids = tokenizer.encode("the cat sat on the mat; the café")
    seen = [stop(torch.tensor([ids[: n + 1]])).item() for n in range(len(ids))]
    first = seen.index(True)
    assert "mat;" in tokenizer.decode(ids[: first + 1])
    assert "mat;" not in tokenizer.decode(ids[:first])
    assert seen[-1]


def test_the_name_of_the_end_of_text_is_no_text() -> None:
    tokenizer = TOKENIZERS["bytes"]
    spelling = TokenTexts(tokenizer)
    assert tokenizer.decode([256]) == "<|endoftext|>"
    assert not StopText(spelling, ["endoftext"])(torch.tensor([[65, 256]])).item()
    assert completing(tokenizer, ["endoftext"], "a <|") == set()
    ids = torch.tensor([[*b"x", 256, *b"ca"]])
    logits = ForbiddenWords(spelling, ["cat"])(ids, torch.zeros(1, 257))
    assert (logits[0] == -torch.inf).nonzero().flatten().tolist() == [ord("T"), ord("t")]


@pytest.mark.parametrize(("kind", "key"), [(ForbiddenWords, "forbidden"), (StopText, "stop")])
def test_empty_words(kind: Any, key: str) -> None:
    with pytest.raises(InvalidArguments, match=rf"{key}\[1\]"):
        kind(TokenTexts(TOKENIZERS["bytes"]), ["a", ""])
