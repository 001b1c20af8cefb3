"""Coloured tables of measures: rows, columns, colours and errors."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from html_reader import HOSTILE, Parsed, check_hostile

from etude.errors import RequestError
from etude.interpret import score_table


def series(shape: tuple[int, ...], names: list[str], values: list[float]) -> pd.Series:
    index = pd.MultiIndex.from_product([range(n) for n in shape], names=names)
    return pd.Series(values, index=index, dtype=float)


def opacities(html: str) -> list[tuple[str, float]]:
    """The colour and the opacity of each cell."""
    found = []
    for each in Parsed(html).elements:
        if each["tag"] == "td" and (style := each["attributes"].get("style")):
            match = re.fullmatch(r"background:rgba\((.*),([\d.]+)\)", style)
            assert match is not None
            found.append((match[1], float(match[2])))
    return found


def test_rows_are_layers_and_columns_heads() -> None:
    html = score_table(series((2, 2), ["layer", "head"], [0.1, 0.2, 0.4, 0.8]))._repr_html_()
    assert Parsed(html).rows() == [
        ["layer \\ head", "0", "1"], ["0", "0.10", "0.20"], ["1", "0.40", "0.80"]
    ]  # fmt: skip
    assert [part for _, part in opacities(html)] == pytest.approx(
        [0.75 * v / 0.8 for v in (0.1, 0.2, 0.4, 0.8)], abs=1e-3
    )


def test_signs_have_different_colours() -> None:
    html = score_table(series((1, 3), ["layer", "head"], [-2, 0, 1]))._repr_html_()
    (low, a), (_, b), (high, c) = opacities(html)
    assert low != high
    assert (a, b, c) == (0.75, 0.0, 0.375)
    assert "colours: -2.0 0.0 1.0" in Parsed(html).text


def test_there_is_a_table_for_each_step() -> None:
    table = score_table(series((3, 2, 2), ["step", "layer", "head"], list(range(12))))
    parsed = Parsed(table._repr_html_())
    assert parsed.texts("summary") == ["step 0", "step 1", "step 2"]
    assert len(parsed.texts("table")) == 3
    opened = ["open" in e["attributes"] for e in parsed.elements if e["tag"] == "details"]
    assert opened == [False, False, True]
    assert "step" in repr(table)


def test_missing_values_and_cells() -> None:
    values = series((2, 2), ["layer", "head"], [np.nan, np.inf, 1, 2])[:3]
    assert Parsed(score_table(values)._repr_html_()).rows()[1:] == [
        ["0", "nan", "inf"], ["1", "1.0", ""]
    ]  # fmt: skip
    empty = series((0, 0), ["layer", "head"], [])
    assert "colours: 0.0" in Parsed(score_table(empty)._repr_html_()).text
    zeros = score_table(series((1, 2), ["a", "b"], [0, 0]))._repr_html_()
    assert [part for _, part in opacities(zeros)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(3e-9, "3e-09"), (0.0671, "0.067"), (0.98, "0.98"), (41.5, "42"), (123456, "123456"),
     (1.2e9, "1.2e+09")],
)  # fmt: skip
def test_numbers_have_two_digits(size: float, expected: str) -> None:
    html = score_table(series((1, 1), ["a", "b"], [size]))._repr_html_()
    assert Parsed(html).rows()[1][1] == expected
    assert f'title="{size!r}"' in html or f'title="{float(size)!r}"' in html


def test_large_tables_are_cut() -> None:
    values = series((101, 65), ["layer", "head"], [0.5] * 101 * 65)
    parsed = Parsed(score_table(values)._repr_html_())
    assert len(parsed.rows()) == 101
    assert len(parsed.rows()[0]) == 65
    assert "and 1 more row, 1 more column" in parsed.text
    many = series((45, 1, 1), ["step", "layer", "head"], [0.5] * 45)
    assert "and 5 more tables" in Parsed(score_table(many)._repr_html_()).text


def test_hostile_names_are_text() -> None:
    index = pd.MultiIndex.from_tuples(
        [(HOSTILE, HOSTILE, HOSTILE)], names=[HOSTILE, HOSTILE + "b", HOSTILE + "c"]
    )
    check_hostile(score_table(pd.Series([1.0], index=index, name=HOSTILE))._repr_html_())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.Series([1.0]), "two or more index levels"),
        (series((1, 1), ["a", "b"], [1]).astype(str), "a series of numbers"),
        (pd.concat([series((1, 1), ["a", "b"], [1])] * 2), "without duplicates"),
    ],
)
def test_errors(values: pd.Series, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        score_table(values)
