"""Labels of tokens show every character, and the bytes of characters in several tokens."""

from __future__ import annotations

import pytest
from view_models import WORDS, words

from etude.data.tokenizer import Byte, Tokenizer
from etude.views.token_labels import TokenLabels, visible


@pytest.mark.parametrize(("text", "label"), [
    (" the", "␣the"), ("\n", "↵"), ("\t", "⇥"), ("a b", "a␣b"), ("你好", "你好"), ("😀", "😀"),
    ("\u3000", "\\u3000"), ("\u00a0", "\\u00a0"), ("\x00", "\\x00"), ("\u202e", "\\u202e"),
    ("\u0301", "◌\u0301"), ("\u200d", "\\u200d"), ("क्ष", "क्ष"), ("\u2028", "\\u2028"),
    ("\ud800", "\\ud800"), ("</script>", "</script>"), ("", ""),
])  # fmt: skip
def test_every_character_is_visible(text: str, label: str) -> None:
    assert visible(text) == label


def byte_tokenizer() -> Tokenizer:
    return Byte().train(["a"])


def test_characters_of_several_tokens() -> None:
    tokenizer = byte_tokenizer()
    labels = TokenLabels(tokenizer)(tokenizer.encode("a 你é"))
    assert labels == ["a", "␣", "\\xe4", "\\xbd", "…你", "\\xc3", "…é"]


def test_bytes_that_form_no_character() -> None:
    tokenizer = byte_tokenizer()
    first, second, third = tokenizer.encode("你")
    (letter,) = tokenizer.encode("a")
    labels = TokenLabels(tokenizer)([first, letter, second, first, second, third])
    assert labels == ["\\xe4", "a", "\\xbd", "\\xe4", "\\xbd", "…你"]


def test_special_tokens_and_ids_without_a_tokenizer() -> None:
    tokenizer = words()
    end = WORDS.index("<|endoftext|>")
    assert TokenLabels(tokenizer)([end, WORDS.index("a")]) == ["<|endoftext|>", "a"]
    assert TokenLabels(None)([7, 3]) == ["7", "3"]
