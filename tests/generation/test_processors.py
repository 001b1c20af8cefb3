from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.errors import InvalidArguments
from etude.generation.beams import beam_search
from etude.generation.generation_config import GenerationConfig
from etude.generation.processors import (
    ForbiddenTokens,
    MinNewTokens,
    NoRepeatNGrams,
    RepetitionPenalty,
    apply,
)
from etude.generation.reader import Reader
from etude.generation.stopping import StopConditions

V = 5
rows = st.lists(st.lists(st.integers(0, V - 1), min_size=4, max_size=4), min_size=1, max_size=3)


def logits_for(tokens: Tensor) -> Tensor:
    return torch.randn(len(tokens), V, generator=torch.Generator().manual_seed(0))


def banned(logits: Tensor) -> list[set[int]]:
    return [{i for i, x in enumerate(row) if x == -torch.inf} for row in logits.tolist()]


@settings(deadline=None)
@given(rows=rows, n=st.integers(1, 6), padding=st.integers(0, 3))
def test_no_repeated_ngrams_by_hand(rows: list[list[int]], n: int, padding: int) -> None:
    tokens = torch.tensor([[-1] * padding + row for row in rows])
    expected = []
    for row in rows:
        ngrams = {tuple(row[i : i + n]) for i in range(len(row) - n + 1)}
        end = tuple(row[len(row) - n + 1 :]) if n > 1 else ()
        expected.append({x for x in range(V) if (*end, x) in ngrams})
    logits = logits_for(tokens)
    assert banned(NoRepeatNGrams(n)(tokens, logits)) == expected


@settings(deadline=None)
@given(rows=rows, penalty=st.floats(0.2, 4), padding=st.integers(0, 2))
def test_repetition_penalty_by_hand(rows: list[list[int]], penalty: float, padding: int) -> None:
    tokens = torch.tensor([[-1] * padding + row for row in rows])
    logits = logits_for(tokens).double()
    expected = [
        [(x / penalty if x > 0 else x * penalty) if i in row else x for i, x in enumerate(xs)]
        for row, xs in zip(rows, logits.tolist(), strict=True)
    ]
    before = logits.clone()
    mine = RepetitionPenalty(penalty)(tokens, logits)
    torch.testing.assert_close(mine, torch.tensor(expected).double())
    assert torch.equal(logits, before)


def test_forbidden_tokens() -> None:
    forbid = ForbiddenTokens([[3], [1, 2], [0, 1, 4]])
    tokens = torch.tensor([[-1, 0, 1], [0, 0, 0], [2, 2, 1]])
    assert banned(forbid(tokens, logits_for(tokens))) == [{2, 3, 4}, {3}, {2, 3}]
    with pytest.raises(InvalidArguments, match=r"sequences\[1\]"):
        ForbiddenTokens([[1], []])


def test_stop_tokens_wait() -> None:
    wait = MinNewTokens(2, 3, [1, 4])
    found = [banned(wait(torch.zeros(1, T), torch.zeros(1, V))) for T in (3, 4, 5)]
    assert found == [[{1, 4}], [{1, 4}], [set()]]


def test_a_text_that_may_not_go_on() -> None:
    tokens = torch.tensor([[0, 1, 2, 3, 4]])
    with pytest.raises(InvalidArguments, match="forbid every"):
        apply([NoRepeatNGrams(1)], tokens, torch.zeros(1, V))


class Bigrams:
    """Model with a table of log-probabilities of the next token given the last one."""

    window = 100

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(4, 4, generator=generator).mul(2).log_softmax(dim=-1)

    def __call__(self, tokens: Tensor, cache: None, *, last_only: bool) -> Tensor:
        return self.table[tokens[:, -1:]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_best_of_all_texts(seed: int, penalty: float) -> None:
    """Scores every text of up to four tokens by hand; token 3 is the stop token."""
    model, start = Bigrams(seed), seed % 3
    scored: dict[tuple[int, ...], float] = {}
    open_texts: dict[tuple[int, ...], float] = {(start,): 0.0}
    for _ in range(4):
        longer = {
            (*text, x): score + float(model.table[text[-1], x])
            for text, score in open_texts.items()
            for x in range(4)
        }
        scored |= {text: s for text, s in longer.items() if text[-1] == 3}
        open_texts = {text: s for text, s in longer.items() if text[-1] != 3}
    scored |= open_texts
    values = {text: s / (len(text) - 1) ** penalty for text, s in scored.items()}
    best = sorted(values, key=values.__getitem__, reverse=True)[:3]
    tokens = torch.tensor([[start]])
    found = beam_search(
        Reader(model, 1, 5, None, use_cache=False),  # type: ignore[arg-type]
        tokens,
        GenerationConfig(
            max_new_tokens=4, beams=81, length_penalty=penalty, early_stopping="never"
        ),
        StopConditions([3]),
    )
    texts = [tuple(row) for row in found.tokens[0, :3].tolist()]
    assert [text[: len(b)] for text, b in zip(texts, best, strict=True)] == best
    expected = torch.tensor([values[text] for text in best])
    torch.testing.assert_close(found.scores[0, :3], expected)
