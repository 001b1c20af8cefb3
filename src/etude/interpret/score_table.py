"""Coloured tables of the values of a measure, for notebooks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from etude.arguments import check_arguments
from etude.counts import counted
from etude.errors import Problem, RequestError
from etude.markup.fragments import Html, display, element, folded, join, note, title

if TYPE_CHECKING:
    import pandas as pd

_POSITIVE, _NEGATIVE = "0,114,178", "213,94,0"
"""Blue and vermilion, which colour-blind people distinguish (Okabe & Ito 2008)."""
_STRONGEST = 0.75
"""Opacity of the strongest colour, on which black and white text are both readable."""
_MOST_ROWS, _MOST_COLUMNS, _MOST_TABLES = 100, 64, 40


class ScoreTable:
    """Table of the values of a measure, which a notebook shows with a colour for each value.

    `score_table` returns it.

    Args:
        values: the values by two or more index levels.

    Attributes:
        values: the argument `values`.
    """

    def __init__(self, values: pd.Series) -> None:
        self.values = values

    def __repr__(self) -> str:
        return repr(self.values.unstack(self.values.index.names[-1]))

    def _repr_html_(self) -> str:
        names = [str(name) for name in self.values.index.names]
        finite = [float(v) for v in self.values if _is_finite(v)]
        scale = _Scale(finite)
        tables = list(self._tables())
        blocks: list[Html] = []
        for number, (heading, rows) in enumerate(tables[:_MOST_TABLES], 1):
            shown = _table(names[-2], names[-1], rows, scale)
            is_open = len(tables) <= 2 or number == len(tables)
            blocks.append(folded(heading, shown, is_open=is_open) if heading else shown)
        hidden = len(tables) - len(blocks)
        more = [note(f"and {counted(hidden, 'more table')}")] if hidden > 0 else []
        head = title(self.values.name or "Values", f"by {', '.join(names)}")
        return display(head, scale.legend(), *blocks, *more)

    def _tables(self) -> Iterator[tuple[str, dict[Hashable, dict[Hashable, Any]]]]:
        """Yields each table: its heading, and its values by row and column."""
        names = self.values.index.names
        tables: dict[tuple[Hashable, ...], dict[Hashable, dict[Hashable, Any]]] = {}
        for key, value in zip(self.values.index, self.values, strict=True):
            *front, row, column = key
            tables.setdefault(tuple(front), {}).setdefault(row, {})[column] = value
        for front_key, rows in tables.items():
            yield ", ".join(f"{n} {v}" for n, v in zip(names, front_key, strict=False)), rows


@check_arguments(RequestError)
def score_table(values: pd.Series) -> ScoreTable:
    """Returns the values of a measure as a table that a notebook shows in colours.

    The last level of the index becomes the columns and the level before it the rows, such as heads
    and layers; there is a table for each value of the other levels, such as the steps of
    `Run.over_steps`. The stronger a colour, the larger the absolute value: positive values are
    blue, negative ones orange. All tables have the same scale.

    Example:
        score_table(induction_scores(model))
        score_table(run.over_steps(induction_scores))

    Args:
        values: result of a measure, with two or more index levels.

    Raises:
        RequestError: the index has fewer than two levels, the values are no numbers, or an index
            occurs twice.
    """
    import pandas as pd

    if values.index.nlevels < 2:
        expected = "a series with two or more index levels, such as layer and head"
        raise RequestError(Problem("values", expected, f"{values.index.nlevels} level"))
    if not pd.api.types.is_numeric_dtype(values):
        raise RequestError(Problem("values", "a series of numbers", str(values.dtype)))
    if values.index.has_duplicates:
        repeated = values.index[values.index.duplicated()][0]
        hint = "take the mean over repeated entries first, with `groupby(level=...)`"
        raise RequestError(Problem("values", "an index without duplicates", repeated, hint))
    return ScoreTable(values)


class _Scale:
    """Colours and number format of finite values.

    The opacity of a colour is proportional to the absolute value, so that values that differ little
    have similar colours.

    Args:
        values: all values.
    """

    def __init__(self, values: list[float]) -> None:
        self.low, self.high = min(values, default=0.0), max(values, default=0.0)
        self.largest = max(-self.low, self.high)
        size = math.floor(math.log10(self.largest)) if self.largest > 0 else 0
        self.format = f".{max(0, 1 - size)}f" if -4 <= size <= 5 else ".2g"

    def style(self, value: float) -> str:
        """Returns the CSS of a cell with the value."""
        part = abs(value) / self.largest if self.largest > 0 else 0.0
        colour = _NEGATIVE if value < 0 else _POSITIVE
        return f"background:rgba({colour},{_STRONGEST * part:.3f})"

    def legend(self) -> Html:
        """Returns a line with the smallest value, zero and the largest value in their colours."""
        cells = (
            element("span", format(value, self.format), style=f"{self.style(value)};padding:0 6px")
            for value in sorted({self.low, 0.0, self.high})
        )
        return element("div", "colours: ", join(cells, " "))


def _table(
    row_name: str, column_name: str, rows: Mapping[Hashable, Mapping[Hashable, Any]], scale: _Scale
) -> Html:
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    shown = columns[:_MOST_COLUMNS]
    head = element(
        "tr", *(element("th", text) for text in (f"{row_name} \\ {column_name}", *shown))
    )
    body = [
        element("tr", element("th", row), *(_cell(cells.get(column), scale) for column in shown))
        for row, cells in list(rows.items())[:_MOST_ROWS]
    ]
    whole = element("table", element("thead", head), element("tbody", *body), class_="etude-heat")
    hidden = [
        counted(count, noun)
        for count, noun in (
            (len(rows) - len(body), "more row"),
            (len(columns) - len(shown), "more column"),
        )
        if count
    ]
    rest = note(f"and {', '.join(hidden)}") if hidden else ""
    return join([element("div", whole, class_="etude-wide"), rest])


def _cell(value: Any, scale: _Scale) -> Html:
    if not _is_finite(value):
        return element("td", "" if value is None else str(value))
    number = float(value)
    return element(
        "td", format(number, scale.format), title=repr(number), style=scale.style(number)
    )


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
