"""What a benchmark says: one row of a table, with its target and whether that was met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        what: what was measured, in words.
        ours: our figure with its unit.
        theirs: the other side's figure with its unit; empty where there is none.
        figure: the number that the target is about: a ratio, or a value in the target's unit.
        target: what was aimed at, such as `at least 1.15`.
        met: whether the figure meets it; None where there is no target.
        note: what takes the rest, where a target is missed; how it was measured.
    """

    what: str
    ours: str
    theirs: str
    figure: float
    target: str
    met: bool | None
    note: str = ""


def at_least(
    target: float, what: str, ours: str, theirs: str, figure: float, note: str = ""
) -> Row:
    """A row whose figure should be `target` or more."""
    return Row(what, ours, theirs, figure, f"at least {target:g}", figure >= target, note)


def at_most(target: float, what: str, ours: str, theirs: str, figure: float, note: str = "") -> Row:
    """A row whose figure should be `target` or less."""
    return Row(what, ours, theirs, figure, f"at most {target:g}", figure <= target, note)


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[float, float, float]:
    """Calls both in turn, `repeats` times, so that a change of the machine's speed hits both; every
    second time the other one is first.

    Each call returns its own measurement (seconds). Returns the medians of both and the median of
    the paired ratios theirs / ours: above 1 means that ours is faster.
    """
    pairs = []
    for i in range(repeats):
        if i % 2:
            second = theirs()
            pairs.append((ours(), second))
        else:
            pairs.append((ours(), theirs()))
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| what | Étude | beside | figure | target | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        lines.append(
            f"| {row.what} | {row.ours} | {row.theirs} | {row.figure:.3g} | {row.target} | {met} |"
        )
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"
