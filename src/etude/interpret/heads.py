"""Scores of attention heads: what they attend to, and whether they copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from etude.activations.capture import capture
from etude.activations.names import list_sites
from etude.errors import Checks, Problem, RequestError
from etude.interpret.inputs import (
    Ids,
    by_layer,
    measuring,
    module_of,
    token_ids,
    vocabulary_size,
)

if TYPE_CHECKING:
    import pandas as pd


def previous_token_scores(
    model: Any,
    ids: Ids | None = None,
    *,
    length: int | None = None,
    sequences: int = 8,
    seed: int = 0,
) -> pd.Series:
    """Returns how much each head attends from a token to the one before it: the mean weight.

    Args:
        model: a decoder.
        ids: token ids (B, T) or a text; None uses random tokens twice in a row, as in
            `induction_scores`.
        length, sequences, seed: as for `induction_scores`; without effect if `ids` is given.

    Returns:
        Values from 0 to 1 by `layer` and `head`.
    """
    tokens = _repeated(model, length, sequences, seed) if ids is None else token_ids(model, ids)
    return _diagonal_scores(model, tokens, offset=1, first=1)


def duplicate_token_scores(
    model: Any, *, length: int | None = None, sequences: int = 8, seed: int = 0
) -> pd.Series:
    """Returns how much each head attends to the earlier occurrence of the current token.

    The input is that of `induction_scores`, and the score the mean weight of the same token in the
    first half, over the tokens of the second half.

    Args:
        model, length, sequences, seed: as for `induction_scores`.

    Returns:
        Values from 0 to 1 by `layer` and `head`.
    """
    tokens = _repeated(model, length, sequences, seed)
    half = tokens.shape[1] // 2
    return _diagonal_scores(model, tokens, offset=half, first=half)


def induction_scores(
    model: Any, *, length: int | None = None, sequences: int = 8, seed: int = 0
) -> pd.Series:
    """Returns how much each head attends to the token after the earlier occurrence of the current
    token (Olsson et al. 2022, arXiv:2209.11895).

    The input consists of sequences of random tokens, each twice in a row: x1 ... xn x1 ... xn. The
    score is the mean weight from a token of the second half to the token that followed its first
    occurrence.

    Args:
        model: a decoder, or a wrapper of one.
        length: number n of random tokens; the model reads 2 n. None is 50, or half of what the
            model can read if that is less.
        sequences: number of sequences.
        seed: seed of the random tokens.

    Returns:
        Values from 0 to 1 by `layer` and `head`.

    Raises:
        RequestError: the model has no attention patterns, or reads fewer than 2 n tokens.
    """
    tokens = _repeated(model, length, sequences, seed)
    half = tokens.shape[1] // 2
    return _diagonal_scores(model, tokens, offset=half - 1, first=half)


def attention_entropy(model: Any, *inputs: Ids) -> pd.Series:
    """Returns the mean entropy of each head's attention weights in nats.

    0 means that each token attends to one other token.

    Args:
        model: the model.
        inputs: token ids (B, T) or a text; for an encoder-decoder, source and target.

    Returns:
        Values by `layer` and `head`; for an encoder-decoder, by `part`, `layer` and `head`.
    """
    parts = {name.partition("blocks.")[0] for name in _pattern_sites(module_of(model))}
    if len(inputs) != len(parts):
        expected = "the source and the target" if len(parts) > 1 else "one input"
        raise RequestError(Problem("inputs", expected, f"{len(inputs)} inputs"))
    tokens = [token_ids(model, ids) for ids in inputs]
    return _of_patterns(
        model, tokens, lambda weights: torch.special.entr(weights).sum(-1).mean((0, 2))
    )


def copying_scores(model: Any) -> pd.Series:
    """Returns whether each head raises the logits of the tokens that it attends to.

    The score is the sum of the eigenvalues of W_E W_V W_O W_U divided by the sum of their absolute
    values (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"): 1 for a head
    that copies each token, -1 for one that suppresses it. Norms, biases and positions are ignored.

    Args:
        model: a decoder.

    Returns:
        Values from -1 to 1 by `layer` and `head`.

    Raises:
        RequestError: the model is no decoder, or an attention module has no matrices `qkv` and
            `out`.
    """
    module = module_of(model)
    vocabulary_size(module)
    embedding: Tensor = module.embedding.weight.detach().double()
    head = getattr(module, "head", None)
    output = embedding if head is None else getattr(head, "weight", None)
    if output is None or output.shape != embedding.shape:
        expected = "a decoder with logits over the vocabulary"
        raise RequestError(Problem("model", expected, type(module).__name__))
    both = output.detach().double().T @ embedding  # (D, D)
    values: dict[str, Tensor] = {}
    for i, block in enumerate(module.blocks):
        attention = block.attention
        if not (hasattr(attention, "qkv") and hasattr(attention, "out")):
            expected = "an attention module with matrices `qkv` and `out`"
            where = f"blocks.{i}.attention"
            raise RequestError(Problem(where, expected, type(attention).__name__))
        H, G, K = attention.heads, attention.kv_heads, attention.head_dim
        value = attention.qkv.weight.detach().double()[-G * K :].unflatten(0, (G, K))
        value = value.repeat_interleave(H // G, dim=0)  # (H, K, D)
        out = attention.out.weight.detach().double().unflatten(1, (H, K)).transpose(0, 1)
        # The nonzero eigenvalues of W_E W_V W_O W_U, with V x V numbers, are those of a K x K
        # matrix: a product has the same ones in each cyclic order.
        inner = value @ both.T @ out  # (H, K, K)
        eigenvalues = torch.linalg.eigvals(inner)
        values[f"blocks.{i}.attention.out"] = eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)
    return by_layer(values, "head")


def score_problems(model: Any, length: int | None = None, sequences: int = 8) -> list[Problem]:
    """Returns the reasons why the heads of a model have no scores on repeated random tokens.

    Args:
        model: the model; its weights are not read.
        length, sequences: as for `induction_scores`.
    """
    checks = Checks()
    module = module_of(model)
    with checks.collecting():
        vocabulary_size(module)
        names = _pattern_sites(module)
        kind = type(module).__name__
        is_single = not any(name.startswith("decoder.") for name in names)
        checks.that(is_single, "model", kind, "a model that reads one sequence, not two")
    if length is not None:
        longest = getattr(module, "max_length", math.inf)
        expected = f"at most {longest // 2}, half of what the model can read"
        checks.that(length > 1, "length", length, "at least 2")
        checks.that(2 * length <= longest, "length", length, expected)
    checks.that(sequences > 0, "sequences", sequences, "a positive number")
    return checks.problems


def _repeated(model: Any, length: int | None, sequences: int, seed: int) -> Tensor:
    """Returns random tokens, each sequence twice in a row: (sequences, 2 length)."""
    if problems := score_problems(model, length, sequences):
        raise RequestError(problems)
    module = module_of(model)
    if length is None:
        length = int(min(50, getattr(module, "max_length", math.inf) // 2))
    generator = torch.Generator().manual_seed(seed)
    size = (sequences, length)
    tokens = torch.randint(vocabulary_size(module), size, generator=generator).repeat(1, 2)
    return tokens.to(next(module.parameters()).device)


def _diagonal_scores(model: Any, tokens: Tensor, *, offset: int, first: int) -> pd.Series:
    """Returns the mean weight from each token, from index `first` on, to the one `offset` before
    it.
    """
    return _of_patterns(
        model,
        [tokens],
        lambda weights: weights.diagonal(-offset, -2, -1)[..., first - offset :].mean((0, 2)),
    )


def _of_patterns(model: Any, inputs: list[Tensor], score: Callable[[Tensor], Tensor]) -> pd.Series:
    """Returns a score of each head's attention weights (B, H, T, S), by layer and head."""
    module = module_of(model)
    names = _pattern_sites(module)
    with measuring(model), capture(module, *names) as seen:
        module(*inputs)
    return by_layer({name: score(seen[name]) for name in names}, "head")


def _pattern_sites(module: Any) -> list[str]:
    """Returns the names of the sites with attention weights.

    Raises:
        RequestError: there are none.
    """
    names = [site.name for site in list_sites(module) if site.key == "pattern"]
    if not names:
        expected = "a model whose attention has the site `pattern`"
        raise RequestError(Problem("model", expected, type(module).__name__))
    return names
