"""Formatting of numbers in a report."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_arms import paper

from etude.papers.claims import Reading
from etude.papers.report import COLUMNS, markdown, rows

MEASURED = {
    "commit": "c", "source": "s", "devices": [], "versions": {"torch": "2"}, "time": "now",
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1.4658, 1.4706, 1.4737], "1.470 ± 0.004"),  # rounded to the first digit of the deviation
        ([63.0, 64.5, 66.3], "65 ± 2"),
        ([1203.0, 1500.0, 1421.0], "1375 ± 200"),
        ([0.0, 0.0, 0.0], "0 ± 0"),
        ([0.2501, 0.2501], "0.2501 ± 0"),
        ([1.6e-8, 1.9e-8, 2.2e-8], "1.9e-08 ± 3e-09"),
        ([2.71828], "2.718"),
        ([math.inf, 1.0], "inf"),
        ([], ""),
    ],
)
def test_a_mean_is_told_as_far_as_it_is_known(values: list[float], told: str) -> None:
    toy = paper(cells=[cell(published=1.4697)])
    (row,) = rows(toy, {"a": Reading(values, [])})
    assert row[COLUMNS.index("ours")] == told
    assert row[COLUMNS.index("published")] == "1.4697"


def cell(**stated: Any) -> dict[str, Any]:
    words = {name: "x" for name in ("says", "read", "because", "control")}
    return {"key": "a", **words, "tolerance": {"absolute": 0.03}, **stated}


def test_what_differs_between_the_runs_of_an_arm_is_a_span() -> None:
    toy = paper(runs={"wide": ["model.dim=8,16"]}, cells=[cell(published=1)])
    runs = [
        {"place": f"toy/{n:012x}", "seconds": 1.2 + n, "parameters": 1000 * (1 + n % 2)}
        for n in range(8)
    ]
    found = {
        "verdict": "match", "protocol": "", "readings": {}, "seeds": [0], "measure": {},
        "overrides": toy.runs, "runs": {"wide": runs}, "measured": MEASURED,
    }  # fmt: skip
    text = markdown("toy", toy, found, [])
    assert "| 1,000 to 2,000 | 1 to 8 s | `000000000000` " in text
    assert "`000000000005` and 2 more |" in text
    found["runs"] = {"wide": runs[:1]}
    assert "| 1,000 | 1 s | `000000000000` |" in markdown("toy", toy, found, [])
    found["runs"] = {}
    assert "|  | not run |  |" in markdown("toy", toy, found, [])
