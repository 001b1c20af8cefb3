"""Packed documents give the results of separate sequences."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.errors import InvalidArguments
from etude.models.decoder import Decoder
from etude.nn import documents
from etude.nn.attention import MultiHeadAttention, ReferenceAttention
from etude.nn.block import PreNormBlock
from etude.nn.documents import Documents
from etude.nn.feedforward import GELU
from etude.nn.mask import Bidirectional, Causal, Prefix, SlidingWindow
from etude.nn.norm import LayerNorm
from etude.nn.position import ALiBi, Learned, NoPosition, RelativeBias, Rotary, Sinusoidal

BOTH = pytest.mark.parametrize("short", [0, 10**9], ids=["apart", "by_mask"])
POSITIONS = [Learned, Sinusoidal, Rotary, RelativeBias, ALiBi, NoPosition]
MASKS = [Causal, Bidirectional, partial(SlidingWindow, window=3)]


def make(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    given_: dict[str, Any] = {
        "vocab_size": 11, "layers": 2, "heads": 2, "dim": 8, "max_length": 24,
        "attention": MultiHeadAttention, "position": Rotary, "norm": LayerNorm,
        "feedforward": GELU, "mask": Causal, "block": PreNormBlock,
    }  # fmt: skip
    model = Decoder(**(given_ | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def beginnings(rows: list[list[int]]) -> Tensor:
    """Returns (B, T), true where documents of these lengths begin."""
    first = torch.zeros(len(rows), sum(rows[0]), dtype=torch.bool)
    for row, lengths in enumerate(rows):
        at = 0
        for length in lengths:
            first[row, at] = True
            at += length
    return first


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3))
def test_positions_numbers_and_lengths_by_hand(first: list[list[bool]]) -> None:
    found = Documents(torch.tensor(first))
    for row, begins in enumerate(first):
        positions, numbers = [], []
        for t, begin in enumerate(begins):
            new = begin or t == 0
            positions.append(0 if new else positions[-1] + 1)
            numbers.append(0 if t == 0 else numbers[-1] + new)
        assert found.positions[row].tolist() == positions
        assert found.number[row].tolist() == numbers
        assert list(found.lengths[row]) == [numbers.count(n) for n in range(numbers[-1] + 1)]
    assert found.to("cpu") is found


def test_they_begin_with_the_separator() -> None:
    found = Documents.beginning_with(9, torch.tensor([[1, 2, 9, 3, 9, 9], [9, 1, 1, 1, 1, 1]]))
    assert [list(row) for row in found.lengths] == [[2, 2, 1, 1], [6]]


@BOTH
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mask", MASKS)
def test_each_is_as_if_it_stood_alone(
    short: int, position: Any, mask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "SHORT", short)
    rows = [[5, 1, 6], [12], [3, 9], [3, 9]]
    packs = Documents(beginnings(rows))
    assert packs.prefers_split == (short == 0)
    model, tokens = make(position=position, mask=mask), torch.randint(11, (4, 12))
    found = model(tokens, documents=packs)
    for row, lengths in enumerate(rows):
        at = 0
        for length in lengths:
            alone = model(tokens[row : row + 1, at : at + length])
            piece = found[row : row + 1, at : at + length]
            torch.testing.assert_close(piece, alone, rtol=0, atol=1e-11)
            at += length


@BOTH
def test_changing_one_leaves_the_others_exactly(
    short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; without documents, the change affects the others."""
    monkeypatch.setattr(documents, "SHORT", short)
    model, tokens = make().float(), torch.randint(11, (2, 20))
    packs = Documents(beginnings([[8, 12], [8, 12]]))
    changed = tokens.clone()
    changed[:, :8] = (changed[:, :8] + 1) % 11
    before, after = model(tokens, documents=packs), model(changed, documents=packs)
    assert torch.equal(before[:, 8:], after[:, 8:])
    assert not torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(model(tokens)[:, 8:], model(changed)[:, 8:])


@BOTH
@given(
    cuts=st.lists(st.lists(st.integers(1, 11), max_size=4, unique=True), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_packed_loss_and_gradients_are_the_mean_of_the_unpacked(
    short: int, cuts: list[list[int]], seed: int
) -> None:
    before, documents.SHORT = documents.SHORT, short
    try:
        g = torch.Generator().manual_seed(seed)
        tokens, targets = torch.randint(11, (2, 2, 12), generator=g)
        first = torch.zeros(2, 12, dtype=torch.bool)
        for row, places in enumerate(cuts):
            first[row, places] = True
        packs = Documents(first)
        model, alone = make(), make()
        packed = F.cross_entropy(model(tokens, documents=packs).flatten(0, 1), targets.flatten())
        packed.backward()
        sums = []
        for row, lengths in enumerate(packs.lengths):
            for t, u in zip(
                tokens[row].split(list(lengths)), targets[row].split(list(lengths)), strict=True
            ):
                sums.append(F.cross_entropy(alone(t[None])[0], u, reduction="sum"))
        mean = torch.stack(sums).sum() / 24
        mean.backward()
        torch.testing.assert_close(packed, mean, rtol=0, atol=1e-10)
        for a, b in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-10)
    finally:
        documents.SHORT = before


@BOTH
@pytest.mark.parametrize("attention", [ReferenceAttention, partial(MultiHeadAttention, kv_heads=1)])
def test_with_padding(short: int, attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SHORT", short)
    packs = Documents(beginnings([[5, 7], [5, 7], [12]]))
    keep = torch.ones(3, 12, dtype=torch.bool)
    keep[0, 9:], keep[1, 5:] = False, False
    model, tokens = make(attention=attention), torch.randint(11, (3, 12))
    found = model(tokens, documents=packs, keep=keep)
    assert found.isfinite().all()
    expected = model(tokens, documents=packs)
    torch.testing.assert_close(found[keep], expected[keep], rtol=0, atol=1e-11)


def test_recomputed_blocks_know_them_too() -> None:
    packs, tokens = Documents(beginnings([[5, 7]])), torch.randint(11, (1, 12))
    losses = [
        make(recompute=recompute)(tokens, documents=packs).square().sum()
        for recompute in (False, True)
    ]
    assert torch.equal(*losses)


def test_what_cannot_be_packed_is_refused() -> None:
    packs, tokens = Documents(beginnings([[5, 7]])), torch.randint(11, (1, 12))
    with pytest.raises(InvalidArguments, match="'Prefix': expected a mask that does not depend"):
        make(mask=partial(Prefix, length=3))(tokens, documents=packs)
    model = make()
    with pytest.raises(InvalidArguments, match="documents"):
        model(tokens, model.new_cache(1, 12), documents=packs)
