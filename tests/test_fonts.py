"""Tests of fallback fonts: the bundled one, and one that is built, installed and drawn."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from etude import fonts
from etude.analysis.curves import new_figure
from etude.escaping import figure_label

_bundled_files = fonts._bundled_files


@pytest.fixture(autouse=True)
def no_installed_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides the fonts of this machine, and restores matplotlib's state."""
    own = [e for e in font_manager.fontManager.ttflist if e.name not in fonts.FALLBACKS]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    monkeypatch.setattr(fonts, "_bundled_files", list)
    monkeypatch.setattr(fonts, "_said", set())
    with mpl.rc_context({"font.family": ["sans-serif"]}):
        fonts._installed.cache_clear()
        yield
    fonts._installed.cache_clear()


def square_font(path: Path, family: str, character: str) -> Path:
    """Writes a font whose only character is a full black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def pixels(title: str) -> Any:
    """Draws a title only, and returns which pixels are dark."""
    figure = new_figure(3, 1, arranged=False)
    axes = figure.add_axes((0, 0, 1, 0.5))
    axes.set_axis_off()
    axes.set_title(figure_label(title), fontsize=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # `Glyph ... missing` is a warning
        canvas: Any = figure.canvas
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].max(-1) < 64


def test_a_chinese_title_is_drawn_by_a_font_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = square_font(tmp_path / "wqy-test.ttf", "WenQuanYi Micro Hei", "中")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path)])
    dark = pixels("中")
    side = 20 / 72 * 150  # 20 points at 150 dots per inch
    assert dark.sum() == pytest.approx(side**2, rel=0.1)
    rows, columns = np.nonzero(dark)
    assert len(set(rows)) == pytest.approx(len(set(columns)), abs=2)
    assert not caplog.records
    assert 0 < pixels("a").sum() < dark.sum() / 2  # Latin letters are not of the fallback font


@pytest.mark.parametrize("character", ["中", "文", "们", "かな"])
def test_chinese_and_japanese_are_drawn_without_a_font_of_the_system(
    character: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_bundled_files", _bundled_files)
    dark = pixels(character)
    box = pixels("\N{WHITE SQUARE}")  # DejaVu Sans draws a missing character as a box
    assert not caplog.records
    assert dark.sum() > 100
    assert not np.array_equal(dark, box)
    if character == "中":  # it is symmetric, but for the uneven ends of its strokes
        _, columns = np.nonzero(dark)
        cut = dark[:, columns.min() : columns.max() + 1]
        assert (cut == cut[:, ::-1]).mean() > 0.9
    assert "zhplot" not in sys.modules  # its import sets the default font


def test_characters_without_a_font_are_replaced_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "etude"):
        assert figure_label("模型 ± é") == r"\u6a21\u578b ± é"
        assert figure_label("模") == r"\u6a21"
        assert figure_label("😀" + chr(0x1FAE8)).endswith(r"\U0001fae8")
    assert len(caplog.records) == 1
    assert "no installed font contains 型模" in caplog.text
    assert np.array_equal(pixels("模"), pixels(r"\u6a21"))
