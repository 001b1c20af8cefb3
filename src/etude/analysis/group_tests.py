"""Significance tests between groups of runs with several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from etude.analysis.statistics import holm, seed_test
from etude.errors import Problem, RequestError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from etude.analysis.run_groups import Group

REFERENCES = ("best", "first")
LEVEL = 0.05


def comparison_table(
    groups: Sequence[Group],
    reference: Group,
    rows: Sequence[dict[str, Any]],
    *,
    paired: bool = False,
) -> pd.DataFrame:
    """Returns a table of tests, with a row for each group but the reference.

    The columns are those of `Groups.comparison`.

    Args:
        groups: all groups.
        reference: group that the other groups are compared with.
        rows: a dict for each group, in the order of `groups`: the config keys and values that
            distinguish the group. They become the first columns.
        paired: whether runs with the same seed are paired.

    Raises:
        RequestError: `paired` is true, but the seeds of a group differ from those of the reference,
            or two runs of a group have the same seed.
    """
    import pandas as pd

    table = []
    for group, names in zip(groups, rows, strict=True):
        if group is reference:
            continue
        test = (
            seed_test(*_values_by_seed(reference, group), paired=True)
            if paired
            else seed_test(reference.values, group.values)
        )
        table.append(
            {
                **names,
                "n": len(group.values),
                "mean": group.mean,
                "difference": test.difference,
                "exact": test.exact,
                "p": test.p,
                "smallest_p": test.smallest,
            }
        )
    corrected = holm([row["p"] for row in table])
    return pd.DataFrame([row | {"holm": p} for row, p in zip(table, corrected, strict=True)])


def _values_by_seed(first: Group, second: Group) -> tuple[list[float], list[float]]:
    """Returns the metric values of two groups, both in the order of the first group's seeds.

    Raises:
        RequestError: the groups have different seeds, or a group has a seed twice.
    """
    by_seed = []
    for group in (first, second):
        seeds = [record.info.get("seed") for record in group.records]
        by_seed.append(dict(zip(seeds, group.values, strict=True)))
        if None in seeds or len(by_seed[-1]) < len(seeds):
            raise _unpaired(f"{group.name} has {_seeds(seeds)}")
    if set(by_seed[0]) != set(by_seed[1]):
        both = [
            f"{g.name} has {_seeds(each)}" for g, each in zip((first, second), by_seed, strict=True)
        ]
        raise _unpaired("; ".join(both))
    return list(by_seed[0].values()), [by_seed[1][seed] for seed in by_seed[0]]


def _unpaired(details: str) -> RequestError:
    return RequestError(
        Problem(
            "paired", "the same seeds in every group, and each seed only once per group", details
        )
    )


def _seeds(seeds: Iterable[Any]) -> str:
    return f"the seeds {', '.join(map(str, sorted(seeds, key=str)))}"


def limits_of_tests(
    frame: pd.DataFrame, reference: Group, *, against: str, paired: bool = False
) -> list[str]:
    """Returns warnings about significance tests that are weak or biased; empty if there are none.

    A test is weak if a group has too few seeds. It is biased if the reference group was selected
    with the same values that are tested.

    Args:
        frame: result of `comparison_table`.
        reference: group that the other groups are compared with.
        against: how the reference was chosen: `best` or `first`.
        paired: whether runs with the same seed are paired.
    """
    notes = []
    smallest, tests = float(frame["smallest_p"].min()), len(frame)
    sizes = sorted({len(reference.values), *map(int, frame["n"])})
    if smallest * tests >= LEVEL:
        count = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        seeds = {record.info.get("seed") for record in reference.records}
        noun = "seed" if len(seeds) == len(reference.records) else "run"
        runs = f"{count} {noun}{'s' if sizes[-1] > 1 else ''} per group"
        note = f"with {runs}{', paired by seed' if paired else ''}, the smallest possible p-value "
        note += f"is {smallest:.3g}"
        if smallest < LEVEL:
            corrected = min(1.0, smallest * tests)
            note += f", and {corrected:.3g} after Holm's correction for {tests} comparisons"
        notes.append(note)
    if against == "best" and tests > 1:
        notes.append(
            "the best group was selected with the values that are tested, so the p-values are too "
            "small; to compare with the group of the first run, which does not depend on the "
            "values, use --against first"
        )
    return notes


def check_reference(name: str) -> None:
    """Checks that the name of the reference group is `best` or `first`.

    The other groups are compared with the reference group.

    Raises:
        RequestError: `name` is another name.
    """
    if name not in REFERENCES:
        expected = " or ".join(REFERENCES)
        raise RequestError(Problem("against", expected, name, nearest(name, REFERENCES)))
