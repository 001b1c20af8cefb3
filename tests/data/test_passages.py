from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from etude.data.passages import cut, is_clean_cut
from etude.data.tokenizer import BPE, Byte, Char
from etude.data.unigram import Unigram
from etude.data.wordpiece import WordPiece

# White space of all sorts, letters with and without case, digits, apostrophes, combining marks.
ALPHABET = "  \n\n\r\t\u00a0\u2003\u2028\x1c\x85ab'lZ09é\u0301茶，。🙂½Ⅻ.,-_"
texts = st.text(alphabet=ALPHABET, max_size=200)
RECIPES = (Char(), Byte(), BPE(330), Unigram(330), WordPiece(100))
TOKENIZERS = [recipe.train([ALPHABET * 5]) for recipe in RECIPES]
NEVER = 10**9  # characters


@given(st.lists(texts, max_size=6), st.integers(1, 30), st.integers(1, 60))
def test_passages_make_up_the_text(chunks: list[str], size: int, more: int) -> None:
    passages = list(cut(chunks, size, size + more))
    assert "".join(passages) == "".join(chunks)
    assert all(0 < len(passage) <= size + more for passage in passages)


@given(st.lists(texts, max_size=6), st.integers(1, 30))
@example(["茶茶，茶a。", "9，9½。a1"], 1)
def test_passages_give_the_tokens_of_the_whole(chunks: list[str], size: int) -> None:
    passages = list(cut(chunks, size, NEVER))
    for tokenizer in TOKENIZERS:
        pieces = [token for ids in tokenizer.encode_batch(passages) for token in ids]
        assert pieces == tokenizer.encode("".join(chunks))


@given(st.lists(texts, max_size=6), st.integers(1, 30), st.integers(1, 60))
def test_how_the_text_arrives_does_not_matter(chunks: list[str], size: int, more: int) -> None:
    whole = list(cut(["".join(chunks)], size, size + more))
    assert list(cut(chunks, size, size + more)) == whole


@given(texts, st.integers(1, 30), st.integers(1, 60))
def test_it_is_known_where_a_cut_may_change_tokens(text: str, size: int, more: int) -> None:
    passages = list(cut([text], size, size + more))
    for before, after in pairwise(passages):
        assert is_clean_cut(before, after) or len(before) == size + more


def test_characters_and_bytes_may_be_cut_anywhere() -> None:
    text = "é" * 50
    for tokenizer in TOKENIZERS[:2]:
        pieces = [i for ids in tokenizer.encode_batch(list(cut([text], 3, 7))) for i in ids]
        assert pieces == tokenizer.encode(text)


def test_a_passage_ends_at_the_first_place_after_its_size() -> None:
    assert list(cut(["one two three"], 3)) == ["one", " two", " three"]
    assert list(cut(["one two three"], 4)) == ["one two", " three"]
    assert list(cut(["茶茶茶，茶茶"], 2)) == ["茶茶茶", "，茶茶"]


def test_white_space_is_never_parted_from_what_follows() -> None:
    assert list(cut(["a \n  b c"], 2, NEVER)) == ["a \n  b", " c"]


def test_a_text_without_a_place_is_cut_at_the_limit() -> None:
    assert list(cut(["x" * 5, "y" * 5], 2, 4)) == ["xxxx", "xyyy", "yy"]
    assert list(cut(["x" * 10], 2, 10)) == ["x" * 10]
    assert list(cut([" " * 5], 1)) == ["  ", "  ", " "]
    assert list(cut([])) == []
