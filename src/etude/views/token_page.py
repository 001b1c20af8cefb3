"""View of a text whose tokens are coloured by their losses or by other values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from etude.analysis.curves import new_figure
from etude.arguments import check_arguments
from etude.errors import Problem, RequestError
from etude.escaping import figure_label
from etude.interpret.inputs import Ids, measuring, module_of
from etude.views.colour_scale import NO_VALUE, Scale, ink_on
from etude.views.model_input import ModelInput, checked_module, read_input
from etude.views.token_labels import TokenLabels
from etude.views.view_page import View, html_page, rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 5
"""Number of most probable tokens that are listed."""


@dataclass
class TokenDetails:
    """Predictions of a language model for each token.

    Attributes:
        probabilities: probability of each token; NaN for the first one.
        top: the most probable tokens and their probabilities at each position.
    """

    probabilities: list[float] = field(default_factory=list)
    top: list[list[tuple[str, float]]] = field(default_factory=list)


@check_arguments(RequestError)
def token_view(model: Any, text: Ids, values: Any = None) -> View:
    """Returns a view of a text whose tokens are coloured by their losses, or by given values.

    The page shows the value of the token under the pointer; for losses also the probability of the
    token and the 5 most probable tokens. Colours begin at 0. If a value is negative, blue shows
    negative and red positive values.

    Args:
        model: a decoder with its tokenizer; any model if `values` are given.
        text: a text, or token ids (T,).
        values: a number for each token, such as an attribution; NaN for a token without a value.
            None uses the loss in nats of each token after the first.

    Raises:
        RequestError: there are not as many values as tokens, the model is no decoder, or the text
            has fewer than 2 tokens.
    """
    checked_module(model)
    read = read_input(model, text, least=2 if values is None else 1)
    if values is None:
        numbers, details = _losses(model, read)
        name = "loss in nats"
    else:
        numbers, details = _numbers(values, read), TokenDetails()
        name = "value"
    scale = Scale.of(numbers)
    data = {
        "labels": read.labels,
        "values": [rounded(value) for value in numbers],
        "probabilities": [rounded(value) for value in details.probabilities],
        "top": [[(text, rounded(value)) for text, value in row] for row in details.top],
        "name": name,
        "scale": {"low": scale.low, "high": scale.high, "colours": scale.colours},
    }
    title = "Loss of each token" if values is None else "Value of each token"
    html = html_page(title, "tokens.js", data, note=read.note)
    return View(
        title, f"{len(read.ids)} tokens", html, lambda: draw_tokens(read, numbers, scale, name)
    )


def _losses(model: Any, read: ModelInput) -> tuple[list[float], TokenDetails]:
    """Returns the loss of each token, NaN for the first one, and the model's predictions."""
    module = module_of(model)
    if not getattr(model, "continues", False):
        expected = "a decoder with its tokenizer, which predicts each token from those before it"
        hint = "pass `values` for another model"
        raise RequestError(Problem("model", expected, type(module).__name__, hint))
    tokens = torch.tensor([read.ids], device=next(module.parameters()).device)
    with measuring(model):
        predicted: Tensor = module(tokens)[0, :-1].float().log_softmax(-1)
    log = predicted.gather(-1, tokens[0, 1:, None])[:, 0]
    best, ids = predicted.exp().topk(min(TOP, predicted.shape[-1]))
    label = TokenLabels(model.tokenizer)
    names = {token: label([token])[0] for token in ids.unique().tolist()}
    top = [
        [(names[token], value) for token, value in zip(row, values, strict=True)]
        for row, values in zip(ids.tolist(), best.tolist(), strict=True)
    ]
    details = TokenDetails([math.nan, *log.exp().tolist()], [[], *top])
    return [math.nan, *(-log).tolist()], details


def _numbers(values: Any, read: ModelInput) -> list[float]:
    try:
        array = values.detach().cpu().double() if isinstance(values, Tensor) else values
        numbers = np.asarray(array, dtype=float)
    except (TypeError, ValueError) as error:
        raise RequestError(Problem("values", "a number for each token", values)) from error
    count = len(read.ids) + read.left_out
    if numbers.shape != (count,):
        expected = f"{count} numbers, one for each token"
        raise RequestError(Problem("values", expected, f"shape {numbers.shape}"))
    return [float(number) for number in numbers[: len(read.ids)]]


_WIDTH, _LINE, _SIZE = 6.5, 0.25, 9.0
"""Width of a figure and height of its lines in inches, and font size in points."""


def draw_tokens(read: ModelInput, values: Sequence[float], scale: Scale, name: str) -> Figure:
    """Draws a text with coloured tokens, and a colour bar.

    Args:
        read: the tokens.
        values: value of each token; NaN for none.
        scale: colours of the values.
        name: name of the values.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgb
    from matplotlib.patches import Rectangle

    figure = new_figure(_WIDTH, 1, arranged=False)
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    norm, colours = Normalize(scale.low, scale.high), colormaps[scale.name]
    x, line, boxes = 0.0, 0, []
    for label, value in zip(read.labels, values, strict=True):
        text = figure.text(0, 0, figure_label(label), fontsize=_SIZE, va="center", ha="center")
        width = text.get_window_extent(renderer).width / figure.dpi + 0.05
        if x and x + width > _WIDTH - 0.2:
            x, line = 0.0, line + 1
        boxes.append((text, x, line, width, value))
        x += width
        if "↵" in label:
            x, line = 0.0, line + 1
    height = (line + 1) * _LINE + 0.85
    figure.set_size_inches(_WIDTH, height)
    for text, x, line, width, value in boxes:
        fill = to_rgb(NO_VALUE) if math.isnan(value) else colours(norm(value))[:3]
        left, centre = (0.1 + x) / _WIDTH, 1 - (0.1 + (line + 0.5) * _LINE) / height
        size = width / _WIDTH, 0.88 * _LINE / height
        box = Rectangle((left, centre - size[1] / 2), *size, facecolor=fill, edgecolor="#cccccc")
        box.set(linewidth=0.4, transform=figure.transFigure)
        figure.add_artist(box)
        text.set(position=(left + size[0] / 2, centre), color=ink_on(fill), zorder=3)
    axes = figure.add_axes((0.1 / _WIDTH, 0.42 / height, 0.35, 0.11 / height))
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=axes, orientation="horizontal")
    bar.ax.tick_params(labelsize=8)
    bar.set_label(name, fontsize=8)
    return figure
