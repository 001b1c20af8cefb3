"""HTML fragments: escaping, the style, tables, trees and charts."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
from html_reader import HOSTILE, Parsed, check_hostile

from etude.markup import fragments
from etude.markup.charts import line_chart
from etude.markup.fragments import STYLE, badge, display, element, fields, folded, leaf, table


@pytest.mark.parametrize(
    "made",
    [
        element("p", HOSTILE, title=HOSTILE),
        table([HOSTILE], [[HOSTILE]]),
        fields([(HOSTILE, HOSTILE)]),
        folded(HOSTILE, HOSTILE),
        leaf(HOSTILE),
        badge(HOSTILE),
        fragments.title(HOSTILE, HOSTILE),
        fragments.note(HOSTILE),
        fragments.code(HOSTILE),
        fragments.error(HOSTILE),
        fragments.join([HOSTILE], HOSTILE),
        line_chart([1, 2], [3, 4], title=HOSTILE, label=HOSTILE),
    ],
)
def test_text_is_no_markup(made: str) -> None:
    check_hostile(display(made))


def test_an_attribute_is_read_back() -> None:
    (each,) = Parsed(element("p", title='a"b<c>&amp;', class_="x", open=True, id=None)).elements
    assert each["attributes"] == {"title": 'a"b<c>&amp;', "class": "x", "open": None}


def test_the_style_applies_only_to_displays() -> None:
    selectors = [s for rule in re.findall(r"([^{}]+)\{", STYLE) for s in rule.split(",")]
    assert len(selectors) > 20
    assert all(s.strip().startswith(".etude-display") for s in selectors)
    assert not re.search(r"url|@|http|position|javascript", STYLE)


def test_numbers_are_aligned_to_the_right() -> None:
    parsed = Parsed(table(["name", "value"], [["a", 1], ["b", 2]], numeric=(1,)))
    assert parsed.rows() == [["name", "value"], ["a", "1"], ["b", "2"]]
    right = [e["text"] for e in parsed.elements if e["attributes"].get("class") == "etude-number"]
    assert right == ["value", "1", "2"]


def points(chart: str) -> list[tuple[float, float]]:
    """The points of the curve of a chart."""
    curves = [e for e in Parsed(chart).elements if e["tag"] == "polyline"]
    assert len(curves) == 2  # the axes and the curve
    pairs = curves[1]["attributes"]["points"].split()
    return [tuple(map(float, pair.split(","))) for pair in pairs]  # type: ignore[misc]


def test_a_chart_is_linear_in_both_directions() -> None:
    xs, ys = [0.0, 1.0, 4.0, 5.0], [10.0, 20.0, 50.0, 0.0]
    placed = points(line_chart(xs, ys, title="t"))
    width, height = placed[-1][0] - placed[0][0], placed[3][1] - placed[2][1]
    for (a, b), x, y in zip(placed, xs, ys, strict=True):
        assert a == pytest.approx(placed[0][0] + width * x / 5, abs=0.06)
        assert b == pytest.approx(placed[3][1] - height * y / 50, abs=0.06)


def test_a_logarithmic_axis_has_equal_distances_per_decade() -> None:
    placed = points(line_chart([0.001, 0.01, 0.1, 0], [1, 2, 3, 9], title="t", log=True))
    assert placed[1][0] - placed[0][0] == pytest.approx(placed[2][0] - placed[1][0], abs=0.11)


def test_values_that_are_not_finite_are_left_out() -> None:
    assert line_chart([1, 2], [math.nan, math.inf], title="t") == ""
    assert line_chart([], [], title="t") == ""
    chart = line_chart([1, 2, 3], [1, math.nan, 2], title="t")
    assert len(points(chart)) == 2
    assert "nan" not in chart


def test_one_value_is_a_point_and_a_constant_a_line() -> None:
    assert Parsed(line_chart([7], [3], title="t")).texts("circle") == [""]
    heights = {b for _, b in points(line_chart([1, 2, 3], [5, 5, 5], title="t"))}
    assert len(heights) == 1


def test_huge_values_do_not_overflow() -> None:
    assert "inf" not in line_chart([1, 2], [-1.7e308, 1.7e308], title="t")


def test_a_long_curve_keeps_its_extremes() -> None:
    ys = [math.sin(i / 50) for i in range(100_000)]
    ys[31_415], ys[77_777] = 40.0, -30.0
    placed = points(line_chart(range(100_000), ys, title="t"))
    assert len(placed) <= 402
    assert [a for a, _ in placed] == sorted(a for a, _ in placed)
    texts = Parsed(line_chart(range(100_000), ys, title="t")).texts("text")
    assert {"40", "-30"} <= set(texts)


def test_it_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, etude.markup.charts; print({'torch', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
