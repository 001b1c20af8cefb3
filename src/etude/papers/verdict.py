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

    A measurement whose negative control passes too, or is missing, has shown nothing: a miss.
    """
    if reading is None or not reading.values:
        return Verdict("not run")
    seeds = len(reading.values)
    if not math.isfinite(fmean(reading.values)):
        return Verdict("miss", seeds, "no number")
    if not cell.tolerance.admits(fmean(reading.values), cell.published):
        return Verdict("miss", seeds)
    if not reading.controls or not math.isfinite(fmean(reading.controls)):
        return Verdict("miss", seeds, "no control")
    if cell.tolerance.admits(fmean(reading.controls), cell.published):
        return Verdict("miss", seeds, "the control passes too")
    return Verdict("match", seeds)


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
    if "not run" in outcomes or not outcomes:
        return Verdict("not run")
    return Verdict("match", seeds)
