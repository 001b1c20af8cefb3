"""Tests between groups of runs, over their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etude.analysis.statistics import SeedTest, holm, seed_test
from etude.errors import Problem, RequestError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from etude.analysis.run_groups import Group

REFERENCES = ("best", "first")
LEVEL = 0.05


def comparison_table(
    groups: Sequence[Group], reference: Group, rows: Sequence[dict[str, Any]]
) -> pd.DataFrame:
    """Returns a row of tests for each group but the reference; see `Groups.comparison`.

    Args:
        groups: all groups.
        reference: group that the others are compared with.
        rows: keys and values that name each group.
    """
    import pandas as pd

    table = []
    for group, names in zip(groups, rows, strict=True):
        if group is reference:
            continue
        test = _test(reference, group)
        table.append(
            {
                **names,
                "n": len(group.values),
                "mean": group.mean,
                "difference": test.difference,
                "paired": test.paired,
                "exact": test.exact,
                "p": test.p,
                "smallest_p": test.smallest,
            }
        )
    corrected = holm([row["p"] for row in table])
    return pd.DataFrame([row | {"holm": p} for row, p in zip(table, corrected, strict=True)])


def _test(first: Group, second: Group) -> SeedTest:
    """Tests two groups, paired by seed if both have the same seeds, each once."""
    seeds = [[record.info.get("seed") for record in group.records] for group in (first, second)]
    distinct = all(None not in each and len(set(each)) == len(each) for each in seeds)
    if not distinct or set(seeds[0]) != set(seeds[1]):
        return seed_test(first.values, second.values)
    by_seed = [
        dict(zip(each, group.values, strict=True))
        for each, group in zip(seeds, (first, second), strict=True)
    ]
    return seed_test(*([values[seed] for seed in seeds[0]] for values in by_seed), paired=True)


def power_note(frame: pd.DataFrame, reference: Group) -> str:
    """Returns a line if too few seeds make p < 0.05 impossible; otherwise an empty string."""
    if not len(frame):
        return ""
    row = min(frame.to_dict("records"), key=lambda row: float(row["smallest_p"]))
    smallest, tests = float(row["smallest_p"]), len(frame)
    if smallest * tests < LEVEL:
        return ""
    sizes = sorted({len(reference.values), *map(int, frame["n"])})
    count = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    seeds = {record.info.get("seed") for record in reference.records}
    noun = "seed" if len(seeds) == len(reference.records) else "run"
    runs = f"{count} {noun}{'s' if sizes[-1] > 1 else ''} per group"
    note = f"with {runs}{', paired by seed,' if row['paired'] else ''} the smallest possible p is "
    note += f"{smallest:.3g}"
    if smallest < LEVEL:
        corrected = min(1.0, smallest * tests)
        note += f", and {corrected:.3g} after Holm's correction for {tests} comparisons"
    return note


def check_reference(name: str) -> None:
    """Checks the name of the reference group.

    Raises:
        RequestError: it is not in `REFERENCES`.
    """
    if name not in REFERENCES:
        expected = " or ".join(REFERENCES)
        raise RequestError(Problem("--against", expected, name, nearest(name, REFERENCES)))
