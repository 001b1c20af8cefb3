"""View of the logit lens: the most probable token after each layer, at each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from etude.activations.names import list_sites
from etude.analysis.curves import COLOUR_MAP, new_figure, shorten
from etude.arguments import check_arguments
from etude.errors import Problem, RequestError
from etude.escaping import figure_label
from etude.interpret.inputs import Ids
from etude.interpret.lens import logits_by_layer
from etude.views.colour_scale import ink_on
from etude.views.model_input import ModelInput, checked_module, read_input
from etude.views.token_labels import TokenLabels
from etude.views.view_page import View, html_page, rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 5
"""Number of most probable tokens of a cell."""


@dataclass
class LensTable:
    """The most probable tokens after each layer, at each position.

    Attributes:
        read: the tokens.
        ids: ids of the most probable tokens (layers, T, 5), from the most probable one.
        probabilities: their probabilities, of the same shape.
        names: a visible text of each of the ids.
        targets: id of the token to predict at each position; None for none.
    """

    read: ModelInput
    ids: list[list[list[int]]]
    probabilities: list[list[list[float]]]
    names: dict[int, str]
    targets: list[int | None]

    @property
    def layers(self) -> list[str]:
        """Names of the rows."""
        return ["embedding", *(f"layer {i}" for i in range(len(self.ids) - 1))]


@check_arguments(RequestError)
def lens_view(model: Any, text: Ids) -> View:
    """Returns a view of the logit lens (nostalgebraist 2020): the token that the model would
    predict after each layer, at each position.

    The page shows the 5 most probable tokens of the cell under the pointer. Cells in which the most
    probable token is the next token of the text have a frame; for a model of masked tokens, those
    in which it is the token itself. See `etude.interpret.lens_logits`.

    Args:
        model: a decoder, or an encoder with a head over the vocabulary, with its tokenizer.
        text: a text, or token ids (T,).

    Raises:
        RequestError: the model gives no logits over the vocabulary.
    """
    module = checked_module(model)
    sites = {site.name: site for site in list_sites(module)}
    letters = sites["logits"].letters if "logits" in sites else ""
    if letters != "B T V" or not hasattr(module, "read_out"):
        expected = "a decoder, or an encoder with a head over the vocabulary"
        raise RequestError(Problem("model", expected, type(module).__name__))
    read = read_input(model, text)
    ids, probabilities = [], []
    for logits in logits_by_layer(model, [read.ids]):
        best = logits[0].float().softmax(-1).topk(min(TOP, logits.shape[-1]))
        ids.append(best.indices.tolist())
        probabilities.append(best.values.tolist())
    label = TokenLabels(getattr(model, "tokenizer", None))
    names = {token: label([token])[0] for token in torch.tensor(ids).unique().tolist()}
    own: list[int | None] = list(read.ids)
    targets = [*own[1:], None] if getattr(model, "continues", False) else own
    table = LensTable(read, ids, probabilities, names, targets)
    order = {token: number for number, token in enumerate(names)}
    data = {
        "labels": read.labels,
        "layers": table.layers,
        "names": list(names.values()),
        "top": [[[order[token] for token in cell] for cell in row] for row in ids],
        "probabilities": [[[rounded(p) for p in cell] for cell in row] for row in probabilities],
        "targets": [order.get(-1 if token is None else token, -1) for token in targets],
    }
    title = "Logit lens"
    html = html_page(title, "lens.js", data, note=read.note)
    summary = f"{len(ids)} layers x {len(read.ids)} positions"
    return View(title, summary, html, lambda: draw_lens(table))


_COLUMNS, _BANDS = 12, 3
"""Number of positions in a row of a figure, and largest number of such rows."""


def draw_lens(table: LensTable) -> Figure:
    """Draws the table, with 12 positions in a row and the first 36 positions."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    T, layers = len(table.read.ids), len(table.ids)
    shown = min(T, _COLUMNS * _BANDS)
    bands = -(-shown // _COLUMNS)
    columns = min(T, _COLUMNS)
    figure = new_figure(2.0 + 0.72 * columns, bands * (0.6 + 0.24 * layers) + 0.3 * (shown < T))
    grid: Any = figure.subplots(bands, 1, squeeze=False)[:, 0]
    colours: Any = colormaps[COLOUR_MAP]
    for band, axes in enumerate(grid):
        first = band * _COLUMNS
        positions = range(first, min(first + _COLUMNS, shown))
        values = torch.full((layers, columns), torch.nan)
        for row in range(layers):
            for column, position in enumerate(positions):
                probability = table.probabilities[row][position][0]
                token = table.ids[row][position][0]
                values[row, column] = probability
                name = figure_label(shorten(table.names[token], 9))
                ink = ink_on(colours(probability))
                axes.text(column, row, name, ha="center", va="center", fontsize=7, color=ink)
                if token == table.targets[position]:
                    corner = (column - 0.46, row - 0.44)
                    axes.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, edgecolor="#D55E00"))
        image = axes.imshow(values, cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="auto")
        labels = [figure_label(shorten(table.read.labels[i], 9)) for i in positions]
        axes.set_xticks(range(len(labels)), labels)
        axes.xaxis.tick_top()
        axes.set_yticks(range(layers), table.layers)
        axes.tick_params(labelsize=7.5, length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(grid), pad=0.01, aspect=30).set_label("probability", fontsize=8)
    if shown < T:
        figure.supxlabel(f"positions 0 to {shown - 1} of {T}", fontsize=8)
    return figure
