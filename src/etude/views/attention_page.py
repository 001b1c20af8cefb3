"""Views of attention weights: all heads of a model, and cross-attention as an alignment."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from etude.arguments import check_arguments
from etude.errors import Problem, RequestError
from etude.interpret.inputs import Ids
from etude.views.attention_figure import draw_heads
from etude.views.attention_weights import (
    ALL,
    MEAN,
    Numbers,
    Patterns,
    Weights,
    is_seq2seq,
    read_target,
)
from etude.views.model_input import ModelInput, checked_module, read_input
from etude.views.view_page import View, html_page

_TITLES = {
    "attention": "Self-attention",
    "encoder.attention": "Self-attention of the encoder",
    "decoder.attention": "Self-attention of the decoder",
    "decoder.cross": "Cross-attention",
}


@dataclass
class AttentionPart:
    """Attention weights of one part of a model, such as the encoder.

    Attributes:
        title: heading above the weights.
        queries, keys: tokens of the rows and of the columns.
        weights: weights (T, S) by the names of the layer and of the head.
        after: for a row of a target, the token after which the row's token is predicted.
    """

    title: str
    queries: ModelInput
    keys: ModelInput
    weights: Weights
    after: list[str] = field(default_factory=list)

    @property
    def matrices(self) -> list[np.ndarray]:
        """The weights (T, S) of all heads, layer by layer."""
        return [matrix for heads in self.weights.values() for matrix in heads.values()]

    @property
    def query_name(self) -> str:
        """What the rows are."""
        return "query" if self.queries is self.keys else "target"

    @property
    def key_name(self) -> str:
        """What the columns are."""
        return "key" if self.queries is self.keys else "source"

    @cached_property
    def causal(self) -> bool:
        """Whether no token attends to a later one."""
        return self.queries is self.keys and not any(np.triu(m, 1).any() for m in self.matrices)

    def as_json(self) -> dict[str, Any]:
        """Returns the data for the script `attention.js`.

        Weights are stored as 16-bit floats, which have 3 significant digits from 0.0001 on. Those
        that a causal mask hides are not stored.
        """
        causal = self.causal
        visible: Any = np.tril_indices(len(self.queries.ids)) if causal else ...
        values = np.concatenate([matrix[visible].ravel() for matrix in self.matrices])
        return {
            "title": self.title,
            "queries": self.queries.labels,
            "keys": self.keys.labels,
            "query": self.query_name,
            "key": self.key_name,
            "same": self.queries is self.keys,
            "causal": causal,
            "after": self.after,
            "layers": [[layer, list(heads)] for layer, heads in self.weights.items()],
            "weights": base64.b64encode(values.astype("<f2").tobytes()).decode(),
        }


@check_arguments(RequestError)
def attention_view(
    model: Any,
    text: Ids,
    target: Ids | None = None,
    *,
    layers: Numbers | None = None,
    heads: Numbers | None = None,
) -> View:
    """Returns a view of the attention weights of all heads.

    The page has a small picture of each head; a click shows the head with its tokens. Rows are the
    tokens that attend (queries), columns the tokens that are attended to (keys). A text of more
    than 512 tokens is cut, and the page states how many tokens are left out; for models with more
    than 64 heads, the limit is lower, unless layers or heads are chosen.

    Args:
        model: a decoder, an encoder or an encoder-decoder.
        text: a text, or token ids (T,); for an encoder-decoder, the source.
        target: for an encoder-decoder, the target: a text, or ids that end with the end-of-text
            token. None uses the model's own translation (greedy decoding).
        layers: numbers of the layers; None for all.
        heads: numbers of the heads; None for all.

    Raises:
        RequestError: the model has no attention patterns, there is no such layer or head, or the
            text has fewer than 2 tokens.
    """
    module = checked_module(model)
    patterns = Patterns(model, cross=False, layers=layers, heads=heads)
    source = read_input(model, text, least=2, largest=patterns.largest)
    inputs = [source]
    if is_seq2seq(module):
        inputs.append(read_target(model, source, target, patterns.largest)[1])
    elif target is not None:
        expected = "None, because the model is no encoder-decoder"
        raise RequestError(Problem("target", expected, target))
    parts = []
    for name, weights in patterns.of(*inputs).items():
        read = inputs[-1] if name.startswith("decoder.") else source
        title = _TITLES.get(name, f"Self-attention ({name})")
        parts.append(AttentionPart(title, read, read, weights))
    return _view("Attention", parts)


@check_arguments(RequestError)
def cross_attention_view(
    model: Any,
    source: Ids,
    target: Ids | None = None,
    *,
    layers: Numbers | None = None,
    heads: Numbers | None = None,
) -> View:
    """Returns a view of the cross-attention of an encoder-decoder, as an alignment.

    Rows are the tokens of the target that the decoder predicts, columns those of the source. The
    page shows each head, the mean of each layer's heads, and the mean of all layers.

    Args:
        model: an encoder-decoder.
        source: a text, or token ids (S,).
        target: a text, or ids that end with the end-of-text token; None uses the model's own
            translation (greedy decoding).
        layers: numbers of the decoder's layers; None for all.
        heads: numbers of the heads; None for all.

    Raises:
        RequestError: the model is no encoder-decoder or has no attention patterns, or there is no
            such layer or head.
    """
    module = checked_module(model)
    if not is_seq2seq(module):
        hint = "`attention_view` shows the attention of other models"
        raise RequestError(Problem("model", "an encoder-decoder", type(module).__name__, hint))
    patterns = Patterns(model, cross=True, layers=layers, heads=heads)
    read = read_input(model, source, "source", largest=patterns.largest)
    outputs, begun = read_target(model, read, target, patterns.largest)
    (weights,) = patterns.of(read, begun).values()
    part = AttentionPart(
        _TITLES["decoder.cross"], outputs, read, _with_means(weights), begun.labels
    )
    return _view("Cross-attention", [part])


def _with_means(weights: Weights) -> Weights:
    """Returns the weights with the mean of each layer's heads, after the mean of all layers."""
    layers = {
        layer: heads | ({MEAN: np.mean(list(heads.values()), axis=0)} if len(heads) > 1 else {})
        for layer, heads in weights.items()
    }
    if len(weights) == 1:
        return layers
    every = [matrix for heads in weights.values() for matrix in heads.values()]
    return {ALL: {MEAN: np.mean(every, axis=0)}, **layers}


def _view(title: str, parts: list[AttentionPart]) -> View:
    texts = dict.fromkeys(text for part in parts for text in (part.keys, part.queries))
    notes = dict.fromkeys(text.note for text in texts if text.note)
    summary = "; ".join(
        f"{part.title.lower()}: {len(part.matrices)} matrices of {len(part.queries.ids)} x "
        f"{len(part.keys.ids)} tokens"
        for part in parts
    )
    data = {"parts": [part.as_json() for part in parts]}
    html = html_page(title, "attention.js", data, note=" ".join(notes))
    return View(title, summary, html, lambda: draw_heads(parts))
