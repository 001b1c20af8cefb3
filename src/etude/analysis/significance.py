"""Significance tests between runs, based on their scores on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etude.analysis.statistics import holm, paired_tests
from etude.errors import Problem, RequestError

if TYPE_CHECKING:
    import pandas as pd


class ScoredRun(Protocol):
    """Interface of a run that can return a loss, or another score, for each example of a split.

    `etude.api.Run` implements it.
    """

    @property
    def path(self) -> Path: ...

    @property
    def label(self) -> str: ...

    @property
    def summary(self) -> dict[str, Any]: ...

    def scores(self, split: str) -> list[float]: ...


def significance_table(runs: Sequence[ScoredRun], split: str) -> pd.DataFrame:
    """Returns a table of significance tests between the first run and each further run.

    The columns are those of `etude.api.Runs.significance`.

    Args:
        runs: at least two runs.
        split: split on whose examples the runs are compared.
    """
    import pandas as pd

    if len(runs) < 2:
        raise RequestError(Problem("runs", "at least two runs", len(runs)))
    paths = [run.path.resolve() for run in runs]
    if repeated := [run for n, run in enumerate(runs) if paths[n] in paths[:n]]:
        raise RequestError(Problem("runs", "each run only once", str(run.path)) for run in repeated)
    first, *others = runs
    data = first.summary["data"]["fingerprint"]
    if problems := [
        Problem(f"{run.path}: data", f"the data of {first.path} (fingerprint {data})", fingerprint)
        for run in others
        if (fingerprint := run.summary["data"]["fingerprint"]) != data
    ]:
        raise RequestError(problems)  # before predictions are computed and stored
    reference = first.scores(split)
    rows = []
    for run in others:
        losses = run.scores(split)
        if len(losses) != len(reference):
            expected = f"{len(reference)}, as in {first.path}"
            hint = "the data settings differ, so the examples are not the same"
            raise RequestError(
                Problem(f"{run.path}: number of examples", expected, len(losses), hint)
            )
        tests = paired_tests(reference, losses)
        rows.append(
            {
                "run": run.label or run.path.name,
                "path": str(run.path),
                "examples": tests.examples,
                "mean": sum(losses) / len(losses),
                "difference": tests.mean,
                "low": tests.low,
                "high": tests.high,
                "permutation": tests.permutation,
                "bootstrap": tests.bootstrap,
                **({} if tests.mcnemar is None else {"mcnemar": tests.mcnemar}),
            }
        )
    for row, p in zip(rows, holm([float(row["permutation"]) for row in rows]), strict=True):  # type: ignore[arg-type]
        row["holm"] = p
    return pd.DataFrame(rows)
