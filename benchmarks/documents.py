"""What it costs that packed documents don't see each other: GPT-2's attention and whole steps.

    python benchmarks/documents.py [--quick]

The lengths are real: those of State of the Union speeches, and of their paragraphs, which are
short; in GPT-2's tokens, at 4.5 characters each. Plain causal attention over the same packed
sequences stands beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rows import Row, at_least, in_turn, table
from torch import Tensor

from etude.data.sotu import Sotu
from etude.data.text import Batch
from etude.data.tokenizer import Byte
from etude.models.decoder import Decoder
from etude.nn import documents
from etude.nn.attention import MultiHeadAttention, fused_attention
from etude.nn.block import PreNormBlock
from etude.nn.documents import Documents
from etude.nn.feedforward import GELUTanh
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned

CHARACTERS = 4.5
"""In a token of GPT-2's on this text, about."""

B, T = 4, 1024
NOTES = """\
On a CPU documents are attended to one by one: less work than over the whole sequence, and one more
call of the kernel for each. Where they are shorter than `etude.nn.documents.SHORT` tokens on
average, a mask is put over the scores instead; the last rows say where the two meet.
"""


def packed(lengths: Iterator[int]) -> Documents:
    """B sequences of T tokens, filled with documents of these lengths one after the other."""
    first = torch.zeros(B * T, dtype=torch.bool)
    at = 0
    for length in lengths:
        if at >= len(first):
            break
        first[at] = True
        at += length
    return Documents(first.view(B, T))


def speeches() -> Iterator[int]:
    """Tokens of each speech; every seventh, so that long and short ones are met."""
    sotu = Sotu(tokenizer=Byte(), sequence_length=1, batch=Batch(examples=1))
    for text in list(sotu.documents("train"))[::7]:
        yield max(1, int(len(text) / CHARACTERS))


def paragraphs() -> Iterator[int]:
    """Tokens of each paragraph of the latest speeches."""
    sotu = Sotu(tokenizer=Byte(), sequence_length=1, batch=Batch(examples=1))
    for text in sotu.documents("val"):
        for part in text.split("\n"):
            if part.strip():
                yield max(1, int(len(part) / CHARACTERS))


def step(model: Decoder, tokens: Tensor, given: dict[str, Any]) -> float:
    """Seconds of a forward and a backward pass."""
    began = time.perf_counter()
    logits = model(tokens, **given)
    F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def attention(forward: Callable[..., Tensor], *inputs: Tensor) -> float:
    """Seconds of a forward and a backward pass of attention alone."""
    each = [x.clone().requires_grad_() for x in inputs]
    began = time.perf_counter()
    forward(*each).sum().backward()
    return time.perf_counter() - began


def by_mask(packs: Documents, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All documents at once, under a mask made anew, as the model does once for all layers."""
    seen = packs.mask() & torch.ones(T, T, dtype=torch.bool).tril()
    bias = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, -torch.inf)
    return fused_attention(q, k, v, causal=False, bias=bias)


def apart(packs: Documents, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One document after the other."""
    return packs.attend(fused_attention, q, k, v, bias=None, causal=True)


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about documents."""
    repeats = 2 if quick else 7
    torch.manual_seed(0)
    model = Decoder(
        vocab_size=50257, layers=2 if quick else 12, heads=12, dim=768, max_length=T,
        attention=MultiHeadAttention, position=Learned, norm=LayerNorm, feedforward=GELUTanh,
        mask=Causal, block=PreNormBlock,
    )  # fmt: skip
    tokens = torch.randint(50257, (1 if quick else B, T))
    rows = []
    for what, lengths in (("speeches", speeches), ("paragraphs", paragraphs)):
        packs = packed(lengths())
        number = sum(map(len, packs.lengths))
        given = {"documents": Documents((packs.positions == 0)[: len(tokens)])}
        plain: dict[str, Any] = {}
        step(model, tokens, given)
        a, b, ratio = in_turn(
            partial(step, model, tokens, given), partial(step, model, tokens, plain), repeats
        )
        told = f"GPT-2 step, {what}: {number} documents in {B} x {T} tokens"
        rows.append(at_least(1 / 1.1, told, f"{a:.2f} s", f"plain causal {b:.2f} s", ratio))
    qkv = [torch.randn(B, 12, T, 64) for _ in range(3)]
    for length in (4, 16, 64, 256):
        packs = packed(iter([length] * (B * T // length)))
        a, b, ratio = in_turn(
            partial(attention, partial(apart, packs), *qkv),
            partial(attention, partial(by_mask, packs), *qkv),
            repeats,
        )
        told = f"attention, documents of {length} tokens: one by one, beside by mask"
        note = "" if length != documents.SHORT else "the model takes the mask below this length"
        row = Row(told, f"{1e3 * a:.0f} ms", f"{1e3 * b:.0f} ms", ratio, "", None, note)
        rows.append(row)
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
