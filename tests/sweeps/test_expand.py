"""Compares a sweep's jobs with those that Hydra's own sweeper starts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from etude.config.compose import (
    add_plus_signs,
    compose_in_search,
    remove_plus_signs,
    search_configs,
    set_overrides_and_choices,
)
from etude.config.loader import CachingLoader
from etude.config.paths import conf_dir
from etude.config.schema import Run
from etude.errors import RequestError
from etude.records.record import Record
from etude.sweeps.expand import Sweep, expand
from etude.sweeps.multirun import multirun
from etude.sweeps.planning import plan
from etude.training.state import Outcome
from quick_first import quick_first


def expanded(*overrides: str, config_dir: Path | None = None) -> Sweep:
    with search_configs(config_dir) as hydra:
        return expand(overrides, hydra)


def started(root: Path, *overrides: str, config_dir: Path | None = None) -> list[Any]:
    """Returns the configs that `etude train -m` passes to training, in order."""
    configs: list[Any] = []

    def train(config: Any, checked: Any = None) -> Outcome:
        configs.append(config)
        return Outcome("finished", Record(root / "somewhere"))

    folder = None if config_dir is None else str(config_dir)
    multirun(["hydra/launcher=basic", *overrides, f"run.root={root}"], train, folder)
    return configs


SLOW = pytest.mark.slow
SWEEPS = [
    ["experiment=debug", "seed=range(0,4,2)", "model/norm=glob(*,exclude=none)"],
    ["experiment=debug", "model.bias=true,false", "run.notes='a, b','c=d'"],
    ["experiment=debug,nano", "+vars.width=8", "model.dim=${vars.width}", "run.tags=[a,b],[c]"],
    pytest.param(["experiment=debug", "seed=sort(3,1,2,reverse=true)", "seed=4,5"], marks=SLOW),
    pytest.param(["experiment=debug", "optimizer.lr=choice(1e-3,0.01)", "seed=1"], marks=SLOW),
    pytest.param(["experiment=debug", "seed=7"], marks=SLOW),
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", SWEEPS, ids=str)
def test_jobs_are_those_that_hydra_starts(tmp_path: Path, overrides: list[str]) -> None:
    found = started(tmp_path, *overrides)
    jobs = expanded(*overrides, f"run.root={tmp_path}").jobs
    assert jobs is not None
    assert [[item.lstrip("+") for item in job] for job in jobs] == [
        list(config.run.overrides) for config in found
    ]


def test_a_planned_run_is_the_one_that_is_started(tmp_path: Path) -> None:
    from etude.config.checks import check
    from etude.records.signature import signature

    overrides = ["experiment=debug", "model.bias=true,false", "model/position=rotary,alibi"]
    found = [signature(check(config).identity)[:12] for config in started(tmp_path, *overrides)]
    planned = plan([*overrides, f"run.root={tmp_path}"], multirun=True, measure=False)
    assert [job.signature for job in planned] == found
    assert planned[1].label == "bias=True position=alibi"  # as Hydra formats a swept true


@pytest.fixture
def my_conf(tmp_path: Path) -> Path:
    """A folder of configs with an experiment that sets the axes of its sweep."""
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "study.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - debug\n"
        "name: study\n"
        "hydra:\n  sweeper:\n    params:\n"
        "      seed: 0,1\n      model/position: rotary,alibi\n      model.bias: true,false\n"
        "      task.nothing: 3\n"
    )
    return folder


def test_what_a_file_sweeps_counts_as_if_typed_first(my_conf: Path, tmp_path: Path) -> None:
    file = my_conf / "experiment" / "study.yaml"
    file.write_text(file.read_text().replace("      task.nothing: 3\n", ""))
    overrides = ["experiment=study", "seed=5,6", "model.bias=true"]
    found = started(tmp_path / "runs", *overrides, config_dir=my_conf)
    sweep = expanded(*overrides, config_dir=my_conf)
    assert "model.bias=true" in sweep.fixed
    assert sweep.axes == {"model/position": ["rotary", "alibi"], "seed": ["5", "6"]}
    assert [(c.seed, c.model.position._target_.rpartition(".")[2]) for c in found] == [
        (5, "Rotary"),
        (5, "ALiBi"),
        (6, "Rotary"),
        (6, "ALiBi"),
    ]
    assert sweep.jobs is not None
    assert [len(job) for job in sweep.jobs] == [4] * 4


def test_a_wrong_key_in_such_a_file_is_no_job(my_conf: Path) -> None:
    (job, *_) = plan(["experiment=study"], multirun=True, config_dir=str(my_conf), measure=False)
    assert job.state.kind == "refused"
    assert "task.nothing" in job.state.description


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["seed=interval(0,1)"], "INTERVAL"),
        (["seed=0,1", "modle=nano"], "did you mean model?"),
        (["model/position=rotry,alibi"], "did you mean rotary?"),
        (["seed=[1,2"], "Hydra's override syntax"),
        (["-x"], "-x"),
    ],
)
def test_what_cannot_be_swept_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(RequestError) as refused:
        expanded("experiment=debug", *overrides)
    assert said in str(refused.value)


def test_another_sweeper_chooses_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "hydra" / "sweeper"
    folder.mkdir(parents=True)
    (folder / "clever.yaml").write_text("_target_: somebody.Sweeper\n")
    overrides = ["experiment=debug", "hydra/sweeper=clever", "seed=0,1"]
    assert expanded(*overrides, config_dir=tmp_path).jobs is None
    with pytest.raises(RequestError, match=r"somebody\.Sweeper"):
        plan(overrides, multirun=True, config_dir=str(tmp_path))


# -- the loader that remembers ----------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3", "experiment=debug", "++model.dim=7", "~run.notes"],
        ["model/position=rotary", "++optimizer={lr: 3.0}", "name=q", "hydra.job.name=x"],
        ["~experiment", "callbacks=early_stopping", "++model.x.y=3", "run.tags=[a,b]"],
        ["modle=3"],
        pytest.param(["callbacks=early_stopping", "~schedule"], marks=SLOW),
        pytest.param(["+callbacks=early_stopping", "seed=1"], marks=SLOW),
        pytest.param(["seed=abc"], marks=SLOW),
        pytest.param(["model/foo=rotary"], marks=SLOW),
        pytest.param(["model=nona"], marks=SLOW),
        pytest.param(["hydra.searchpath=[file:///nowhere]", "seed=2"], marks=SLOW),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*is not available.*")
def test_the_loader_that_remembers_gives_what_hydra_gives(overrides: list[str]) -> None:
    path = create_config_search_path(str(conf_dir()))
    remembering = CachingLoader(path)

    def load(loader: ConfigLoaderImpl, words: list[str]) -> str:
        try:
            config = loader.load_configuration("train", words, RunMode.RUN)
        except Exception as error:
            return f"{type(error).__name__}: {error}, {error.__cause__}"
        return OmegaConf.to_yaml(config)

    with search_configs(None):
        wanted = load(ConfigLoaderImpl(path), overrides)
        load(remembering, [*overrides, "seed=12"])  # must not affect the next call
        assert load(remembering, overrides) == wanted
        assert load(remembering, overrides) == wanted


def _fresh(words: list[str]) -> str | None:
    """Returns the config that Hydra composes, with computed keys; None for an error."""
    with search_configs(None), suppress(HydraException):
        config = ConfigLoaderImpl(create_config_search_path(str(conf_dir()))).load_configuration(
            "train", [add_plus_signs(word) for word in words], RunMode.RUN, from_shell=False
        )
        set_overrides_and_choices(config, config.hydra.runtime.choices, words)
        with open_dict(config):
            del config["hydra"]
        return OmegaConf.to_yaml(config)
    return None


EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", quick_first(EXPERIMENTS))
def test_a_config_put_together_from_memory_is_that_of_a_fresh_composition(experiment: str) -> None:
    """After compositions with other values, other files, errors, and the same overrides."""
    values = [["seed=1"], ["seed=2", "run.notes='${name} x'"], ["+vars.a={b: 1}", "vars.a.b=2"]]
    values += [["optimizer.lr=0.5", "seed=1"], ["optimizer.lr=0.5", "seed=3"], ["~run.notes"]]
    values += [["schedule=constant", "seed=1"], ["seed=x"], ["seed=1"], [], ["modle=1"], ["seed=2"]]
    jobs = [[f"experiment={experiment}", *each] for each in values]
    found: list[str | None] = []
    with search_configs(None):
        for job in jobs:
            try:
                config = compose_in_search(job)
            except RequestError:
                found.append(None)
                continue
            assert OmegaConf.get_type(config.run) is Run
            assert OmegaConf.is_struct(config)
            found.append(OmegaConf.to_yaml(config))
            config.run.notes = "changed"  # must not affect other configs
    for job, text in zip(jobs, found, strict=True):
        assert text == _fresh(job), job
    assert found.count(None) == 3


def test_each_value_is_tried_before_the_first_job(tmp_path: Path) -> None:
    def never(config: Any, checked: Any = None) -> Outcome:
        raise AssertionError("a job began")

    words = ["experiment=debug", f"run.root={tmp_path / 'runs'}", "hydra/launcher=basic"]
    for axes, said in (
        (["seed=0,1,x", "run.samples=1,-1,y"], ["seed = 'x'", "run.samples = 'y'"]),
        (["model=nano,nona"], ["model = 'nona'", "nano"]),
        (["model=nano,t5_small", "model/position=rotary,rotery"], ["rotery", "rotary"]),
    ):
        with pytest.raises(RequestError) as error:
            multirun([*words, *axes], never)
        for text in said:
            assert text in str(error.value)
        assert not (tmp_path / "runs").exists()


def test_a_sweep_over_nothing_is_refused() -> None:
    with (
        search_configs(None) as hydra,
        pytest.raises(RequestError, match="at least one value to sweep"),
    ):
        expand(["experiment=debug", "seed=range(0)"], hydra)


def test_a_key_that_is_added_below_hydra_as_in_single_runs() -> None:
    with search_configs(None) as hydra:
        found = expand(["experiment=debug", "+hydra.added=1", "seed=0,1"], hydra)
        configs = [
            compose_in_search([remove_plus_signs(item) for item in job]) for job in found.jobs or []
        ]
    assert [config.seed for config in configs] == [0, 1]
    assert [config.run.overrides for config in configs] == [
        ["experiment=debug", "seed=0"],
        ["experiment=debug", "seed=1"],
    ]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["seed=range(0,1000000000)"],
            "at most 100,000 values to sweep (got 1,000,000,000 values)",
        ),
        (["seed=shuffle(range(1000000000))", "seed=1"], "got 1,000,000,000"),
        ([f"seed=range(0,1{'0' * 400})"], "got more than 10**18"),
        (["optimizer.lr=range(1.0,0.0,-1e-300)"], "got more than 10**18"),
        (["optimizer.lr=range(0.0,inf,1.0)"], "the range is infinite"),
        (["optimizer.lr=range(nan,1.0)"], "a range of numbers"),
        (["seed=range(1000)", "data.batch.tokens=range(1000)"], "1,000 x 1,000 = 1,000,000"),
        (["sweep=optuna", "optimizer.lr=range(0.0,1.0,1e-9)"], "got 1,000,000,000"),
    ],
)
def test_jobs_are_counted_before_they_are_listed(overrides: list[str], said: str) -> None:
    with pytest.raises(RequestError) as error:
        expanded("experiment=debug", *overrides)
    assert said in str(error.value)


def test_a_search_lists_no_long_range() -> None:
    sweep = expanded("experiment=debug", "sweep=optuna", "seed=range(0,1000000000,10)")
    assert (sweep.axes, sweep.jobs) == ({"seed": ["0", "999999990"]}, None)
