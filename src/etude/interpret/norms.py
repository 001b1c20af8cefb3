"""Sizes of weights, updates, gradients and activations by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.activations.capture import capture
from etude.errors import Problem, RequestError
from etude.interpret.inputs import Ids, measuring, module_of, token_ids

if TYPE_CHECKING:
    import pandas as pd


def weight_norms(model: Any) -> pd.Series:
    """Returns the root mean square of each parameter, by the parameter's `name`."""
    return _by_name((name, value.detach()) for name, value in _parameters(model))


def update_norms(model: Any, earlier: Any) -> pd.Series:
    """Returns the root mean square of the difference of each parameter between two models, by its
    `name`.

    Args:
        model: the model, such as that of a later checkpoint.
        earlier: a model of the same shape.

    Raises:
        RequestError: the models have parameters of other names or shapes.
    """
    before = dict(_parameters(earlier))
    now = dict(_parameters(model))
    shapes = [{name: p.shape for name, p in each.items()} for each in (now, before)]
    if shapes[0] != shapes[1]:
        different = sorted(
            name for name in now.keys() | before.keys()
            if shapes[0].get(name) != shapes[1].get(name)
        )  # fmt: skip
        expected = "a model with parameters of the same names and shapes"
        raise RequestError(Problem("earlier", expected, f"other {', '.join(different[:4])}"))
    return _by_name((name, value.detach() - before[name].detach()) for name, value in now.items())


def gradient_norms(
    model: Any, ids: Ids, loss: Callable[[Tensor, Tensor], Tensor] | None = None
) -> pd.Series:
    """Returns the root mean square of each parameter's gradient, by the parameter's `name`.

    The gradients that the model has are kept.

    Args:
        model: a decoder, or another model of token ids.
        ids: token ids (B, T), or a text.
        loss: function of the model's output and the ids; None is the mean loss of the next token.
    """
    module, tokens = module_of(model), token_ids(model, ids)
    pairs = [(name, value) for name, value in _parameters(model) if value.requires_grad]
    with measuring(model, gradients=True):
        value = (loss or _next_token_loss)(module(tokens), tokens)
        grads = torch.autograd.grad(value, [value for _, value in pairs], allow_unused=True)
    return _by_name(
        (name, torch.zeros_like(weight) if grad is None else grad)
        for (name, weight), grad in zip(pairs, grads, strict=True)
    )


def activation_norms(model: Any, *inputs: Ids, sites: str = "blocks.*.out") -> pd.Series:
    """Returns the root mean square of the values at sites, by `site`.

    Args:
        model: the model.
        inputs: token ids (B, T) or a text; for an encoder-decoder, source and target.
        sites: name or pattern of sites; for an encoder-decoder, such as `decoder.blocks.*.out`.
    """
    module, tokens = module_of(model), [token_ids(model, ids) for ids in inputs]
    with measuring(model), capture(module, sites) as seen:
        module(*tokens)
    return _by_name(seen.items(), "site")


def _parameters(model: Any) -> list[tuple[str, nn.Parameter]]:
    return list(module_of(model).named_parameters())


def _next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _by_name(values: Iterable[tuple[str, Tensor]], name: str = "name") -> pd.Series:
    import pandas as pd

    sizes = {key: float(value.float().square().mean().sqrt()) for key, value in values}
    return pd.Series(sizes, dtype=float, name="value").rename_axis(name)
