"""Activation and path patching: which values carry the difference between two inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from etude.activations.capture import capture
from etude.activations.edits import from_, heads, positions, replace
from etude.activations.names import Site, find_sites, list_sites
from etude.errors import Problem, RequestError
from etude.interpret.inputs import Ids, measuring, module_of, token_ids

if TYPE_CHECKING:
    import pandas as pd

Metric = Callable[[Tensor], Tensor | float]
"""Function of the logits (B, T, V), which returns one number."""


def patching(
    model: Any,
    clean: Ids,
    corrupted: Ids,
    sites: str | Sequence[str] = "blocks.*.out",
    metric: Metric | None = None,
    *,
    by_position: bool = True,
) -> pd.Series:
    """Returns a metric of the corrupted input for each value that is replaced by that of the clean
    input (activation patching; Vig et al. 2020, Meng et al. 2022, arXiv:2202.05262).

    Example:
        patching(model, clean, corrupted, "blocks.*.attention.mixed", metric, by_position=False)

    Args:
        model: a decoder, or another model of token ids.
        clean, corrupted: token ids (B, T) of the same shape, or texts of as many tokens.
        sites: names or patterns of sites. Each head of a site with heads is patched separately.
        metric: function of the logits (B, T, V), which returns a number; None is the logit of the
            clean input's most probable last token minus that of the corrupted input's.
        by_position: whether each position is patched separately.

    Returns:
        Values by `site`, `layer`, `head` (-1 for a site without heads) and `position` (-1 for all).
        The values of the metric without a patch are in the attributes `attrs["clean"]` and
        `attrs["corrupted"]`.

    Raises:
        RequestError: the inputs have different shapes, or there is no such site.
    """
    module, good, bad = _inputs(model, clean, corrupted)
    chosen = find_sites(module, [sites] if isinstance(sites, str) else sites)
    with measuring(model):
        with capture(module, *(site.name for site in chosen)) as seen:
            logits = module(good)
        baseline = module(bad)
        metric = metric or _difference(logits, baseline, same=torch.equal(good, bad))
        keys, numbers = [], []
        for site in chosen:
            for head, position, change in _changes(site, seen[site.name], by_position):
                with replace(module, {site.name: change}):
                    numbers.append(float(metric(module(bad))))
                keys.append((_kind(site), _layer(site), head, position))
        series = _series(keys, numbers, ["site", "layer", "head", "position"])
        series.attrs |= {"clean": float(metric(logits)), "corrupted": float(metric(baseline))}
    return series


def path_patching(
    model: Any,
    clean: Ids,
    corrupted: Ids,
    receivers: str | Sequence[str],
    metric: Metric | None = None,
) -> pd.Series:
    """Returns a metric of the clean input if receivers read the corrupted output of one head (path
    patching; Wang et al. 2022, arXiv:2211.00593, appendix B).

    For each head, the model reads the clean input with this head's output from the corrupted input,
    while all other heads and feed-forward modules keep their clean outputs. The values at the
    receivers are kept, and patched into another pass of the clean input.

    Args:
        model, clean, corrupted: as for `patching`.
        receivers: names or patterns of sites, such as `blocks.5.attention.q` or `final`.
        metric: as for `patching`.

    Returns:
        Values by `layer` and `head`. The metric without a patch is in `attrs`, as for `patching`.

    Raises:
        RequestError: as for `patching`, or a receiver is no site of a later value.
    """
    module, good, bad = _inputs(model, clean, corrupted)
    ends = find_sites(module, [receivers] if isinstance(receivers, str) else receivers)
    listed = list_sites(module)
    mixed = [site for site in listed if site.key == "mixed"]
    frozen = [site for site in listed if site.key == "out" and site.module.count(".") == 2]
    order = {site.name: number for number, site in enumerate(listed)}
    with measuring(model):
        with capture(module, *(site.name for site in (*mixed, *frozen))) as clean_values:
            logits = module(good)
        with capture(module, *(site.name for site in mixed)) as corrupted_values:
            baseline = module(bad)
        metric = metric or _difference(logits, baseline, same=torch.equal(good, bad))
        keys, numbers = [], []
        for sender in mixed:
            # the sender's own branch computes with the patched head; the others stay as they were
            fixed: dict[str, Any] = {
                site.name: from_(clean_values) for site in frozen if site.module != sender.module
            }
            for head in range(corrupted_values[sender.name].shape[sender.axis("H") or 0]):
                patched = {sender.name: heads(head, from_(corrupted_values))}
                with (
                    replace(module, fixed | patched),
                    capture(module, *(site.name for site in ends)) as received,
                ):
                    module(good)
                later = [s.name for s in ends if order.get(s.name, 0) > order[sender.name]]
                with replace(module, {name: from_(received) for name in later}):
                    numbers.append(float(metric(module(good))))
                keys.append((_layer(sender), head))
        series = _series(keys, numbers, ["layer", "head"])
        series.attrs |= {"clean": float(metric(logits)), "corrupted": float(metric(baseline))}
    return series


def _inputs(model: Any, clean: Ids, corrupted: Ids) -> tuple[Any, Tensor, Tensor]:
    good, bad = token_ids(model, clean, "clean"), token_ids(model, corrupted, "corrupted")
    if good.shape != bad.shape:
        expected = f"as many tokens as the clean input has: {tuple(good.shape)}"
        raise RequestError(Problem("corrupted", expected, tuple(bad.shape)))
    return module_of(model), good, bad


def _difference(clean: Tensor, corrupted: Tensor, *, same: bool) -> Metric:
    """Returns the metric that `patching` describes.

    Args:
        clean, corrupted: logits of both inputs.
        same: whether the inputs are equal.

    Raises:
        RequestError: different inputs have the same predictions, so that the metric is always 0.
    """
    first, second = clean[:, -1].argmax(-1), corrupted[:, -1].argmax(-1)
    if not same and torch.equal(first, second):
        expected = "an input with another prediction than `clean`"
        hint = "or pass a metric, such as the logit of a token"
        raise RequestError(Problem("corrupted", expected, first.tolist(), hint))
    rows = torch.arange(len(clean), device=clean.device)

    def metric(logits: Tensor) -> Tensor:
        last = logits[:, -1]
        return (last[rows, first] - last[rows, second]).mean()

    return metric


def _changes(site: Site, value: Tensor, by_position: bool) -> Iterator[tuple[int, int, Any]]:
    """Yields head, position and edit of each patch at a site; -1 means all."""
    head_axis, token_axis = site.axis("H"), site.axis("T")
    has_positions = by_position and token_axis is not None
    source = from_({site.name: value})
    for head in [-1] if head_axis is None else range(value.shape[head_axis]):
        change = source if head == -1 else heads(head, source)
        for position in range(value.shape[token_axis or 0]) if has_positions else [-1]:
            yield head, position, change if position == -1 else positions(position, change)


def _layer(site: Site) -> int:
    numbers = [part for part in site.name.split(".") if part.isdecimal()]
    return int(numbers[0]) if numbers else -1


def _kind(site: Site) -> str:
    return ".".join(part for part in site.name.split(".") if not part.isdecimal())


def _series(keys: list[Any], numbers: list[float], names: list[str]) -> pd.Series:
    import pandas as pd

    return pd.Series(
        numbers, index=pd.MultiIndex.from_tuples(keys, names=names), dtype=float, name="value"
    )
