"""Generated texts equal those of `transformers`, token for token, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers import V, both, pair, prompts

from etude.generation.processors import ForbiddenTokens

NEW = 20
FAMILIES = ["gpt2", "llama", "t5"]
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({"greedy": True}, {}),
    "repetition penalty": (
        {"greedy": True, "repetition_penalty": 1.7},
        {"repetition_penalty": 1.7},
    ),
    "no repeated bigram": ({"greedy": True, "no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
    "no repeated token": ({"greedy": True, "no_repeat_ngram": 1}, {"no_repeat_ngram_size": 1}),
    "both": (
        {"greedy": True, "no_repeat_ngram": 3, "repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 1.3},
    ),
    "beams": ({"beams": 4}, {"num_beams": 4}),
    "beams, penalty": (
        {"beams": 4, "repetition_penalty": 1.5, "no_repeat_ngram": 2, "samples": 2},
        {
            "num_beams": 4,
            "repetition_penalty": 1.5,
            "no_repeat_ngram_size": 2,
            "num_return_sequences": 2,
        },
    ),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_way(family: str, way: str, padded: bool) -> None:
    mine, peers = WAYS[way]
    tokens, keep = prompts(5, 9, padded)
    # `transformers` counts padding as repeated tokens, so the text must not contain it.
    a, b = both(
        family,
        tokens,
        keep,
        {"max_new_tokens": NEW, "processors": [ForbiddenTokens([[0]])], **mine},
        {"max_new_tokens": NEW, "eos_token_id": None, "suppress_tokens": [0], **peers},
    )
    assert torch.equal(a, b)
    assert len(a[:, -NEW:].unique()) > 2


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_that_end(family: str, penalty: float, early: Any) -> None:
    """Hypotheses of different lengths compete; rows of a batch end at different steps."""
    tokens, keep = prompts(6, 7, padded=True, seed=3)
    stops = [*range(1, 56, 3)]
    a, b = both(
        family,
        tokens,
        keep,
        {
            "max_new_tokens": NEW,
            "beams": 4,
            "samples": 3,
            "length_penalty": penalty,
            "early_stopping": early,
            "stop_token": stops,
        },
        {
            "max_new_tokens": NEW,
            "num_beams": 4,
            "num_return_sequences": 3,
            "length_penalty": penalty,
            "early_stopping": early,
            "eos_token_id": stops,
        },
    )
    begin = 1 if family == "t5" else tokens.shape[1]
    lengths = set()
    for mine, theirs in zip(a[:, begin:].tolist(), b[:, begin:].tolist(), strict=True):
        rows = [cut(row, stops) for row in (mine, theirs)]
        assert rows[0] == rows[1]
        lengths.add(len(rows[0]))
    if penalty <= 1:  # above, the longest texts win
        assert len(lengths) > 2


def cut(row: list[int], stops: list[int]) -> list[int]:
    ends = [i for i, token in enumerate(row) if token in stops]
    return row[: ends[0] + 1] if ends else row


@pytest.mark.parametrize("family", FAMILIES)
def test_minimum_length_and_stop_tokens(family: str) -> None:
    tokens, keep = prompts(6, 5, padded=True, seed=1)
    stops = [*range(40, 60)]
    a, b = both(
        family,
        tokens,
        keep,
        {"max_new_tokens": NEW, "greedy": True, "stop_token": stops, "min_new_tokens": 6},
        {"max_new_tokens": NEW, "eos_token_id": stops, "min_new_tokens": 6},
    )
    begin = 1 if family == "t5" else tokens.shape[1]
    rows = [cut(row, stops) for row in a[:, begin:].tolist()]
    assert rows == [cut(row, stops) for row in b[:, begin:].tolist()]
    assert min(len(row) for row in rows) > 6


@pytest.mark.parametrize(
    "draw",
    [
        {"temperature": 1.3, "min_p": 0.1},
        {"temperature": 1.5, "top_p": 0.8},
        {"min_p": 0.3, "repetition_penalty": 1.4},
        {},
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_with_the_same_random_numbers(family: str, draw: dict[str, float]) -> None:
    """Without top-k, both use the same sampling rule and torch's generator."""
    tokens, keep = prompts(4, 6, padded=True, seed=2)
    generator = torch.Generator()
    texts = []
    for side in range(2):
        torch.manual_seed(9)
        generator.manual_seed(9)
        texts.append(
            both(
                family,
                tokens,
                keep,
                {"max_new_tokens": NEW, "samples": 2, "generator": generator, **draw},
                {
                    "max_new_tokens": NEW,
                    "eos_token_id": None,
                    "do_sample": True,
                    "num_return_sequences": 2,
                    **draw,
                },
            )[side]
        )
    assert torch.equal(*texts)
    assert len(texts[0][:, -NEW:].unique()) > 10


def test_top_k_draws_in_the_same_proportions() -> None:
    """Chi-square test of two samples of the first two tokens after one prompt."""
    tokens, keep = prompts(1, 6, padded=False, seed=4)
    draw = {"temperature": 3.0, "top_k": 5}
    n = 6000
    torch.manual_seed(0)
    a, b = both(
        "gpt2",
        tokens,
        keep,
        {"max_new_tokens": 1, "samples": n, **draw},
        {
            "max_new_tokens": 1,
            "eos_token_id": None,
            "do_sample": True,
            "num_return_sequences": n,
            **draw,
        },
    )
    counts = torch.stack([x[:, -1].bincount(minlength=V) for x in (a, b)]).double()
    counts = counts[:, counts.sum(dim=0) > 0]
    assert counts.shape[1] == 5
    assert counts.min() > 20
    expected = counts.sum(dim=0) / 2
    assert ((counts - expected) ** 2 / expected).sum() < 18.467  # 99.9 %, 4 degrees of freedom


def test_the_models_are_the_same() -> None:
    tokens, _ = prompts(2, 8, padded=False)
    for family in ("gpt2", "llama"):
        ours, theirs = pair(family)
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
