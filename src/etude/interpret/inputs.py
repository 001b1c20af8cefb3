"""Inputs of measures: the module of a model, token ids, and labelled results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etude.errors import Problem, RequestError
from etude.generation.model_modes import evaluation_mode
from etude.generation.text_constraints import problem_of_ids

if TYPE_CHECKING:
    import pandas as pd

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]] | str
"""Token ids (B, T) or (T,); or a text, for a model with a tokenizer."""

_LAYER = re.compile(r"((?:encoder\.|decoder\.)?)blocks\.(\d+)\.(.*)")


def module_of(model: Any) -> Any:
    """Returns the module of a model: the model itself, or the module in a wrapper."""
    return model.inspected if hasattr(model, "inspected") else model


def token_ids(model: Any, ids: Ids, name: str = "ids") -> Tensor:
    """Returns token ids (B, T) on the model's device.

    Args:
        model: the model; its tokenizer encodes a text.
        ids: ids (B, T) or (T,), or a text.
        name: name of the argument, for messages.

    Raises:
        RequestError: a text for a model without a tokenizer, or not a matrix of ids.
    """
    if isinstance(ids, str):
        tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise RequestError(Problem(name, "token ids, as the model has no tokenizer", ids))
        ids = tokenizer.encode(ids)
    device = next(module_of(model).parameters()).device
    tokens = torch.as_tensor(ids, device=device)
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or tokens.is_floating_point():
        expected = "token ids of shape (sequences, tokens)"
        raise RequestError(Problem(name, expected, tuple(tokens.shape)))
    size = getattr(getattr(module_of(model), "embedding", None), "num_embeddings", None)
    if size is not None and (problem := problem_of_ids(tokens, size, name)):
        raise RequestError(problem)
    return tokens


def single_id(model: Any, token: int | str, name: str) -> int:
    """Returns the id of a token.

    Args:
        model: the model; its tokenizer encodes a text.
        token: the id, or the token's text.
        name: name of the argument, for messages.

    Raises:
        RequestError: the text is not one token, or there is no such id.
    """
    ids = token_ids(model, token if isinstance(token, str) else [token], name)[0].tolist()
    if len(ids) != 1:
        raise RequestError(Problem(name, "a text of one token", f"{len(ids)} tokens"))
    return int(ids[0])


@contextmanager
def measuring(model: Any, *, gradients: bool = False) -> Iterator[None]:
    """Context manager that measures in evaluation mode, by default without gradients."""
    with evaluation_mode(module_of(model)), torch.set_grad_enabled(gradients):
        yield


def vocabulary_size(module: nn.Module) -> int:
    """Returns the number of tokens in a model's embedding.

    Raises:
        RequestError: the model has no embedding of tokens.
    """
    embedding = getattr(module, "embedding", None)
    if not isinstance(embedding, nn.Embedding):
        expected = "a model with an embedding of tokens"
        raise RequestError(Problem("model", expected, type(module).__name__))
    return embedding.num_embeddings


def part_and_layer(site: str) -> tuple[str, int]:
    """Returns the part of the model and the layer that a site belongs to.

    For `decoder.blocks.3.cross.pattern`, these are `decoder.cross` and 3; the layer of a site
    outside the blocks is 0.
    """
    match = _LAYER.match(site)
    prefix, layer, rest = match.groups() if match else ("", "0", site)
    return prefix + rest.rpartition(".")[0], int(layer)


def by_layer(values: Mapping[str, Tensor], *names: str) -> pd.Series:
    """Returns values of sites as a series with the index levels `layer` and `names`.

    If the sites belong to different parts, such as `decoder.cross`, there is a first level `part`.

    Args:
        values: dict from the names of sites to tensors with a dimension for each of `names`.
        names: names of the dimensions, such as `head`.
    """
    import pandas as pd

    keys: list[tuple[Any, ...]] = []
    numbers: list[float] = []
    for site, value in values.items():
        part, layer = part_and_layer(site)
        index = torch.cartesian_prod(*[torch.arange(size) for size in value.shape])
        for position, number in zip(
            index.reshape(value.numel(), -1).tolist(), value.flatten().tolist(), strict=True
        ):
            keys.append((part, layer, *position))
            numbers.append(number)
    index_ = pd.MultiIndex.from_tuples(keys, names=["part", "layer", *names])
    series = pd.Series(numbers, index=index_, dtype=float, name="value")
    return series if series.index.unique("part").size > 1 else series.droplevel("part")
