"""Verdicts: pure functions that compare measured values with the values of a paper's table.

In reports, "matches the paper" is the comparison with the number in the paper. "Matches the
protocol" is the comparison with a result that other people measured with the settings that Étude
uses. These settings are seldom exactly those of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from etude.counts import counted
from etude.papers.claims import Cell, Reading

SEEDS_FOR_A_MATCH = 3
"""Number of seeds below which the text of a match states the number of seeds."""


@dataclass(frozen=True)
class Verdict:
    """Whether the values that Étude measured match a paper: one value, or all values together.

    Attributes:
        outcome: `match`, `miss`, or `not run` (no values were measured, or none for the negative
            control, which is a case in which the paper's claim must not hold).
        seeds: number of seeds with which values were measured.
        why: reason for the outcome; empty if none is needed.
    """

    outcome: Literal["match", "miss", "not run"]
    seeds: int = 0
    why: str = ""

    @property
    def matches(self) -> bool:
        """Whether the outcome is a match, for any number of seeds."""
        return self.outcome == "match"

    def __str__(self) -> str:
        if self.why:
            return f"{self.outcome} ({self.why})"
        if self.matches and self.seeds < SEEDS_FOR_A_MATCH:
            return f"match ({counted(self.seeds, 'seed')})"
        return self.outcome


def judge(cell: Cell, reading: Reading | None) -> Verdict:
    """Returns the verdict on one value: whether the measured mean over seeds agrees with the paper.

    The mean agrees if it is within the tolerance. The negative control is the same value, measured
    in a case in which the paper's claim must not hold. If its mean is also within the tolerance, or
    is NaN or infinite, the outcome is a miss, because the measurement then doesn't support the
    claim. If the negative control was not run, the outcome is "not run".

    Args:
        cell: value of the paper's table, with its tolerance.
        reading: measured values; None if nothing was measured; the outcome is then "not run".
    """
    if reading is None or not reading.values:
        return Verdict("not run")
    value, control = mean(reading.values), mean(reading.controls)
    seeds = len(reading.values)
    if not math.isfinite(value):
        return Verdict("miss", seeds, "the measured value is NaN or infinite")
    if not cell.tolerance.admits(value, cell.published):
        return Verdict("miss", seeds)
    if not reading.controls:
        return Verdict("not run", seeds, "the negative control was not run")
    if not math.isfinite(control):
        return Verdict("miss", seeds, "the value of the negative control is NaN or infinite")
    if cell.tolerance.admits(control, cell.published):
        return Verdict("miss", seeds, "the claim also holds for the negative control")
    return Verdict("match", min(seeds, len(reading.controls)))


def mean(values: Sequence[float]) -> float:
    """Returns the mean; NaN if there are no values, the sum overflows, or infinities cancel."""
    try:
        return fmean(values) if values else math.nan
    except (OverflowError, ValueError):
        return math.nan


def judge_protocol(cell: Cell, reading: Reading | None) -> Verdict | None:
    """Compares measured values with the result that other people got with the same settings.

    Returns the verdict, by the rules of `judge`; None if the paper file contains no such result
    (`cell.protocol` is None).

    Args:
        cell: value of the paper's table; its `protocol` contains the result of the other people.
        reading: measured values; None if nothing was measured.
    """
    if cell.protocol is None:
        return None
    protocol_cell = replace(
        cell, published=cell.protocol.expected, tolerance=cell.protocol.tolerance
    )
    return judge(protocol_cell, reading)


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Combines the verdicts on all values of a paper's table into one verdict.

    The outcome is a match if all values match, a miss if at least one value is a miss, and
    otherwise "not run". Without verdicts, it is "not run".
    """
    seeds = min((verdict.seeds for verdict in verdicts), default=0)
    outcomes = [verdict.outcome for verdict in verdicts]
    if "miss" in outcomes:
        return Verdict("miss", seeds, f"{outcomes.count('miss')} of {len(outcomes)} values")
    not_run = [verdict for verdict in verdicts if verdict.outcome == "not run"]
    if not_run or not outcomes:
        reasons = {verdict.why for verdict in not_run} or {""}
        why = reasons.pop() if len(reasons) == 1 else ""
        if len(not_run) < len(outcomes):
            why = f"{len(not_run)} of {len(outcomes)} values"
        return Verdict("not run", why=why)
    return Verdict("match", seeds)
