"""Direct logit attribution: how much each head and each layer adds to a logit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etude.activations.capture import Capture, capture
from etude.activations.names import list_sites
from etude.errors import Checks, Problem, RequestError
from etude.interpret.inputs import Ids, measuring, module_of, single_id, token_ids
from etude.nn.norm import Frozen

if TYPE_CHECKING:
    import pandas as pd

COMPONENT = ("component", "layer", "head")


def logit_attribution(
    model: Any,
    ids: Ids,
    target: int | str,
    *,
    against: int | str | None = None,
    position: int = -1,
) -> pd.Series:
    """Returns how much each part of a decoder adds directly to the logit of a token.

    The residual stream is the sum of the embedding and the outputs of all heads and feed-forward
    modules. The final norm is linear while its statistics are those of the whole sum. So the logit
    is the sum of a contribution of each part (Elhage et al. 2021; Wang et al. 2022,
    arXiv:2211.00593, section 3.1). A soft cap of the logits is left out: the sum is the logit
    before it.

    Args:
        model: a decoder whose blocks add their branches to the residual stream.
        ids: token ids of one sequence (T,) or (1, T), or a text.
        target: id of the token, or its text.
        against: another token; the result then adds up to the difference of the two logits.
            None means the logit itself.
        position: index of the token after which the target is predicted.

    Returns:
        Values by `component`, `layer` and `head`: the component is `embed`, `head`,
        `attention bias`, `attention` (of a module without heads), `feedforward`, `norm bias` or
        `logit bias`. Layer and head are -1 where they don't apply.

    Raises:
        RequestError: the model is no decoder, its blocks have post-norms, or a norm is not affine
            for fixed statistics.
    """
    import pandas as pd

    module = module_of(model)
    _check(module)
    tokens = token_ids(model, ids)
    if len(tokens) != 1:
        raise RequestError(Problem("ids", "one sequence", f"{len(tokens)} sequences"))
    checks = Checks()
    expected = f"an index of the {tokens.shape[1]} tokens"
    is_index = -tokens.shape[1] <= position < tokens.shape[1]
    checks.that(is_index, "position", position, expected)
    chosen, other = 0, None
    with checks.collecting():
        chosen = single_id(model, target, "target")
    with checks.collecting():
        other = None if against is None else single_id(model, against, "against")
    if checks.problems:
        raise RequestError(checks.problems)
    end = f"blocks.{len(module.blocks) - 1}.out"
    wanted = {"embed", end}
    for site in list_sites(module):
        branch = site.name.split(".")[-2:-1]
        if branch in (["attention"], ["feedforward"]) and site.key in ("mixed", "out"):
            wanted.add(site.name)
    with measuring(model), capture(module, *sorted(wanted)) as seen:
        module(tokens)
    with measuring(model):
        parts = _parts(module, seen, position)
        final = _frozen(module.norm, seen[end][0, position], "norm")
        direction = _direction(module, chosen, other)
        values = {key: final.linear(part) @ direction for key, part in parts.items()}
        if final.constant is not None:
            values["norm bias", -1, -1] = final.constant @ direction
    index = pd.MultiIndex.from_tuples(list(values), names=list(COMPONENT))
    return pd.Series(
        [float(value) for value in values.values()], index=index, dtype=float, name="value"
    )


def _check(module: nn.Module) -> None:
    if not hasattr(module, "blocks") or not hasattr(module, "embedding"):
        raise RequestError(Problem("model", "a decoder", type(module).__name__))
    for i, block in enumerate(module.blocks):  # type: ignore[arg-type]
        if not getattr(block, "additive", False):
            expected = "a block that adds its branches to the residual stream"
            hint = "with post-norms, the stream is no sum of the branches"
            raise RequestError(Problem(f"blocks.{i}", expected, type(block).__name__, hint))


def _parts(module: Any, seen: Capture, position: int) -> dict[tuple[str, int, int], Tensor]:
    """Returns the vectors (D,) that add up to the last block's output, by component."""
    parts = {("embed", -1, -1): seen["embed"][0, position]}
    for i, block in enumerate(module.blocks):
        name = f"blocks.{i}.attention"
        whole = seen[f"{name}.out"][0, position]
        frozen = _frozen(block.output_norm("attention"), whole, f"{name} norm")
        if f"{name}.mixed" in seen:
            mixed = seen[f"{name}.mixed"][0, :, position]  # (H, K)
            out = block.attention.out
            bias = out(torch.zeros_like(mixed.flatten()))
            for head in range(len(mixed)):
                alone = torch.zeros_like(mixed)
                alone[head] = mixed[head]
                parts["head", i, head] = frozen.linear(out(alone.flatten()) - bias)
            parts["attention bias", i, -1] = _with_constant(frozen.linear(bias), frozen)
        else:
            parts["attention", i, -1] = _with_constant(frozen.linear(whole), frozen)
        if block.has_feedforward:
            name = f"blocks.{i}.feedforward"
            whole = seen[f"{name}.out"][0, position]
            frozen = _frozen(block.output_norm("feedforward"), whole, f"{name} norm")
            parts["feedforward", i, -1] = _with_constant(frozen.linear(whole), frozen)
    return parts


def _with_constant(value: Tensor, frozen: Frozen) -> Tensor:
    return value if frozen.constant is None else value + frozen.constant


def _frozen(norm: nn.Module | None, x: Tensor, where: str) -> Frozen:
    """Returns a norm with the statistics of x; the identity if there is no norm."""
    if norm is None:
        return Frozen(lambda part: part)
    if not hasattr(norm, "frozen"):
        expected = "a norm with the method `frozen`, which returns it for fixed statistics"
        raise RequestError(Problem(where, expected, type(norm).__name__))
    frozen: Frozen = norm.frozen(x)  # type: ignore[operator]
    return frozen


def _direction(module: Any, target: int, against: int | None) -> Tensor:
    """Returns the vector (D,) whose product with the final norm's output is the logit."""
    output = module.embedding if module.head is None else module.head
    weight: Tensor = output.weight
    direction = weight[target] if against is None else weight[target] - weight[against]
    return direction * getattr(module, "logit_scale", 1.0)
