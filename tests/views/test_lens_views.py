"""The lens view shows the most probable tokens after each layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium_page import body_data, dom, needs_chromium, parsed, screenshot
from matplotlib import colormaps
from view_models import HOSTILE, WORDS, V, data_in, decoder, encoder, seq2seq

from etude.errors import RequestError
from etude.interpret import lens_logits
from etude.models.heads import ClassificationHead, MaskedLanguageHead
from etude.views import lens_view

IDS = torch.randint(4, V, (12,), generator=torch.Generator().manual_seed(1)).tolist()


class TestValues:
    def test_the_last_layer_is_the_output(self) -> None:
        model = decoder()
        data = data_in(lens_view(model, IDS).html)
        best = model(IDS).softmax(-1).topk(5)
        np.testing.assert_allclose(
            data["probabilities"][-1], best.values.detach(), rtol=5e-3, atol=1e-30
        )
        tops = [data["names"][cell[0]] for cell in data["top"][-1]]
        for name, token in zip(tops, best.indices[:, 0].tolist(), strict=True):
            assert WORDS[token] == name or WORDS[token] not in "abcd"

    def test_every_layer(self) -> None:
        model = decoder(layers=3)
        data = data_in(lens_view(model, IDS).html)
        assert data["layers"] == ["embedding", "layer 0", "layer 1", "layer 2"]
        best = lens_logits(model, IDS)[:, 0].softmax(-1).topk(5)
        np.testing.assert_allclose(data["probabilities"], best.values, rtol=5e-3, atol=1e-30)

    def test_the_right_tokens(self) -> None:
        """A decoder shall predict the next token, a model of masked tokens the token itself."""
        masked = encoder(head=MaskedLanguageHead)
        for model, shift in [(decoder(), 1), (masked, 0)]:
            data = data_in(lens_view(model, [4, 5, 6, 4, 5, 6]).html)
            expected = [4, 5, 6, 4, 5, 6][shift:] + [None] * shift
            best = lens_logits(model, [4, 5, 6, 4, 5, 6])[:, 0].argmax(-1)
            for row, tops in zip(best.tolist(), data["top"], strict=True):
                for token, cell, wanted, target in zip(
                    row, tops, expected, data["targets"], strict=True
                ):
                    assert (cell[0] == target) == (token == wanted)

    def test_length(self) -> None:
        view = lens_view(decoder(), IDS * 50)
        assert len(data_in(view.html)["labels"]) == 512
        assert "88 of 600 tokens of the text are left out: a page shows 512 at most." in view.html


@needs_chromium
@pytest.mark.slow
class TestPage:
    def test_cells_have_the_colours_of_their_probabilities(self, tmp_path: Path) -> None:
        model = decoder()
        ids = (IDS * 2)[:20]
        view = lens_view(model, ids)
        drawn = dom(view.html, tmp_path, REPORT)
        sizes = {key: int(x) for key, x in body_data(drawn).items() if x.isdigit()}
        assert sizes["cells"] == 60
        assert sizes["bands"] == -(-20 // sizes["columns"]) == 2
        corners = [text.split()[1:] for text in parsed(drawn).texts if text.startswith("at ")]
        picture = screenshot(view.html, tmp_path)
        best = lens_logits(model, ids)[:, 0].softmax(-1).amax(-1)
        for layer in range(3):
            for at in range(20):
                band, column = divmod(at, sizes["columns"])
                left, top = map(float, corners[band])
                x = left + sizes["left"] + column * sizes["cell"] + 4
                y = top + sizes["top"] + layer * sizes["line"] + 4
                colour = colormaps["cividis"](float(best[layer, at]), bytes=True)[:3]
                assert np.abs(picture[int(y), int(x)] - colour).max() <= 3, (layer, at)

    def test_details_and_hostile_tokens(self, tmp_path: Path) -> None:
        model = decoder()
        ids = [WORDS.index(HOSTILE), *range(4, V)]
        drawn = dom(lens_view(model, ids).html, tmp_path, "select([2, 0], 200, 200);")
        read = parsed(drawn)
        assert not any(tag == "img" for tag, _ in read.tags)
        assert "Logit lens" in read.texts
        assert "ran" not in read.texts
        first = read.texts.index("most probable") + 1
        best = model(ids)[0].softmax(-1).topk(5).values
        shown = [float(text) for text in read.texts[first + 1 : first + 10 : 2]]
        np.testing.assert_allclose(shown, best.detach(), rtol=5e-3, atol=1e-30)
        assert read.texts[read.texts.index("token") + 1] == HOSTILE.replace(" ", "␣")

    def test_keyboard(self, tmp_path: Path) -> None:
        drawn = dom(lens_view(decoder(), IDS).html, tmp_path, KEYS)
        texts = parsed(drawn).texts
        assert texts[texts.index("position") + 1] == "2"
        assert texts[texts.index("after") + 1] == "layer 0"


REPORT = """
for (const canvas of canvases) {
  const { left, top } = canvas.getBoundingClientRect();
  main.append(document.createElement("p"));
  main.lastChild.textContent = `at ${left} ${top}`;
}
"""
KEYS = """
for (const key of ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"]) {
  bands.dispatchEvent(new KeyboardEvent("keydown", { key }));
}
"""


class TestFigure:
    def test_the_first_positions(self, tmp_path: Path) -> None:
        model = decoder()
        ids = (IDS * 4)[:40]
        figure = lens_view(model, ids).figure()
        best = lens_logits(model, ids)[:, 0].softmax(-1).amax(-1).numpy()
        for band, axes in enumerate(figure.axes[:3]):
            shown = axes.images[0].get_array()
            np.testing.assert_allclose(shown, best[:, 12 * band : 12 * (band + 1)], rtol=1e-5)
        assert figure.get_supxlabel() == "positions 0 to 35 of 40"
        figure.savefig(tmp_path / "lens.png")


class TestErrors:
    def test_models_without_logits_over_the_vocabulary(self) -> None:
        classes = encoder(head=partial(ClassificationHead, labels=3))
        for model in (seq2seq(), encoder(), classes):
            with pytest.raises(RequestError, match="expected a decoder, or an encoder with a head"):
                lens_view(model, [4, 5])

    def test_an_empty_text(self) -> None:
        with pytest.raises(RequestError, match="text = '': expected a text of at least 1 token"):
            lens_view(decoder(), "")
