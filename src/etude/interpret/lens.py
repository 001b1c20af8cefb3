"""Logit lens: the predictions that a model would make after each layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from etude.activations.capture import capture
from etude.errors import Problem, RequestError
from etude.interpret.inputs import Ids, measuring, module_of, token_ids

if TYPE_CHECKING:
    import pandas as pd


def lens_logits(model: Any, ids: Ids) -> Tensor:
    """Returns the logits that the model's final norm and output projection give after each layer
    (nostalgebraist 2020, "interpreting GPT: the logit lens").

    Args:
        model: a decoder, a regressor, or an encoder with a head.
        ids: token ids (B, T) or (T,), or a text.

    Returns:
        Logits (L + 1, B, T, V) of the embedding and the output of each of the L layers. The last
        ones are those of the model, bit for bit.

    Raises:
        RequestError: the model has no blocks.
    """
    return torch.stack(list(logits_by_layer(model, ids)))


def logits_by_layer(model: Any, ids: Ids) -> Iterator[Tensor]:
    """Yields the logits of `lens_logits` one layer after the other, which needs less memory.

    Args:
        model, ids: as for `lens_logits`.

    Yields:
        Logits (B, T, V) of the embedding and of the output of each layer.

    Raises:
        RequestError: the model has no blocks.
    """
    module = module_of(model)
    if not hasattr(module, "read_out"):
        expected = "a decoder or an encoder (a model with the method `read_out`)"
        raise RequestError(Problem("model", expected, type(module).__name__))
    names = ["embed", *(f"blocks.{i}.out" for i in range(len(module.blocks)))]
    with measuring(model), capture(module, *names) as seen:
        module(token_ids(model, ids))
    for name in names:
        with measuring(model):
            logits = module.read_out(seen[name])
        yield logits


def logit_lens(model: Any, ids: Ids, targets: Ids | None = None) -> pd.Series:
    """Returns the log probability of the next token after each layer; see `lens_logits`.

    Args:
        model: a decoder.
        ids: token ids (B, T) or (T,), or a text.
        targets: ids (B, T) of the token to predict at each position; None uses the next token, and
            leaves out the last position.

    Returns:
        Values in nats by `blocks` (the number of blocks before the prediction; 0 is the embedding),
        `row` and `position`.
    """
    import pandas as pd

    tokens = token_ids(model, ids)
    logits = lens_logits(model, tokens)
    if targets is None:
        logits, wanted = logits[:, :, :-1], tokens[:, 1:]
    else:
        wanted = token_ids(model, targets, "targets")
        if wanted.shape != tokens.shape:
            expected = f"as many ids as `ids` has: {tuple(tokens.shape)}"
            raise RequestError(Problem("targets", expected, tuple(wanted.shape)))
    layers, rows, positions, _ = logits.shape
    chosen = wanted[None, ..., None].expand(layers, rows, positions, 1)
    values = logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
    index = pd.MultiIndex.from_product(
        [range(layers), range(rows), range(positions)], names=["blocks", "row", "position"]
    )
    return pd.Series(values.flatten().tolist(), index=index, dtype=float, name="value")
