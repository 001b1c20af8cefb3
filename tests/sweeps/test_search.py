"""`sweep=optuna`: n_trials is a total, bad trials are pruned, and the optimum is found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from sweep_processes import states

from etude.errors import RequestError
from etude.records.record import FORMAT, Record
from etude.sweeps.job import Job
from etude.sweeps.multirun import multirun
from etude.sweeps.search import load_study
from etude.sweeps.space import parse_space
from etude.training.observer import current_observer
from etude.training.state import Outcome

SEARCH = ["experiment=debug", "sweep=optuna", "hydra.launcher.n_jobs=2"]


def trained(config: Any, value: float) -> Outcome:
    """Writes the record of a run with this best validation value."""
    key = f"{config.seed}-{config.optimizer.lr:.9g}"
    folder = Path(config.run.root) / "debug" / key
    folder.mkdir(parents=True, exist_ok=True)
    best = {"metric": "val/loss", "value": value, "step": 3}
    info = {"format": FORMAT, "name": "debug", "status": "finished", "best": best}
    (folder / "run.json").write_text(json.dumps(info))
    return Outcome("finished", Record.read(folder))


def search(root: Path, train: Callable[[Any], Outcome], *more: str) -> tuple[list[Job], Any]:
    swept = multirun([*SEARCH, f"run.root={root}", *more], train)
    return swept.jobs, load_study(swept.folder)


def surface(lr: float, seed: int) -> float:
    """A surface of log10 lr and seed with its minimum, 2, at lr = 0.01 and seed = 3."""
    from math import log10

    return 2 + (log10(lr) + 2) ** 2 + 0.05 * (seed - 3) ** 2


AXES = ["optimizer.lr=tag(log,interval(1e-4,1))", "seed=int(interval(0,8))"]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", pytest.param("random", marks=pytest.mark.slow)])
def test_the_best_is_near_the_optimum_of_a_known_surface(tmp_path: Path, sampler: str) -> None:
    def train(config: Any, checked: Any = None) -> Outcome:
        return trained(config, surface(config.optimizer.lr, config.seed))

    count = 40
    words = [*AXES, f"hydra.sweeper.n_trials={count}", f"hydra.sweeper.sampler={sampler}"]
    jobs, study = search(tmp_path, train, *words)
    assert len(jobs) == count
    assert states(study) == {"COMPLETE": count}
    assert study.best_value <= 2 * 1.05
    for trial in study.trials:
        assert trial.value == pytest.approx(
            surface(trial.params["++optimizer.lr"], trial.params["seed"]), rel=1e-4
        )


@pytest.mark.slow
def test_a_planted_bad_trial_is_paused_and_the_others_are_not(tmp_path: Path) -> None:
    def train(config: Any, checked: Any = None) -> Outcome:
        bad = config.seed == 7
        for step in (10, 20, 30):
            if current_observer().validated(step, {"val/loss": 9.0 if bad else 3.0 - step / 100}):
                return Outcome("paused", trained(config, 9.0).record)
        return trained(config, 9.0 if bad else 2.7)

    words = ["seed=0,1,2,3,4,5,6,7", "hydra.sweeper.pruner=median", "hydra.sweeper.sampler=random"]
    words += ["hydra.sweeper.startup_trials=2", "hydra.sweeper.n_trials=24"]
    words += ["hydra.sweeper.min_steps=20", "hydra.launcher.n_jobs=1"]
    _, study = search(tmp_path, train, *words)
    late = [trial for trial in study.trials[2:] if trial.params["seed"] == "7"]
    assert late
    assert all(trial.state is TrialState.PRUNED for trial in late)
    assert all(max(trial.intermediate_values) == 20 for trial in late)  # not before min_steps
    good = [trial for trial in study.trials if trial.params["seed"] != "7"]
    assert all(trial.state is TrialState.COMPLETE for trial in good)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "direction"),
    [
        (["experiment=spam", "data.path=a.csv", "task.monitor=val/f1_macro"], "MAXIMIZE"),
        (["experiment=spam", "data.path=a.csv", "task.monitor=val/loss"], "MINIMIZE"),
        (["hydra.sweeper.metric=val/accuracy"], "MAXIMIZE"),
        (["hydra.sweeper.metric=val/accuracy", "hydra.sweeper.direction=minimize"], "MINIMIZE"),
    ],
)
def test_what_makes_the_metric_better_is_searched(
    tmp_path: Path, words: list[str], direction: str
) -> None:
    """The monitored metric also decides which trials are pruned."""
    paused = []

    def train(config: Any, checked: Any = None) -> Outcome:
        good = config.seed != 7
        name = "val/f1_macro" if "experiment=spam" in words else "val/accuracy"
        paused.append((config.seed, current_observer().validated(9, {name: 0.9 if good else 0.1})))
        return trained(config, 0.9)

    words = [*words, "seed=0,7", "hydra.sweeper.n_trials=6", "hydra.sweeper.pruner=median"]
    words += ["hydra.sweeper.startup_trials=1", "hydra.launcher.n_jobs=1"]
    swept = multirun(["sweep=optuna", f"run.root={tmp_path}", *words], train)
    study = load_study(swept.folder)
    assert study.direction.name == direction
    if direction == "MAXIMIZE":
        assert not any(was for seed, was in paused if seed == 0)


@pytest.mark.slow
def test_hyperband_pauses_what_does_badly(tmp_path: Path) -> None:
    def train(config: Any, checked: Any = None) -> Outcome:
        value = surface(config.optimizer.lr, 3)
        for step in range(1, 28):
            if current_observer().validated(step, {"val/loss": value + 1 / step}):
                return Outcome("paused", trained(config, value).record)
        return trained(config, value)

    words = [AXES[0], "hydra.sweeper.pruner=hyperband", "hydra.sweeper.n_trials=30"]
    _, study = search(tmp_path, train, *words)
    assert sum(states(study).values()) == 30
    paused = [trial for trial in study.trials if trial.state is TrialState.PRUNED]
    assert 5 <= len(paused) < 30
    assert study.best_value < 2.5


@pytest.mark.slow
def test_a_paused_run_goes_on_if_it_is_promoted(tmp_path: Path) -> None:
    """Each trial is worse than earlier ones, so a trial pruned early turns out to be good."""
    begun = tmp_path / "begun.txt"

    def train(config: Any, checked: Any = None) -> Outcome:
        with begun.open("a") as file:
            file.write(f"{config.optimizer.lr:.9g}\n")
        order = list(dict.fromkeys(begun.read_text().split()))
        value = 2.0 + order.index(f"{config.optimizer.lr:.9g}")
        for step in (1, 3, 9):
            if current_observer().validated(step, {"val/loss": value}):
                return Outcome("paused", trained(config, value).record)
        return trained(config, value)

    words = [AXES[0], "hydra.sweeper.pruner=hyperband", "hydra.sweeper.n_trials=24"]
    words += ["hydra.launcher.n_jobs=1"]
    jobs, study = search(tmp_path / "runs", train, *words)
    assert len(jobs) == len(study.trials) == 24
    twice = [lr for lr in set(begun.read_text().split()) if begun.read_text().split().count(lr) > 1]
    assert twice
    promoted = [
        t
        for t in study.trials
        if f"{t.params['++optimizer.lr']:.6g}" in {f"{float(lr):.6g}" for lr in twice}
    ]
    finished = [trial for trial in promoted if trial.state is TrialState.COMPLETE]
    assert finished  # it was resumed and finished
    assert all(max(trial.intermediate_values) == 9 for trial in finished)
    assert set(states(study)) == {"COMPLETE", "PRUNED"}


@pytest.mark.slow
def test_what_failed_is_tried_again_and_counts_once(tmp_path: Path) -> None:
    def fails(config: Any) -> Outcome:
        raise ZeroDivisionError

    words = ["seed=0,1,2", "hydra.sweeper.n_trials=4", "hydra.launcher.n_jobs=1"]
    jobs, study = search(tmp_path, fails, *words)
    assert [job.status for job in jobs] == ["failed"] * 4
    assert states(study) == {"FAIL": 4}
    before = {tuple(trial.params.items()) for trial in study.trials}
    jobs, study = search(
        tmp_path, lambda config, checked=None: trained(config, config.seed), *words
    )
    assert states(study) == {"COMPLETE": 4, "FAIL": 4}
    again = [tuple(t.params.items()) for t in study.trials if t.state is TrialState.COMPLETE]
    assert before <= set(again)
    jobs, study = search(
        tmp_path, lambda config, checked=None: trained(config, config.seed), *words
    )
    assert jobs == []
    jobs, _ = search(tmp_path, lambda config, checked=None: trained(config, config.seed), words[0])
    assert len(jobs) == 16  # the default is 20 trials


@pytest.mark.slow
def test_no_run_is_tried_twice_at_once(tmp_path: Path) -> None:
    def train(config: Any, checked: Any = None) -> Outcome:
        place = tmp_path / f"busy-{config.seed}"
        place.touch(exist_ok=False)
        time.sleep(0.05)
        place.unlink()
        return trained(config, config.seed)

    jobs, study = search(tmp_path / "runs", train, "seed=0,1,2", "hydra.sweeper.n_trials=12")
    assert [job.status for job in jobs] == ["finished"] * 12
    assert states(study)["COMPLETE"] == 12


def space(*words: str) -> Any:
    return parse_space(list(words), OverridesParser.create())


def test_hydras_grammar_as_distributions() -> None:
    found = space("name=x", "a=interval(1,2)", "++b=tag(log,interval(1e-4,1))", "c=range(2,9,3)")
    assert found.fixed == ["name=x"]
    assert found.axes == {
        "a": FloatDistribution(1.0, 2.0),
        "++b": FloatDistribution(1e-4, 1.0, log=True),
        "c": IntDistribution(2, 8, step=3),
    }
    found = space("m=rotary,alibi", "n=choice(1,2)", "o=int(interval(1,8))", "p=range(0,3)")
    assert found.axes == {
        "m": CategoricalDistribution(("rotary", "alibi")),
        "n": CategoricalDistribution(("1", "2")),
        "o": IntDistribution(1, 8),
        "p": IntDistribution(0, 2),
    }
    assert space("m=1,2", "name=x").overrides({"m": "2"}) == ["name=x", "m=2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "sweep=optuna: expected at least one key to search over"),
        (["seed=1,2", "hydra.sweeper.sampler=tpee"], "hydra.sweeper.sampler = 'tpee'"),
        (["seed=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials = 0"),
        (["seed=1,2", "hydra.sweeper.pruner=median,none"], "hydra.sweeper"),
        (["optimizer.lr=interval(2,1)"], "optimizer.lr = 'interval(2,1)': expected a valid range"),
        (["optimizer.lr=tag(log,interval(0,1))"], "expected a valid range"),
    ],
)
def test_a_wrong_search_leaves_nothing(etude, tmp_path: Path, words: list[str], said: str) -> None:
    answer = etude("train", "-m", "experiment=debug", "sweep=optuna", *words, cwd=tmp_path)
    assert answer.code == 2, answer.out
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


def test_an_interval_needs_a_search(etude, tmp_path: Path) -> None:
    words = ["train", "-m", "experiment=debug", "optimizer.lr=interval(1e-4,1)"]
    answer = etude(*words, cwd=tmp_path)
    assert answer.code == 2
    assert "interval" in answer.err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError, match="at least one key to search over"):
        space("seed=1")


optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_a_password_among_the_overrides_does_not_part_a_trial_from_its_job(tmp_path: Path) -> None:
    """The record contains the jobs without the secret, and they keep their keys."""
    secret = "run.notes=x", "vars.url='https://me:secret@host/x'"
    words = [*secret, "seed=0,1", "hydra.sweeper.n_trials=3", "hydra.launcher.n_jobs=1"]
    jobs, study = search(
        tmp_path, lambda config, checked=None: trained(config, config.seed), *words
    )
    assert [job.status for job in jobs] == ["finished"] * 3
    assert states(study) == {"COMPLETE": 3}
    paused = [*SEARCH[:1], f"run.root={tmp_path / 'other'}", *secret, "seed=0,1"]
    swept = multirun(
        paused, lambda config, checked=None: Outcome("paused", trained(config, 1.0).record)
    )
    assert [job.status for job in swept.jobs] == ["paused"] * 2
