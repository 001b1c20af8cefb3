"""Data frames as HTML tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from etude.markup.fragments import Html, table
from etude.records.text_tables import format_cell

if TYPE_CHECKING:
    import pandas as pd


def frame_table(frame: pd.DataFrame, index: str = "") -> Html:
    """Returns a data frame as an HTML table; None and NaN are empty cells.

    Args:
        frame: the data frame.
        index: heading of a first column with the index; empty for no such column.
    """
    whole = frame.reset_index(names=index) if index else frame
    columns = [str(column) for column in whole.columns]
    numeric = [number for number, kind in enumerate(whole.dtypes) if kind.kind in "iuf"]
    rows = (
        [_cell(column, value) for column, value in zip(columns, row, strict=True)]
        for row in whole.astype(object).itertuples(index=False)
    )
    return table(columns, rows, numeric=numeric)


def _cell(column: str, value: Any) -> str:
    is_nan = isinstance(value, float) and math.isnan(value)
    return "" if is_nan else format_cell(column, value)
