"""Displays of batches: decoded text, special tokens, targets, padding, and other values."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from html_reader import Parsed, check_hostile
from torch import Tensor

from etude import Run
from etude.analysis.step_batch import StepBatch
from etude.data.tokenizer import Char, Tokenizer

TEXT = "ab\ncd <i>&amp;</i>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Char().train([TEXT + "<script>alert(1)"])


def ids(tokenizer: Tokenizer, text: str) -> Tensor:
    return torch.tensor([tokenizer.encode(text)])


def shown(batch: StepBatch) -> str:
    """The text of the first example."""
    return Parsed(batch._repr_html_()).texts("span", "etude-text")[0]


def test_a_batch_of_a_run_is_a_dict_with_its_text(trained: Run) -> None:
    batch = trained.batch(3)
    assert isinstance(batch, dict)
    plain = dict(batch)
    assert list(plain) == list(batch)
    assert repr(batch).startswith("StepBatch(tokens: (4, 8) int64, targets: (4, 8) int64, ")
    assert "tensor(" not in repr(batch)
    tokenizer, parsed = trained.tokenizer(), Parsed(batch._repr_html_())
    assert ["tokens", "(4, 8)", "int64"] in parsed.rows()
    texts = parsed.texts("span", "etude-text")
    for text, tokens, targets in zip(texts, batch["tokens"], batch["targets"], strict=True):
        whole = tokenizer.decode([*tokens.tolist(), int(targets[-1])])
        expected = whole[:-1] + "→" + whole[-1]
        assert text.replace("⏎\n", "\n") == expected.replace("⏎\n", "\n")
    for copied in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert copied._repr_html_() == batch._repr_html_()
        assert torch.equal(copied["tokens"], batch["tokens"])


def test_masked_positions_show_their_targets(tokenizer: Tokenizer) -> None:
    tokens = ids(tokenizer, "abcd")
    labels = torch.full_like(tokens, -100)
    labels[0, 1] = tokens[0, 3]
    batch = StepBatch({"tokens": tokens, "labels": labels}, tokenizer=tokenizer)
    assert shown(batch) == "ab→dcd"
    parsed = Parsed(batch._repr_html_())
    assert parsed.texts("span", "etude-target")[1:] == ["b→d"]  # the first is in the legend
    assert parsed.texts("span", "etude-faint")[1:] == ["a", "cd"]


def test_next_tokens_are_not_repeated_and_a_prompt_is_faint(tokenizer: Tokenizer) -> None:
    tokens = ids(tokenizer, "abcd")
    labels = torch.cat([tokens[:, 1:], ids(tokenizer, "a")], dim=1)
    labels[0, 0] = -100
    keep = torch.tensor([[True, True, True, False]])
    batch = StepBatch({"tokens": tokens, "labels": labels, "keep": keep}, tokenizer=tokenizer)
    assert shown(batch) == "abc→d + 1 padding"
    assert Parsed(batch._repr_html_()).texts("span", "etude-faint")[1:] == ["a"]


def test_special_and_unknown_tokens_have_a_border(tokenizer: Tokenizer) -> None:
    end, far = tokenizer.special_tokens()["<|endoftext|>"], 10_000
    tokens = torch.tensor([[end, *tokenizer.encode("a"), far]])
    parsed = Parsed(StepBatch({"tokens": tokens}, tokenizer=tokenizer)._repr_html_())
    assert parsed.texts("span", "etude-token") == ["<|endoftext|>", str(far)]


def test_hostile_text_and_labels_stay_text(tokenizer: Tokenizer) -> None:
    tokens = ids(tokenizer, "<script>alert(1)")
    parsed = Parsed(StepBatch({"tokens": tokens}, tokenizer=tokenizer)._repr_html_())
    assert "script" not in parsed.tags
    assert "<script>alert(1)" in parsed.text
    from html_reader import HOSTILE

    batch = StepBatch(
        {"tokens": tokens, "labels": torch.tensor([0]), HOSTILE: 3},
        tokenizer=tokenizer,
        labels=[HOSTILE],
    )
    check_hostile(batch._repr_html_())
    assert Parsed(batch._repr_html_()).texts("span", "etude-text")[1].startswith("<script>")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"numbers": torch.tensor([[[0.5, 1.0]]]), "values": torch.tensor([[2.5]])}, "2.5"),
        ({"numbers": torch.tensor([[[0.5, 1.0]]]), "values": torch.tensor([[torch.nan]])}, "0.50"),
        ({}, "0 examples"),
        ({"step_tokens": 7}, "7"),
        ({"tokens": torch.zeros(0, 4, dtype=torch.long)}, "0 examples"),
        ({"tokens": torch.tensor(3), "other": None}, "NoneType"),
    ],
)
def test_other_batches(values: dict[str, Any], expected: str) -> None:
    assert expected in Parsed(StepBatch(values)._repr_html_()).text


def test_a_long_batch_is_cut(tokenizer: Tokenizer) -> None:
    tokens = ids(tokenizer, "ab").repeat(50, 500)
    html = StepBatch({"tokens": tokens, "targets": tokens}, tokenizer=tokenizer)._repr_html_()
    parsed = Parsed(html)
    assert "and 46 more examples" in parsed.text
    assert "and 744 more tokens" in parsed.text
    assert len(html) < 120_000
