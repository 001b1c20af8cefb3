"""One training at a time in a process; other threads don't change its results."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same
from omegaconf import DictConfig

import etude
import etude.tasks.base
from etude.config.checks import check
from etude.config.compose import compose_in_search, search_configs
from etude.errors import RequestError
from etude.nn.drawing import DrawingFrom
from etude.records.record import Record
from etude.tasks.seeding import INITIALISATION, seed_for, seed_generators
from etude.training.model import build_model
from etude.training.run import train

Small = Callable[..., DictConfig]
Act = Callable[[], Any]


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


def in_a_thread(act: Act) -> Any:
    """Returns the result or the exception of `act` in another thread."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(act())
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join(60)
    assert ended, "it waits"
    return ended[0]


@pytest.fixture
def at_step_3(monkeypatch: pytest.MonkeyPatch) -> Callable[[Act], list[Any]]:
    """`at_step_3(act)`: a training calls `act` once, between the seeding of a micro-batch and its
    first random number; returns the list to which the result is added."""

    def install(act: Act) -> list[Any]:
        results: list[Any] = []
        calls = [0]

        def seeded(seed: int, device: torch.device) -> None:
            seed_generators(seed, device)
            calls[0] += 1
            if calls[0] == 3:
                results.append(act())

        monkeypatch.setattr(etude.tasks.base, "seed_generators", seeded)
        return results

    return install


def second_calls(small: Small, root: Path) -> dict[str, Act]:
    config = small(root)
    return {
        "etude.train": lambda: etude.train(config),
        "etude.find_learning_rate": lambda: etude.find_learning_rate(config, steps=10),
        "etude.coordinate_check": lambda: etude.coordinate_check(config, [8, 16], steps=1),
        "etude.plan": lambda: etude.plan("experiment=debug", measure=False),
    }


def test_a_second_training_in_another_thread_is_refused_at_once(
    small: Small, whole: Record, tmp_path: Path, at_step_3: Callable[[Act], list[Any]]
) -> None:
    calls = second_calls(small, tmp_path / "second")
    refused = at_step_3(lambda: {name: in_a_thread(call) for name, call in calls.items()})
    assert_same(train(small(tmp_path / "first")).record, whole)
    for name, error in refused[0].items():
        assert isinstance(error, RequestError), name
        (problem,) = error.problems
        assert problem.where == name
        assert "etude.train runs in thread 'MainThread'" in str(problem.hint)
    assert not (tmp_path / "second").exists()


def test_a_training_within_a_training_is_refused(
    small: Small, tmp_path: Path, at_step_3: Callable[[Act], list[Any]]
) -> None:
    at_step_3(lambda: etude.train(small(tmp_path / "inner")))
    with pytest.raises(RequestError, match="runs in this thread"):
        train(small(tmp_path / "outer"))
    assert not (tmp_path / "inner").exists()
    (folder,) = (tmp_path / "outer").glob("*/*")
    assert Record.read(folder).status == "failed"


def test_after_a_refusal_the_next_training_is_not_refused(
    small: Small, whole: Record, tmp_path: Path
) -> None:
    broken = small(tmp_path, "trainer.max_steps=-1")
    with pytest.raises(RequestError):
        train(broken)
    assert_same(train(small(tmp_path / "next")).record, whole)


READS: dict[str, Callable[[Path], Any]] = {
    "loads a model": lambda path: etude.load_run(path).model("last"),
    "evaluates": lambda path: etude.load_run(path).evaluate("val"),
    "generates": lambda path: etude.load_run(path).model().generate("the", max_new_tokens=4),
    "generates with a seed": lambda path: (
        etude.load_run(path).model().generate("the", max_new_tokens=4, seed=1)
    ),
    "composes": lambda path: etude.compose("experiment=nano", "seed=3"),
}


def test_reading_in_another_thread_changes_no_number(
    small: Small, whole: Record, tmp_path: Path, at_step_3: Callable[[Act], list[Any]]
) -> None:
    def read_all() -> dict[str, Any]:
        return {
            name: in_a_thread(lambda read=read: read(whole.path)) for name, read in READS.items()
        }

    results = at_step_3(read_all)
    assert_same(train(small(tmp_path)).record, whole)
    for name, result in results[0].items():
        assert not isinstance(result, Exception), (name, result)
        if name in ("evaluates", "generates with a seed", "composes"):
            assert result == READS[name](whole.path)


def test_training_outside_the_main_thread_gives_the_same_numbers(
    small: Small, whole: Record, tmp_path: Path
) -> None:
    outcome = in_a_thread(lambda: train(small(tmp_path)))
    assert_same(outcome.record, whole)


@pytest.mark.slow
def test_a_process_forked_while_another_thread_trains_may_train(
    small: Small, whole: Record, tmp_path: Path, at_step_3: Callable[[Act], list[Any]]
) -> None:
    def forked() -> int:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                etude.tasks.base.seed_generators = seed_generators  # type: ignore[attr-defined]
                record = train(small(tmp_path / "child")).record
                code = 0 if record.status == "finished" else 2
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    codes = at_step_3(lambda: in_a_thread(forked))
    assert_same(train(small(tmp_path / "parent")).record, whole)
    assert codes == [0]
    (folder,) = (tmp_path / "child").glob("*/*")
    assert_same(Record.read(folder), whole)


def test_configs_are_composed_with_the_folder_that_each_thread_names(tmp_path: Path) -> None:
    folders = {}
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        (folder / "experiment").mkdir(parents=True)
        text = f"# @package _global_\ndefaults: [debug, _self_]\nseed: {seed}\n"
        (folder / "experiment" / "mine.yaml").write_text(text)
        folders[seed] = folder
    second_is_in, first_is_done = threading.Event(), threading.Event()
    seeds: dict[int, int] = {}

    def second() -> None:
        with search_configs(folders[2]):
            second_is_in.set()
            first_is_done.wait(10)
            seeds[2] = compose_in_search(["experiment=mine"]).seed

    thread = threading.Thread(target=second)
    with search_configs(folders[1]):
        thread.start()
        second_is_in.wait(0.3)
        seeds[1] = compose_in_search(["experiment=mine"]).seed
    first_is_done.set()
    thread.join(60)
    assert seeds == {1: 1, 2: 2}


def test_loading_a_model_leaves_the_random_numbers_of_the_process(whole: Record) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    etude.load_run(whole.path).model()
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.nn.init.trunc_normal_(torch.empty(7, 5), std=0.3),
        lambda: torch.nn.init.orthogonal_(torch.empty(5, 5)),
        lambda: torch.nn.init.kaiming_uniform_(torch.empty(5, 5)),
        lambda: torch.nn.Linear(5, 3).weight.detach(),
        lambda: torch.nn.MultiheadAttention(4, 2).in_proj_weight.detach(),
        lambda: torch.rand(40),
        lambda: torch.randn(3, 30, dtype=torch.float64),
        lambda: torch.randint(3, 9, (20,)),
        lambda: torch.randint(9, (20,)),
        lambda: torch.randperm(20),
        lambda: torch.rand_like(torch.empty(20)),
        lambda: torch.normal(0.0, 2.0, (20,)),
        lambda: torch.bernoulli(torch.full((20,), 0.3)),
        lambda: torch.multinomial(torch.ones(20), 5),
        lambda: torch.empty(20).exponential_(),
    ],
)
def test_draws_from_a_generator_of_ones_own_are_those_of_torchs(draw: Act) -> None:
    torch.manual_seed(5)
    expected = draw()
    state = torch.get_rng_state()
    with DrawingFrom(torch.Generator().manual_seed(5)):
        found = draw()
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_built_with_a_generator_has_the_weights_of_training(
    small: Small, tmp_path: Path
) -> None:
    checked = check(small(tmp_path))
    ours = build_model(checked, 40, generator=torch.Generator()).state_dict()
    torch.manual_seed(seed_for(0, INITIALISATION))
    theirs = build_model(checked, 40).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
