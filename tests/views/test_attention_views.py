"""Views of attention weights are the model's own patterns, in the page and in its pixels."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium_page import body_data, dom, needs_chromium, parsed, screenshot
from matplotlib import colormaps
from view_models import HOSTILE, WORDS, V, data_in, decoder, encoder, seq2seq

from etude.errors import RequestError
from etude.views import attention_view, cross_attention_view
from etude.views.token_labels import TokenLabels

TEXT = "a|b|\n|你好| |c|a|😀"
IDS = torch.randint(4, V, (12,), generator=torch.Generator().manual_seed(1)).tolist()


def weights_in(part: dict[str, Any]) -> np.ndarray:
    """Returns the weights of a part of a page, (matrices, T, S); 0 where they are hidden."""
    T, S = len(part["queries"]), len(part["keys"])
    values = np.frombuffer(base64.b64decode(part["weights"]), dtype="<f2").astype(float)
    count = sum(len(heads) for _, heads in part["layers"])
    if not part["causal"]:
        return values.reshape(count, T, S)
    matrices = np.zeros((count, T, S))
    matrices[:, *np.tril_indices(T)] = values.reshape(count, -1)
    return matrices


def patterns(model: Any, site: str, *ids: list[int]) -> np.ndarray:
    """Returns the captured weights, (layers, heads, T, S)."""
    with torch.no_grad(), model.capture(site) as seen:
        model.module(*(torch.tensor([each]) for each in ids))
    return torch.cat(list(seen.values())).numpy()


class TestValues:
    def test_decoder(self) -> None:
        model = decoder()
        (part,) = data_in(attention_view(model, TEXT).html)["parts"]
        expected = patterns(model, "blocks.*.attention.pattern", model.tokenizer.encode(TEXT))
        assert part["layers"] == [["0", ["0", "1"]], ["1", ["0", "1"]]]
        assert part["queries"] == part["keys"] == ["a", "b", "↵", "你好", "␣", "c", "a", "😀"]
        assert part["causal"]
        np.testing.assert_allclose(
            weights_in(part), expected.reshape(4, 8, 8), rtol=5e-4, atol=1e-7
        )

    def test_encoder_with_its_special_tokens(self) -> None:
        model = encoder()
        (part,) = data_in(attention_view(model, "a|b|c").html)["parts"]
        assert part["queries"] == ["[CLS]", "a", "b", "c", "[SEP]"]
        ids = [WORDS.index(word) for word in part["queries"]]
        expected = patterns(model, "blocks.*.attention.pattern", ids)
        np.testing.assert_allclose(
            weights_in(part), expected.reshape(4, 5, 5), rtol=5e-4, atol=1e-7
        )
        assert not part["causal"]

    def test_encoder_and_decoder(self) -> None:
        model = seq2seq()
        view = attention_view(model, "a|b|c", target="d|a")
        first, second = data_in(view.html)["parts"]
        end = WORDS.index("<|endoftext|>")
        source, target = [4, 5, 6, end], [0, 7, 4]  # the start token, and the target but its end
        assert second["queries"] == ["<start>", "d", "a"]
        for part, site, ids in [(first, "encoder", source), (second, "decoder", target)]:
            expected = patterns(model, f"{site}.blocks.*.attention.pattern", source, target)
            expected = expected.reshape(4, len(ids), len(ids))
            np.testing.assert_allclose(weights_in(part), expected, rtol=5e-4, atol=1e-7)

    def test_cross_attention_and_its_means(self) -> None:
        model = seq2seq()
        (part,) = data_in(cross_attention_view(model, "a|b|c", "d|a").html)["parts"]
        assert part["queries"] == ["d", "a", "<|endoftext|>"]
        assert part["after"] == ["<start>", "d", "a"]
        assert part["layers"] == [
            ["all", ["mean"]], ["0", ["0", "1", "mean"]], ["1", ["0", "1", "mean"]],
        ]  # fmt: skip
        heads = patterns(model, "decoder.blocks.*.cross.pattern", [4, 5, 6, 3], [0, 7, 4])
        expected = [heads.mean((0, 1))]
        for layer in heads:
            expected += [*layer, layer.mean(0)]
        np.testing.assert_allclose(weights_in(part), np.stack(expected), rtol=5e-4, atol=1e-7)

    def test_the_models_own_translation(self) -> None:
        model = seq2seq(max_length=20)
        (part,) = data_in(cross_attention_view(model, "a|b|c").html)["parts"]
        source, end = model.input_ids("a|b|c"), WORDS.index("<|endoftext|>")
        ids = [0]
        with torch.no_grad():  # each token is the most probable one after those before it
            while ids[-1] != end and len(ids) <= 20:
                ids.append(int(model(source, ids)[-1].argmax()))
        assert part["queries"] == TokenLabels(model.tokenizer)(ids[1:])
        assert part["after"] == ["<start>", *part["queries"][:-1]]

    def test_chosen_layers_and_heads(self) -> None:
        model = decoder()
        every = weights_in(data_in(attention_view(model, IDS).html)["parts"][0])
        (part,) = data_in(attention_view(model, IDS, layers=-1, heads=[0]).html)["parts"]
        assert part["layers"] == [["1", ["0"]]]
        np.testing.assert_array_equal(weights_in(part)[0], every[2])


class TestLength:
    def test_of_600_tokens_512_are_shown(self) -> None:
        view = attention_view(decoder(), IDS * 50, layers=0, heads=0)
        assert len(data_in(view.html)["parts"][0]["queries"]) == 512
        note = "88 of 600 tokens of the text are left out: a page shows 512 at most."
        assert f'<p class="note" role="note">{note}</p>' in view.html
        assert "left out" not in attention_view(decoder(), IDS).html

    def test_what_the_model_reads(self) -> None:
        html = attention_view(decoder(max_length=10), IDS).html
        assert "2 of 12 tokens of the text are left out: the model reads 10." in html

    def test_an_encoders_last_token_remains(self) -> None:
        html = attention_view(encoder(max_length=4), "a|b|c|d").html
        assert data_in(html)["parts"][0]["keys"] == ["[CLS]", "a", "b", "[SEP]"]
        assert "2 of 6 tokens" in html

    def test_the_end_of_a_source_remains(self) -> None:
        (part,) = data_in(cross_attention_view(seq2seq(max_length=3), "a|b|c|d", "a").html)["parts"]
        assert part["keys"] == ["a", "b", "<|endoftext|>"]

    def test_a_translation_without_an_end(self) -> None:
        model = seq2seq(max_length=9)
        model.tokenizer.end_of_text, model.stop_tokens = None, []
        note = "The translation, which has no end, is cut off after 9 tokens."
        for view in (cross_attention_view(model, "a|b"), attention_view(model, "a|b")):
            assert view.html.count(note) == 1

    def test_many_heads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etude.views.attention_weights.LARGEST", 4 * 25)
        html = attention_view(decoder(), IDS).html
        assert "7 of 12 tokens of the text are left out: a page of so many heads shows 5" in html
        assert (
            "left out: a page of so many heads shows 10"
            in attention_view(decoder(), IDS, layers=0, heads=0).html
        )


@needs_chromium
class TestPage:
    def test_pixels_are_the_pattern(self, tmp_path: Path) -> None:
        model = decoder()
        view = attention_view(model, IDS)
        drawn = dom(view.html, tmp_path, REPORT)
        assert body_data(drawn) == {
            "view": "attention", "matrices": "4", "tokens": "12x12",
        }  # fmt: skip
        left, top, cell = map(float, re.findall(r"at ([\d.]+) ([\d.]+) ([\d.]+)", drawn)[0])
        picture = screenshot(view.html, tmp_path)
        weights = patterns(model, "blocks.*.attention.pattern", IDS)[0, 0]
        for q in range(12):
            for k in range(12):
                pixel = picture[int(top + (q + 0.5) * cell), int(left + (k + 0.5) * cell)]
                colour = colormaps["cividis"](float(np.sqrt(weights[q, k])), bytes=True)[:3]
                expected = colour if k <= q else (255, 255, 255)
                assert np.abs(pixel - expected).max() <= 3, (q, k)

    @pytest.mark.slow
    def test_pointing_at_a_cell_and_choosing_a_head(self, tmp_path: Path) -> None:
        model = decoder()
        weights = patterns(model, "blocks.*.attention.pattern", IDS)[1, 0]
        drawn = dom(attention_view(model, IDS).html, tmp_path, POINT)
        texts = parsed(drawn).texts
        assert "layer 1, head 0" in texts
        numbers = [float(text) for text in texts if _number(text)]
        assert any(n == pytest.approx(float(weights[7, 3]), rel=6e-3) for n in numbers), texts
        assert {"position 7", "position 3"} <= set(texts)
        assert (
            sum("on" in (attrs.get("class") or "").split() for _, attrs in parsed(drawn).tags) == 2
        )

    @pytest.mark.slow
    def test_keyboard(self, tmp_path: Path) -> None:
        texts = parsed(dom(attention_view(decoder(), IDS).html, tmp_path, KEYS)).texts
        assert {"position 2", "position 1", "weight"} <= set(texts)

    def test_hostile_tokens(self, tmp_path: Path) -> None:
        html = attention_view(decoder(), [WORDS.index(HOSTILE), *range(4, V)]).html
        assert html.count("</script>") == 2
        assert "<img" not in html
        read = parsed(dom(html, tmp_path, WITHOUT_POLICY))
        assert HOSTILE.replace(" ", "␣") in "".join(read.texts)
        assert "Attention" in read.texts
        assert "ran" not in read.texts
        assert not any(tag == "img" for tag, _ in read.tags)
        assert "://" not in html


WITHOUT_POLICY = ";"
REPORT = """
const box = parts[0].canvas.getBoundingClientRect();
document.body.append(`at ${box.left + parts[0].left} ${box.top + parts[0].top} ${parts[0].cell}`);
"""
POINT = """
document.querySelectorAll(".grid button")[2].click();
const part = parts[0], box = part.canvas.getBoundingClientRect();
part.canvas.dispatchEvent(new MouseEvent("mousemove", {
  clientX: box.left + part.left + 3.5 * part.cell,
  clientY: box.top + part.top + 7.5 * part.cell }));
"""
KEYS = """
for (const key of ["ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"]) {
  parts[0].canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
}
"""


def _number(text: str) -> bool:
    return re.fullmatch(r"-?\d[\d.]*(e[-+]\d+)?", text) is not None


class TestFigures:
    def test_one_head_with_its_tokens(self) -> None:
        model = decoder()
        axes, bar = attention_view(model, TEXT, layers=1, heads=0).figure().axes
        image = axes.images[0].get_array()
        expected = patterns(model, "blocks.*.attention.pattern", model.tokenizer.encode(TEXT))[1, 0]
        np.testing.assert_allclose(image.filled(0), np.tril(expected), rtol=1e-5)
        assert image.mask.sum() == 8 * 7 / 2
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels[:5] == ["a", "b", "↵", "你好", "␣"]
        assert bar.get_ylabel() == "attention weight"

    def test_many_heads_are_one_image(self, tmp_path: Path) -> None:
        figure = attention_view(decoder(layers=3), IDS).figure()
        assert len(figure.axes) == 2
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "1", "2"]
        figure.savefig(tmp_path / "heads.png")

    def test_the_mean_is_drawn_with_its_tokens(self) -> None:
        figure = cross_attention_view(seq2seq(), "a|b|c", "d|a").figure()
        mean = figure.axes[0]
        assert mean.get_title() == "mean of all layers and heads"
        assert [label.get_text() for label in mean.get_xticklabels()] == [
            "a", "b", "c", "<|endoftext|>",
        ]  # fmt: skip


class TestErrors:
    def test_inputs(self) -> None:
        for arguments, message in [
            ({"text": "a"}, "text = 'a': expected a text of at least 2 tokens"),
            ({"text": [4, V]}, rf"text = {V}: expected ids from 0 to {V - 1}"),
            ({"text": [[4, 5], [4, 5]]}, "text = '2 sequences': expected one sequence"),
            (
                {"text": IDS, "layers": 2},
                "layers = 2: expected numbers of layers of the model: 0, 1",
            ),
            ({"text": IDS, "heads": [0, 5]}, "heads = 5: expected numbers of heads of the model"),
            ({"text": IDS, "heads": []}, r"heads = \[\]: expected numbers of heads"),
            ({"text": IDS, "target": "a"}, "target = 'a': expected None"),
            ({"text": 5}, "text = 5: expected"),
        ]:
            with pytest.raises(RequestError, match=message):
                attention_view(decoder(), **arguments)

    def test_models(self) -> None:
        with pytest.raises(RequestError, match="model = 'Linear': expected a model whose att"):
            attention_view(torch.nn.Linear(2, 2), IDS)
        with pytest.raises(RequestError, match=r"model = 'str': expected a model, as `run.model"):
            attention_view("debug", IDS)
        with pytest.raises(RequestError, match="model = 'Decoder': expected an encoder-decoder"):
            cross_attention_view(decoder(), IDS)

    def test_without_patterns(self) -> None:
        class Silent(type(decoder().module.blocks[0].attention)):  # type: ignore[misc]
            own_sites: dict[str, str] = {}  # noqa: RUF012

        with pytest.raises(RequestError, match="a model whose attention has the site `pattern`"):
            attention_view(decoder(attention=Silent), IDS)
