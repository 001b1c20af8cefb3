"""Mean curves of runs that differ only in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from etude.analysis.curves import Curve, to_finite_floats
from etude.records.record import Record

if TYPE_CHECKING:
    import pandas as pd


def mean_curve(name: str, frames: Sequence[pd.DataFrame], metric: str, x: str) -> Curve | None:
    """Returns the mean curve of runs at their common steps, with a band of one standard deviation.

    After the last step of the shortest run, the curve continues as the mean of the runs that
    trained longer. The attribute `complete` of the curve is the number of points up to the end of
    the shortest run. Rows in which the metric or `x` is missing or not finite are ignored. The
    curve of a single run has no band.

    Args:
        name: name of the curve.
        frames: metrics of each run: a data frame with the column `step` and those named by `metric`
            and `x`.
        metric: metric on the y axis.
        x: column on the x axis: `step`, `tokens` or `time`; its values are averaged over the runs.

    Returns:
        The curve; None if the runs have no step in common.
    """
    import pandas as pd

    columns = []
    for frame in frames:
        rows = frame[["step", *([x] if x != "step" else []), metric]]
        rows = rows.apply(to_finite_floats).dropna()
        columns.append(rows.drop_duplicates("step", keep="last").set_index("step", drop=False))
    shared = columns[0].index
    for column in columns[1:]:
        shared = shared.intersection(column.index)
    if not len(shared):
        return None
    longer = {step for column in columns for step in column.index if step > shared.max()}
    steps = [*sorted(shared), *sorted(longer)]
    values, positions = (
        pd.concat([column[key].reindex(steps) for column in columns], axis=1).to_numpy(np.float64)
        for key in (metric, x)
    )
    counts = np.isfinite(values).sum(axis=1)
    mean = np.nansum(values, axis=1) / counts
    spread = None
    if len(columns) > 1:
        squares = np.nansum((values - mean[:, None]) ** 2, axis=1)
        spread = np.where(counts > 1, np.sqrt(squares / np.maximum(counts - 1, 1)), np.nan)
    return Curve(
        name,
        np.nansum(positions, axis=1) / counts,
        mean,
        spread,
        len(shared) if longer else None,
    )


def mean_of(groups: Sequence[Sequence[Record]]) -> str:
    """Returns a text for the legend, such as `mean of 3 seeds, ± one standard deviation`.

    The text is empty if each curve is a single run.

    Args:
        groups: runs of each curve.
    """
    sizes = sorted({len(records) for records in groups})
    if not sizes or sizes[-1] == 1:
        return ""
    only_seeds_differ = all(
        len({record.info.get("group") for record in records}) == 1 for records in groups
    )
    count = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"mean of {count} {'seeds' if only_seeds_differ else 'runs'}, ± one standard deviation"
