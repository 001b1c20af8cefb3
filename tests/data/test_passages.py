from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etude.data.passages import cut
from etude.data.tokenizer import BPE, Byte, Char

# White space of all sorts, letters with and without case, digits, apostrophes, combining marks.
ALPHABET = "  \n\n\r\t\u00a0\u2003\u2028\x1c\x85ab'lZ09é\u0301茶🙂.,-"
texts = st.text(alphabet=ALPHABET, max_size=200)
TOKENIZERS = [recipe.train([ALPHABET * 5]) for recipe in (Char(), Byte(), BPE(330))]


@given(st.lists(texts, max_size=6), st.integers(1, 30))
def test_passages_make_up_the_text(chunks: list[str], size: int) -> None:
    assert "".join(cut(chunks, size)) == "".join(chunks)


@given(st.lists(texts, max_size=6), st.integers(1, 30))
def test_passages_give_the_tokens_of_the_whole(chunks: list[str], size: int) -> None:
    passages = list(cut(chunks, size))
    for tokenizer in TOKENIZERS:
        pieces = [token for ids in tokenizer.encode_batch(passages) for token in ids]
        assert pieces == tokenizer.encode("".join(chunks))


@given(st.lists(texts, max_size=6), st.integers(1, 30))
def test_how_the_text_arrives_does_not_matter(chunks: list[str], size: int) -> None:
    assert list(cut(chunks, size)) == list(cut(["".join(chunks)], size))


def test_a_passage_ends_at_the_first_place_after_its_size() -> None:
    assert list(cut(["one two three"], 3)) == ["one", " two", " three"]
    assert list(cut(["one two three"], 4)) == ["one two", " three"]


def test_white_space_is_never_parted_from_what_follows() -> None:
    assert list(cut(["a \n  b c"], 2)) == ["a \n  b", " c"]


def test_a_text_without_spaces_is_one_passage() -> None:
    assert list(cut(["x" * 10, "y" * 10], 3)) == ["x" * 10 + "y" * 10]
    assert list(cut([])) == []
