"""From what a paper claims and what was measured to match, miss or not run: pure functions.

"Matches the paper" is about the published number. "Matches the protocol" is about what the settings
of our runs have given elsewhere, which are seldom those of the paper to the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from etude.papers.claims import Cell, Reading

SEEDS_FOR_A_MATCH = 3
"""With fewer, a match says how many it rests on."""


@dataclass(frozen=True)
class Verdict:
    """How a cell, or a whole paper, came out.

    Attributes:
        outcome: match, miss, or not run.
        seeds: how many seeds it rests on.
        why: what a reader must know beside the outcome.
    """

    outcome: Literal["match", "miss", "not run"]
    seeds: int = 0
    why: str = ""

    @property
    def matches(self) -> bool:
        """Whether it is a match, on however few seeds."""
        return self.outcome == "match"

    def __str__(self) -> str:
        if self.why:
            return f"{self.outcome} ({self.why})"
        if self.matches and self.seeds < SEEDS_FOR_A_MATCH:
            return f"match ({self.seeds} seed{'s' if self.seeds > 1 else ''})"
        return self.outcome


def judge(cell: Cell, reading: Reading | None) -> Verdict:
    """Compares the mean over seeds with the cell's tolerance.

    A measurement whose negative control passes too, or is no number, has shown nothing: a miss.
    One whose control has not been run has not been run.
    """
    if reading is None or not reading.values:
        return Verdict("not run")
    value, control = mean(reading.values), mean(reading.controls)
    seeds = len(reading.values)
    if not math.isfinite(value):
        return Verdict("miss", seeds, "no number")
    if not cell.tolerance.admits(value, cell.published):
        return Verdict("miss", seeds)
    if not reading.controls:
        return Verdict("not run", seeds, "its control was not run")
    if not math.isfinite(control):
        return Verdict("miss", seeds, "no control")
    if cell.tolerance.admits(control, cell.published):
        return Verdict("miss", seeds, "the control passes too")
    return Verdict("match", min(seeds, len(reading.controls)))


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing, and of what has none: infinities of both signs, sums too large."""
    try:
        return fmean(values) if values else math.nan
    except (OverflowError, ValueError):
        return math.nan


def judge_protocol(cell: Cell, reading: Reading | None) -> Verdict | None:
    """The same against what these settings should give; None where nothing is known of that."""
    if cell.protocol is None:
        return None
    known = replace(cell, published=cell.protocol.expected, tolerance=cell.protocol.tolerance)
    return judge(known, reading)


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """A paper matches if every cell does, and misses if any cell does."""
    seeds = min((verdict.seeds for verdict in verdicts), default=0)
    outcomes = [verdict.outcome for verdict in verdicts]
    if "miss" in outcomes:
        return Verdict("miss", seeds, f"{outcomes.count('miss')} of {len(outcomes)} cells")
    absent = [verdict for verdict in verdicts if verdict.outcome == "not run"]
    if absent or not outcomes:
        told = {verdict.why for verdict in absent} or {""}
        why = told.pop() if len(told) == 1 else ""
        if len(absent) < len(outcomes):
            why = f"{len(absent)} of {len(outcomes)} cells"
        return Verdict("not run", why=why)
    return Verdict("match", seeds)
