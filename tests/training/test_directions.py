"""Direction of a metric: known, stated by the task, or an error."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.config.table import table
from etude.config.targets import resolve_class

Toy = Callable[..., list[str]]

MODULE = """
from etude.tasks.classification import Classification


class Mine(Classification):
    metric_names = (*Classification.metric_names, "val/kappa")
    {stated}

    def metrics(self, evaluated):
        inner = super().metrics(evaluated)
        compute, accuracy = inner.compute, [0.1, 0.5, 0.3, 0.2, 0.1]

        def counted():
            step = min(4, self.trainer.global_step // 5 - 1)
            return {{**compute(), {given}: accuracy[step]}}

        inner.compute = counted
        return inner
"""


@pytest.fixture
def mine(
    tmp_path: Path, toy: Toy, etude: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Trains with a custom task whose metric is best in the middle of the run."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "conf" / "task" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: mine_task.Mine\n_partial_: true\nmonitor: val/kappa\n")

    def trained(*words: str, stated: str = "", given: str = '"kappa"') -> Any:
        code = textwrap.dedent(MODULE).format(stated=stated or "pass", given=given)
        (tmp_path / "mine_task.py").write_text(code)
        sys.modules.pop("mine_task", None)
        asked = [w for w in toy("classification", tmp_path / "runs") if not w.startswith("task=")]
        own = [f"--config-dir={file.parents[1]}", "task=mine", "extensions=[mine_task]"]
        return etude("train", *own, *asked, "trainer.max_steps=25", *words)

    yield trained
    sys.modules.pop("mine_task", None)


def best(tmp_path: Path) -> dict[str, Any]:
    (file,) = (tmp_path / "runs").rglob("run.json")
    found: dict[str, Any] = json.loads(file.read_text())["best"]
    return found


def test_every_metric_of_the_shipped_tasks_is_known() -> None:
    for target in table().slots["task"]:
        task: Any = resolve_class(target, "task")
        assert task.metric_names
        for metric in task.metric_names:
            assert task.rises(metric) is not None, (target, metric)
        assert task.rises("val/loss") is False
        assert task.rises("val/bits_per_byte") is False
    assert task.rises("val/accuracy") is True
    assert task.rises("val/exact_match") is True


@pytest.mark.parametrize(
    ("stated", "step", "value"),
    [('more_is_better = ("kappa",)', 10, 0.5), ('less_is_better = ("kappa",)', 5, 0.1)],
)
def test_the_task_says_it(
    stated: str, step: int, value: float, mine: Callable[..., Any], tmp_path: Path
) -> None:
    answer = mine(stated=stated)
    assert answer.code == 0, answer.err
    assert best(tmp_path) == {"metric": "val/kappa", "step": step, "value": value}


def test_a_monitor_of_no_known_direction_is_refused(
    mine: Callable[..., Any], tmp_path: Path
) -> None:
    answer = mine()
    assert answer.code == 2
    assert "task.monitor = 'val/kappa': expected a metric with a known direction" in answer.err
    choice = 'more_is_better = ("kappa",) or less_is_better = ("kappa",)'
    assert f"set {choice} in the class Mine" in answer.err
    assert not (tmp_path / "runs").exists()
    assert mine("task.monitor=val/f1_macro").code == 0


def test_a_monitor_that_validation_does_not_give(mine: Callable[..., Any], tmp_path: Path) -> None:
    answer = mine(stated='more_is_better = ("kappa",)', given='"cappa"')
    assert answer.code == 2
    (file,) = (tmp_path / "runs").rglob("run.json")
    assert json.loads(file.read_text())["status"] == "failed"
    assert (
        "task.monitor = 'val/kappa': expected a metric that the validation computes" in answer.err
    )
    assert "val/cappa" in answer.err


def test_metrics_that_are_not_listed_are_reported_once(mine: Callable[..., Any]) -> None:
    answer = mine("task.monitor=val/loss", given='"cappa"')
    assert answer.code == 0, answer.err
    warning = "Mine computes metrics that its metric_names doesn't list: val/cappa"
    assert (answer.out + answer.err).count(warning) == 1
    answer = mine("task.monitor=val/loss", "name=other")
    assert "metric_names" not in answer.out + answer.err


def test_early_stopping_goes_the_metric_s_way(mine: Callable[..., Any]) -> None:
    stop = ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/accuracy"]
    answer = mine("task.monitor=val/loss", *stop)
    assert answer.code == 2
    assert (
        "callbacks.early_stopping.mode = 'min': expected max (higher values of val/accuracy"
        in answer.err
    )
    assert mine("task.monitor=val/loss", *stop, "+callbacks.early_stopping.mode=max").code == 0


def test_a_search_goes_the_way_that_the_task_states(mine: Callable[..., Any]) -> None:
    search = ["-m", "sweep=optuna", "optimizer.lr=interval(1e-4,1e-2)", "hydra.sweeper.n_trials=1"]
    answer = mine(*search, stated='more_is_better = ("kappa",)')
    assert answer.code == 0, answer.err
    answer = mine(*search, "hydra.sweeper.metric=val/other", stated='more_is_better = ("kappa",)')
    assert answer.code == 2
    assert "hydra.sweeper.direction: expected minimize or maximize" in answer.err
