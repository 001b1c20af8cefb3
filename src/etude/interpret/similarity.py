"""Similarity of representations: neighbours of a token's embedding, and CKA between models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.activations.capture import capture
from etude.errors import Problem, RequestError
from etude.interpret.inputs import Ids, measuring, module_of, single_id, token_ids, vocabulary_size

if TYPE_CHECKING:
    import pandas as pd


def embedding_neighbours(model: Any, token: int | str, count: int = 10) -> pd.Series:
    """Returns the tokens whose embeddings have the highest cosine similarity to a token's.

    Args:
        model: a model with an embedding of tokens.
        token: id of the token; or its text, if that is one token of the model's tokenizer.
        count: number of neighbours.

    Returns:
        Similarities from -1 to 1 by `token` (the id), from high to low.

    Raises:
        RequestError: the text is not one token, or there is no such id.
    """
    import pandas as pd

    module = module_of(model)
    number = vocabulary_size(module)
    index = single_id(model, token, "token")
    weight = F.normalize(module.embedding.weight.detach().float(), dim=-1)
    similar = weight @ weight[index]
    similar[index] = -torch.inf
    values, neighbours = similar.topk(min(count, number - 1))
    labels = pd.Index(neighbours.tolist(), name="token")
    return pd.Series(values.tolist(), index=labels, dtype=float, name="value")


def cka(model: Any, other: Any, ids: Ids, sites: str = "blocks.*.out") -> pd.Series:
    """Returns the linear centred kernel alignment of two models' values at each site (Kornblith et
    al. 2019, arXiv:1905.00414, section 4): 1 if they are equal up to a rotation and a factor.

    Args:
        model, other: the models, such as two checkpoints or two seeds. They may have different
            widths, but must have the same sites.
        ids: token ids (B, T), or a text.
        sites: name or pattern of sites. All dimensions but those of sequences and tokens are the
            features.

    Returns:
        Values from 0 to 1 by `site`.
    """
    import pandas as pd

    tokens = token_ids(model, ids)
    seen = []
    for each in (model, other):
        module = module_of(each)
        with measuring(each), capture(module, sites) as values:
            module(tokens)
        seen.append({name: _features(values.sites[name], values[name]) for name in values})
    if seen[0].keys() != seen[1].keys():
        raise RequestError(Problem("other", f"a model with the sites {', '.join(seen[0])}"))
    values_ = {name: _cka(seen[0][name], seen[1][name]) for name in seen[0]}
    return pd.Series(values_, dtype=float, name="value").rename_axis("site")


def _features(site: Any, value: Tensor) -> Tensor:
    """Returns values as a matrix with a row for each token, centred, in double precision."""
    axis = site.axis("T")
    tokens = value.movedim(axis, 1) if axis is not None else value
    matrix = tokens.flatten(0, 1).flatten(1).double()
    return matrix - matrix.mean(0)


def _cka(x: Tensor, y: Tensor) -> float:
    if len(x) < min(x.shape[1], y.shape[1]):  # the smaller of the two kernels
        first, second = x @ x.T, y @ y.T
        return float((first * second).sum() / (first.norm() * second.norm()))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))
