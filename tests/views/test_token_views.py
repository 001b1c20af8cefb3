"""The token view shows losses as torch computes them, or the given values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from chromium_page import body_data, dom, needs_chromium, parsed
from matplotlib import colormaps
from view_models import HOSTILE, WORDS, V, data_in, decoder, encoder, seq2seq

from etude.errors import RequestError
from etude.views import token_view
from etude.views.colour_scale import Scale, ink_on

IDS = torch.randint(4, V, (12,), generator=torch.Generator().manual_seed(1)).tolist()


class TestLosses:
    def test_they_are_torchs_cross_entropy(self) -> None:
        model = decoder()
        data = data_in(token_view(model, IDS).html)
        logits = model(IDS).detach()
        losses = F.cross_entropy(logits[:-1], torch.tensor(IDS[1:]), reduction="none")
        assert data["values"][0] is None
        np.testing.assert_allclose(data["values"][1:], losses, rtol=5e-3)
        np.testing.assert_allclose(data["probabilities"][1:], (-losses).exp(), rtol=5e-3)
        assert data["scale"] == {
            "low": 0, "high": pytest.approx(losses.max().item()), "colours": "light",
        }  # fmt: skip

    def test_the_most_probable_tokens(self) -> None:
        model = decoder()
        data = data_in(token_view(model, IDS).html)
        best, ids = model(IDS).softmax(-1).topk(5)
        assert data["top"][0] == []
        for at in range(1, 12):
            np.testing.assert_allclose(
                [value for _, value in data["top"][at]], best[at - 1].detach(), rtol=5e-3
            )
            names = [name for name, _ in data["top"][at]]
            words = [WORDS[i] for i in ids[at - 1]]
            assert [n for n, w in zip(names, words, strict=True) if w in "abcd"] == [
                w for w in words if w in "abcd"
            ]

    def test_a_begin_token_is_read_first(self) -> None:
        model = decoder()
        model.begin_token = 3
        data = data_in(token_view(model, "a|b").html)
        assert data["labels"] == ["<|endoftext|>", "a", "b"]
        expected = F.cross_entropy(model([3, 4])[-1:], torch.tensor([5])).item()
        assert data["values"][2] == pytest.approx(expected, rel=5e-3)


class TestValues:
    def test_for_any_model(self) -> None:
        values = pd.Series([0.123456, -2.0, math.nan, 1e-9, 4321.5])
        for model, ids in [(decoder(), [4, 5, 6, 7, 8]), (encoder(), "a|b|c")]:
            data = data_in(token_view(model, ids, values).html)
            assert data["values"] == [0.123, -2.0, None, 1e-9, 4320.0]
            assert data["scale"]["colours"] == "diverging"
            assert data["scale"]["low"] == -data["scale"]["high"] == -4321.5

    def test_tensors_with_gradients(self) -> None:
        values = torch.ones(2, requires_grad=True, dtype=torch.bfloat16)
        assert data_in(token_view(decoder(), [4, 5], values).html)["values"] == [1.0, 1.0]

    def test_the_values_of_a_cut_text(self) -> None:
        view = token_view(decoder(), IDS * 50, range(600))
        data = data_in(view.html)
        assert len(data["values"]) == len(data["labels"]) == 512
        assert "88 of 600 tokens of the text are left out: a page shows 512 at most." in view.html


class TestColours:
    def test_scales(self) -> None:
        assert Scale.of([1.0, 3.0, math.nan]) == Scale(0, 3, "light", "Blues")
        assert Scale.of([-1.0, 0.5]) == Scale(-1, 1, "diverging", "RdBu_r")
        assert Scale.of([0.0, math.inf]).high == 1

    @pytest.mark.parametrize("name", ["Blues", "RdBu_r", "cividis"])
    def test_text_can_be_read_on_every_colour(self, name: str) -> None:
        for index in range(256):
            fill = colormaps[name](index)[:3]
            ink = (0, 0, 0) if ink_on(fill) == "black" else (1, 1, 1)
            low, high = sorted((luminance(fill), luminance(ink)))
            assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(colour: tuple[float, ...]) -> float:
    """Returns the relative luminance of WCAG 2.2."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@needs_chromium
@pytest.mark.slow
class TestPage:
    def test_colours_and_details(self, tmp_path: Path) -> None:
        model = decoder()
        html = token_view(model, IDS).html
        losses = F.cross_entropy(model(IDS)[:-1], torch.tensor(IDS[1:]), reduction="none").detach()
        drawn = dom(html, tmp_path, "select(3, 100, 100);")
        assert body_data(drawn) == {"view": "tokens", "tokens": "12", "coloured": "11"}
        read = parsed(drawn)
        styles = [a.get("style") or "" for _, a in read.tags if "token" in (a.get("class") or "")]
        r, g, b = colormaps["Blues"](float(losses[2] / losses.max()), bytes=True)[:3]
        shown = [int(x) for x in styles[3].partition("rgb(")[2].partition(")")[0].split(",")]
        assert np.abs(np.array(shown) - [int(r), int(g), int(b)]).max() <= 3
        assert float(read.texts[read.texts.index("position") + 3]) == pytest.approx(
            losses[2].item(), rel=5e-3
        )

    def test_hostile_tokens(self, tmp_path: Path) -> None:
        model = decoder()
        html = token_view(model, [WORDS.index(HOSTILE), *range(4, V)]).html
        drawn = dom(html, tmp_path, ";")  # without the policy
        read = parsed(drawn)
        assert "ran" not in read.texts
        assert body_data(drawn)["tokens"] == str(V - 3)
        assert "Loss of each token" in read.texts
        assert not any(tag == "img" for tag, _ in read.tags)
        shown = "".join(read.texts)
        for label in (HOSTILE.replace(" ", "␣"), "<!--", "]]>", "&lt;", "你好", "😀", "\\u202e",
                      "\\x00", "\\u3000", "◌\u0301", "↵"):  # fmt: skip
            assert label in shown


class TestFigure:
    def test_tokens_and_colours(self, tmp_path: Path) -> None:
        figure = token_view(decoder(), [4, 8, 10, 5], [0.0, 1.0, 2.0, math.nan]).figure()
        assert [text.get_text() for text in figure.texts] == ["a", "↵", "你好", "b"]
        boxes = [each for each in figure.artists if each.get_facecolor()]
        blues = colormaps["Blues"]
        fills = [tuple(box.get_facecolor()[:3]) for box in boxes]
        assert fills == [blues(0.0)[:3], blues(0.5)[:3], blues(1.0)[:3], (1, 1, 1)]
        lines = {round(text.get_position()[1], 6) for text in figure.texts}
        assert len(lines) == 2  # a newline breaks the line
        figure.savefig(tmp_path / "tokens.png")


class TestErrors:
    def test_they_are_named(self) -> None:
        for model, text, values, message in [
            (decoder(), [4, 5, 6], [1, 2], r"values = 'shape \(2,\)': expected 3 numbers"),
            (decoder(), [4, 5], ["a", "b"], "values = .*: expected a number for each token"),
            (decoder(), [4, 5], 3.0, r"values = 'shape \(\)': expected 2 numbers"),
            (decoder(), [4], None, r"text = \[4\]: expected a text of at least 2 tokens"),
            (decoder(), "", None, "text = '': expected a text of at least 2 tokens"),
            (encoder(), "a|b", None, "model = 'Encoder': expected a decoder with its tokenizer"),
            (seq2seq(), "a|b", None, "model = 'EncoderDecoder': expected a decoder"),
        ]:
            with pytest.raises(RequestError, match=message):
                token_view(model, text, values)
