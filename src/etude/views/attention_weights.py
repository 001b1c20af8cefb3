"""Attention weights of the heads of a model for one text, or for a source and its target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from etude.activations.capture import capture
from etude.activations.names import Site, list_sites
from etude.errors import Problem, RequestError
from etude.generation.generate import generate
from etude.interpret.inputs import Ids, measuring, module_of, part_and_layer
from etude.views.model_input import LONGEST, ModelInput, read_input

LARGEST = 2**24
"""Largest number of weights on a page, about 45 MB."""

ALL, MEAN = "all", "mean"
"""Names of the mean of all layers, in place of a layer, and of the mean of heads."""
START = "<start>"
"""Label of the decoder's start token, whose name in the vocabulary can be that of padding."""

Numbers = int | Sequence[int]
Weights = dict[str, dict[str, np.ndarray]]
"""Weights (T, S) by the names of the layer and of the head."""


def is_seq2seq(module: Any) -> bool:
    """Returns whether a model has an encoder, and a decoder that reads a start token first."""
    return hasattr(module, "encoder") and hasattr(module, "start_token")


class Patterns:
    """Attention patterns of the chosen layers and heads of a model.

    Args:
        model: the model.
        cross: whether the patterns are those of cross-attention, or of self-attention.
        layers, heads: numbers of layers and heads; negative ones count from the last. None for all.

    Attributes:
        largest: largest number of tokens of a text.

    Raises:
        RequestError: the model has no attention patterns, or no such layer.
    """

    def __init__(
        self, model: Any, *, cross: bool, layers: Numbers | None, heads: Numbers | None
    ) -> None:
        self.model, self.module, self.heads = model, module_of(model), heads
        sites = [site for site in list_sites(self.module) if site.key == "pattern"]
        sites = [site for site in sites if _part(site).endswith("cross") == cross]
        if not sites:
            expected = f"a model whose {'cross-' * cross}attention has the site `pattern`"
            hint = "`model.sites()` lists the sites"
            raise RequestError(Problem("model", expected, type(self.module).__name__, hint))
        numbers = sorted({part_and_layer(site.name)[1] for site in sites})
        chosen = _chosen("layers", layers, numbers)
        self.sites = [site for site in sites if part_and_layer(site.name)[1] in chosen]
        counts = [
            getattr(self.module.get_submodule(site.module), "heads", 1) for site in self.sites
        ]
        shown = len(heads) if isinstance(heads, Sequence) else 1
        count = sum(counts) if heads is None else len(self.sites) * shown
        self.largest = min(LONGEST, math.isqrt(LARGEST // max(1, count)))

    def of(self, *inputs: ModelInput) -> dict[str, Weights]:
        """Returns the weights of each part of the model, such as `encoder.attention`.

        Args:
            inputs: the text, or a source and the tokens that the decoder reads.

        Raises:
            RequestError: there is no such head.
        """
        device = next(self.module.parameters()).device
        ids = [torch.tensor([each.ids], device=device) for each in inputs]
        names = [site.name for site in self.sites]
        with measuring(self.model), capture(self.module, *names, rows=0, device="cpu") as seen:
            self.module(*ids)
        patterns = {name: seen[name].float().numpy() for name in names}
        most = max(len(pattern) for pattern in patterns.values())
        chosen = _chosen("heads", self.heads, range(most))
        weights: dict[str, Weights] = {}
        for site in self.sites:
            layer = str(part_and_layer(site.name)[1])
            pattern = patterns[site.name]
            heads = {str(head): pattern[head] for head in chosen if head < len(pattern)}
            if heads:
                weights.setdefault(_part(site), {})[layer] = heads
        return weights


def read_target(
    model: Any, source: ModelInput, target: Ids | None, largest: int
) -> tuple[ModelInput, ModelInput]:
    """Returns the target that an encoder-decoder predicts, and the tokens that its decoder reads.

    The decoder reads the start token and the target without its last token.

    Args:
        model: the model.
        source: the source.
        target: a text, or ids that end with the end-of-text token; None uses the greedy
            translation.
        largest: largest number of tokens.

    Raises:
        RequestError: the target is invalid; see `read_input`.
    """
    module = module_of(model)
    stopped = ""
    if target is None:
        device = next(module.parameters()).device
        start = torch.tensor([[module.start_token]], device=device)
        stops = list(getattr(model, "stop_tokens", []))
        with measuring(model):
            reading = module.reading(torch.tensor([source.ids], device=device))
            new = min(largest, module.max_length)
            row = generate(reading, start, max_new_tokens=new, greedy=True, stop_token=stops)
        ids = row[0, 1:].tolist()
        end = next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))
        target = ids[:end]
        if end == 0 or ids[end - 1] not in stops:
            stopped = f"The translation, which has no end, is cut off after {end} tokens."
    outputs = read_input(model, target, "target", largest=largest)
    outputs = replace(outputs, note=outputs.note or stopped)
    begun = [module.start_token, *outputs.ids[:-1]]
    labels = [START, *outputs.labels[:-1]]
    return outputs, ModelInput(begun, labels, outputs.left_out, outputs.note)


def _part(site: Site) -> str:
    return part_and_layer(site.name)[0]


def _chosen(name: str, numbers: Numbers | None, existing: Sequence[int]) -> list[int]:
    """Returns the chosen ones of the existing layers or heads, in ascending order.

    Raises:
        RequestError: one of them does not exist, or none is chosen.
    """
    if numbers is None:
        return list(existing)
    wanted = [numbers] if isinstance(numbers, int) else [int(number) for number in numbers]
    count = existing[-1] + 1
    chosen = [number + count if number < 0 else number for number in wanted]
    unknown = [n for n, c in zip(wanted, chosen, strict=True) if c not in existing]
    if unknown or not wanted:
        listed = ", ".join(map(str, existing)) if len(existing) < 20 else f"0 to {count - 1}"
        value: object = unknown[0] if unknown else []
        raise RequestError(Problem(name, f"numbers of {name} of the model: {listed}", value))
    return sorted(set(chosen))
