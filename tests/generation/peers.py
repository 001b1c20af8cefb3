"""Small random models, ours and those of `transformers`, with the same weights."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.generation.generate import generate

V = 61
SEED = 2  # chosen so that texts and lengths vary
_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "twins.py"
_SPEC = importlib.util.spec_from_file_location("benchmark_twins", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
twins = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(twins)


@cache
def pair(family: str) -> tuple[Any, Any]:
    """Returns (ours, theirs), with weights so large that the next token depends on the context."""
    torch.manual_seed(SEED)
    # A tied embedding makes a model repeat its input.
    shape = {"layers": 2, "heads": 4, "dim": 32, "vocab_size": V, "tied": False}
    if family == "gpt2":
        theirs = twins.gpt2(**shape, max_length=96)
    elif family == "llama":
        theirs = twins.llama(**shape, kv_heads=2, hidden=48, max_length=96)
    else:
        theirs = twins.t5(**shape, head_dim=6, hidden=48)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            gentle = family == "t5" and name == "lm_head.weight"  # its vectors are already large
            parameter.add_((0.15 if gentle else 0.4) * torch.randn_like(parameter))
    return twins.ours(theirs), theirs


def prompts(rows: int, length: int, padded: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns ids, and a mask that is false for the padding on the left."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, V, (rows, length), generator=generator)
    keep = torch.ones_like(tokens, dtype=torch.bool)
    if padded:
        lengths = torch.randint(1, length, (rows,), generator=generator)
        keep = torch.arange(length) >= lengths[:, None]
        keep[0] = True
    return tokens.masked_fill(~keep, 0), keep


def both(
    family: str, tokens: Tensor, keep: Tensor, mine: dict[str, Any], peers: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Returns the ids that each model generates."""
    ours, theirs = pair(family)
    padded = not bool(keep.all())
    # Overrides the defaults of `transformers`: 20 tokens and top-k 50.
    asked = {"do_sample": False, "top_k": 0} | peers
    expected = theirs.generate(tokens, attention_mask=keep.long(), pad_token_id=0, **asked)
    if family == "t5":
        # In practice a source is padded on the right; masked, padding on the left works too.
        reading = ours.reading(tokens, keep if padded else None)
        start = torch.zeros(len(tokens), 1, dtype=torch.long)
        return generate(reading, start, **mine), expected
    return generate(ours, tokens, keep=keep if padded else None, **mine), expected
