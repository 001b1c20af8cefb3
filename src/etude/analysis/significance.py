"""Whether runs differ, tested on their scores of the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etude.analysis.statistics import difference, holm
from etude.errors import Problem, RequestError

if TYPE_CHECKING:
    import pandas as pd


class Scored(Protocol):
    """A run that knows the loss, or score, of each example."""

    @property
    def path(self) -> Path: ...

    @property
    def label(self) -> str: ...

    @property
    def summary(self) -> dict[str, Any]: ...

    def scores(self, split: str) -> list[float]: ...


def compared(runs: Sequence[Scored], split: str) -> pd.DataFrame:
    """A row for each run but the first; see `etude.api.Runs.significance`."""
    import pandas as pd

    if len(runs) < 2:
        raise RequestError(Problem("RUN", "two runs or more", len(runs)))
    places = [run.path.resolve() for run in runs]
    if repeated := [run for n, run in enumerate(runs) if places[n] in places[:n]]:
        raise RequestError(Problem("RUN", "each run once", str(run.path)) for run in repeated)
    first, *others = runs
    data = first.summary["data"]["fingerprint"]
    if problems := [
        Problem(f"{run.path}: data", f"that of {first.path} ({data})", found)
        for run in others
        if (found := run.summary["data"]["fingerprint"]) != data
    ]:
        raise RequestError(problems)  # before predictions are made and kept
    reference = first.scores(split)
    rows = []
    for run in others:
        losses = run.scores(split)
        if len(losses) != len(reference):
            expected = f"the {len(reference)} examples of {first.path}"
            hint = "the data's settings differ, so they are not the same examples"
            raise RequestError(Problem(f"{run.path}: scores", expected, len(losses), hint))
        told = difference(reference, losses)
        rows.append(
            {
                "run": run.label or run.path.name,
                "path": str(run.path),
                "examples": told.examples,
                "mean": sum(losses) / len(losses),
                "difference": told.mean,
                "low": told.low,
                "high": told.high,
                "permutation": told.permutation,
                "bootstrap": told.bootstrap,
                **({} if told.mcnemar is None else {"mcnemar": told.mcnemar}),
            }
        )
    for row, p in zip(rows, holm([float(row["permutation"]) for row in rows]), strict=True):  # type: ignore[arg-type]
        row["holm"] = p
    return pd.DataFrame(rows)
