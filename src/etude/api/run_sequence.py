"""A sequence of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etude.api.run import Run
from etude.arguments import as_list, check_arguments
from etude.counts import counted
from etude.errors import Problem, RequestError
from etude.records.filters import parse_filter
from etude.records.record import Record
from etude.records.record_fields import (
    best_validation,
    check_keys_exist,
    complete_keys,
    config_values,
    field_value,
    latest_metrics,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from etude.analysis.comparison import Comparison
    from etude.analysis.run_groups import Groups


class Runs(Sequence[Run]):
    """Sequence of runs, with tables and comparisons of them. `runs` returns it.

    Args:
        runs: the runs, in the order of the sequence.
    """

    @check_arguments(RequestError)
    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)

    def __getitem__(self, index: Any) -> Any:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @check_arguments(RequestError)
    def where(self, *conditions: str) -> Runs:
        """Returns the runs that match all filters, like `filter`.

        A key can be the end of a config key, if it is the end of only one: `lr` means
        `optimizer.lr`.

        Example:
            runs("experiments/nano").where("lr > 1e-3", "position = rotary")

        Args:
            conditions: as for `filter`.

        Raises:
            RequestError: as for `filter`, or several keys have this end.
        """
        filters = [parse_filter(condition) for condition in conditions]
        records = [run.record for run in self._runs]
        keys = complete_keys([each.key for each in filters], records)
        return self.filter(
            *(str(replace(f, key=key)) for f, key in zip(filters, keys, strict=True))
        )

    @check_arguments(RequestError)
    def filter(self, *conditions: str) -> Runs:
        """Returns the runs that match all filters.

        A filter is a key of the config or the record, an operator and a value, as for `etude runs
        list`. The operators are `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` (contains) and `!~` (does not
        contain). A run without the key, or with the value None, matches `=null`, `!~`, and `!=`
        with any value but `null`. The result is empty if no run matches.

        Example:
            runs("experiments/nano").filter("optimizer.lr>1e-3", "model.position=rotary")

        Raises:
            RequestError: a filter is invalid, or no run has the key of a filter.
        """
        filters = [parse_filter(condition) for condition in conditions]
        records = [run.record for run in self._runs]
        check_keys_exist([(each.key, "condition") for each in filters], records)
        return Runs(
            [run for run in self._runs if all(each.matches(run.record) for each in filters)]
        )

    def frame(self) -> pd.DataFrame:
        """Returns a table with one row per run: name, status, config values and latest metrics.

        The first columns are `name`, `signature`, `status`, `label`, `parameters` (their number)
        and `step`. There is a column for each key of the runs' configs, such as `optimizer.lr`, and
        for the latest value of each metric, such as `val/loss`. The column `best/<metric>` contains
        the best value of the metric that selects the best checkpoint. Values that a run lacks are
        NaN.
        """
        import pandas as pd

        return pd.DataFrame([_row(run.record) for run in self._runs])

    @check_arguments(RequestError)
    def compare(self, *metrics: str, x: str = "step", log: str = "") -> Comparison:
        """Returns a comparison of the configs, results and curves of the runs.

        In a notebook, it is shown as tables and a figure.

        Args:
            metrics: metrics to plot, one panel each; by default the metric that selects the best
                checkpoint.
            x: quantity of the x-axis: `step`, `tokens` or `time`.
            log: axes with a logarithmic scale: `x`, `y` or `xy`.

        Raises:
            RequestError: there are no runs, or one of the metrics was logged by none of the runs.
        """
        from etude.analysis.comparison import Comparison

        return Comparison([run.record for run in self._runs], metrics=metrics, x=x, log=log)

    @check_arguments(RequestError)
    def group(self, metric: str | None = None, *, by: str | Sequence[str] = ()) -> Groups:
        """Groups the finished runs; by default, runs that differ only in the seed are a group.

        The result has the mean, the standard deviation and the mean curve of a metric per group:
        its method `frame` returns a table with one row per group, `plot` plots the mean curves.

        Args:
            metric: the metric: its final value (such as `val/loss`) or its best value (such as
                `best/val/loss`). None is the best value of the metric that selects the best
                checkpoint.
            by: one or more config keys, which can be shortened as for `where`; runs with the same
                values of these keys are a group, even if they differ in other keys. If empty, the
                whole config without the seed defines the group.

        Raises:
            RequestError: no run is finished, or no finished run has the metric.
        """
        from etude.analysis.run_groups import Groups

        finished = [run.record for run in self._runs if run.status == "finished"]
        keys = complete_keys(as_list(by), finished, "by")
        return Groups(finished, metric=metric, by=keys)

    @check_arguments(RequestError)
    def over_steps(
        self,
        measure: Callable[..., Any],
        *args: Any,
        steps: Sequence[int] | None = None,
        intervals: bool = False,
        **more: Any,
    ) -> pd.Series | pd.DataFrame:
        """Returns the values of a measure for the saved checkpoints of all runs; see
        `Run.over_steps`.

        Example:
            found = runs("experiments/induction")
            found.over_steps(etude.interpret.induction_scores)
            found.over_steps(etude.interpret.induction_scores, intervals=True)

        Args:
            measure, args, steps, more: as for `Run.over_steps`.
            intervals: whether to return the mean over the seeds with its interval, instead of all
                values.

        Returns:
            The values, whose first index levels are `label` (the overrides that distinguish the
            run, without the seed), `seed` and `step`. With `intervals`, a data frame without the
            level `seed`: `n` (number of seeds), `mean`, `std` (standard deviation), and the 95 %
            interval of the mean, `low` to `high`.

        Raises:
            RequestError: there are no runs, two runs have the same label and seed, or as for
                `Run.over_steps`.
        """
        import pandas as pd

        from etude.analysis.measure_curves import mean_over_seeds, report_different_steps
        from etude.records.run_comparison import label_without_seed

        parts: dict[tuple[str, int], pd.Series] = {}
        for run in self._runs:
            key = (label_without_seed(run.record), int(run.config.seed))
            if key in parts:
                expected = "runs with different labels or seeds"
                raise RequestError(Problem("runs", expected, f"{key[0]} seed={key[1]}".strip()))
            parts[key] = run.over_steps(measure, *args, steps=steps, **more)
        if not parts:
            raise RequestError(Problem("runs", "at least one run"))
        values = pd.concat(parts, names=["label", "seed"])
        report_different_steps(values)
        return mean_over_seeds(values) if intervals else values

    @check_arguments(RequestError)
    def plot_over_steps(
        self,
        measure: Callable[..., Any],
        *args: Any,
        steps: Sequence[int] | None = None,
        **more: Any,
    ) -> Figure:
        """Plots the values of a measure for the saved checkpoints, as means over the seeds.

        There is a panel for each layer, and a curve for each head and label, with a band of one
        standard deviation.

        Args:
            measure, args, steps, more: as for `Run.over_steps`.

        Raises:
            RequestError: as for `over_steps`.
        """
        from etude.analysis.measure_curves import draw_over_steps

        values: Any = self.over_steps(measure, *args, steps=steps, **more)
        return draw_over_steps(values, getattr(measure, "__name__", "measure").replace("_", " "))

    @check_arguments(RequestError)
    def significance(self, split: str = "val") -> pd.DataFrame:
        """Tests whether the other runs differ from the first run, by the score of each example.

        The first run is the first item of this sequence. `runs` sorts its result by folder. Each
        run's best checkpoint is compared.

        Args:
            split: `val`, `test` or `train`.

        Returns:
            A table with one row for each run but the first: the label `run`, the folder `path`, the
            number of `examples`, `mean` (its mean loss or score), `difference` (`mean` minus that
            of the first run), the 95 % confidence interval of the difference (`low` to `high`), the
            p-values `permutation` and `bootstrap`, `holm` (`permutation` corrected for the number
            of runs by Holm's method), and `mcnemar` (the p-value of McNemar's exact test) if each
            score is 0 or 1.

        Raises:
            RequestError: there are fewer than two runs, the runs have different data or windows, or
                as for `scores`.
        """
        from etude.analysis.significance import significance_table

        return significance_table(self._runs, split)

    def __repr__(self) -> str:
        names = [run.path.name for run in self._runs[:5]]
        more = [f"and {len(self._runs) - 5:,} more"] if len(self._runs) > 5 else []
        return f"Runs({', '.join([counted(len(self._runs), 'run'), *names, *more])})"

    def _repr_html_(self) -> str:
        from etude.analysis.run_display import runs_html

        return runs_html([run.record for run in self._runs])


def _row(record: Record) -> dict[str, Any]:
    head = {
        key: field_value(record, key)
        for key in ("name", "signature", "status", "label", "parameters", "step")
    }
    config = {key: value for key, value in config_values(record).items() if key not in head}
    best_value = best_validation(record)
    scores = {f"best/{best_value['metric']}": best_value["value"]} if best_value else {}
    return head | config | latest_metrics(record) | scores
