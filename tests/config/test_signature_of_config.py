"""Which keys of a config are part of a run's signature, and in which form."""

from __future__ import annotations

import json
import random
from typing import Any

import golden
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from etude.config.checks import check
from etude.config.compose import compose
from etude.records.signature import group, signature

BASE = compose(["experiment=debug"])


def changed(key: str, value: Any) -> DictConfig:
    config = BASE.copy()
    OmegaConf.update(config, key, value, force_add=True)
    return config


def name(config: DictConfig) -> str:
    return signature(check(config).identity)


def typed(*overrides: str) -> str:
    return name(compose(["experiment=debug", *overrides]))


PLAIN = name(BASE)

# The whole signature of a config as it was on the day it was written here. A change of one of
# these renames every run that anybody has: their records are no longer found, and they are trained
# again. So a failure here means that a constructor's default, a class's place or the rules of
# `etude.config.nodes` changed: undo that, rather than this. (A shipped file may state a new value;
# then a new experiment file is the better way, and this one keeps its meaning.)
GOLDEN = {
    "experiment=debug": ("a207969bb616c3b69bda5c77bfca383c77d76d3ebfceca14ec8c3f302716c025"),
    "experiment=debug seed=1": ("b7dcebefe294e864839db27e32098d5a69c879b9023b575dc8f9e018a7f9e412"),
    "experiment=debug model/position=rotary model/norm=rmsnorm model/feedforward=swiglu": (
        "6ab703706e5a724797dc676ab094a08dbdf858835a2b4d29a025194c96c6c777"
    ),
    "experiment=debug model/attention=multi_query optimizer.lr=3e-4 trainer.precision=bf16-mixed": (
        "842c0b1b96dc11a2057740e9f0e88dde4f9b044599746b587fe6e24c3011d416"
    ),
    "experiment=shakespeare_char data.path=x.txt": (
        "3da9e9b383ec5da3b3cf1a177eac33ce160432357e2038918a7b0ab0b17ee6c7"
    ),
    "experiment=shakespeare_char data.path=x.txt data/tokenizer=bpe schedule=linear": (
        "8601b250280fd12eafdc5a683a51680c0a20819a937d3d9941b22da560fc711e"
    ),
}


@pytest.mark.parametrize(("overrides", "expected"), GOLDEN.items(), ids=range(len(GOLDEN)))
def test_golden_signatures(overrides: str, expected: str) -> None:
    assert name(compose(overrides)) == expected


KNOWN: dict[str, str] = json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("command", [pytest.param(c, marks=pytest.mark.slow) for c in KNOWN])
def test_each_shipped_file_keeps_its_signature(command: str) -> None:
    assert golden.name(command) == KNOWN[command]


@pytest.mark.parametrize("command", list(KNOWN)[::8])
def test_some_shipped_files_keep_their_signatures(command: str) -> None:
    assert golden.name(command) == KNOWN[command]


def test_nearly_all_shipped_files_have_one() -> None:
    without = [options[0] for options in golden.commands() if not KNOWN.keys() & set(options)]
    # These need what a test cannot give: packages, a tokenizer's files, a hub.
    asks = ("data=catalogs", "data=hub_text", "data/tokenizer=pretrained")
    assert without == [f"experiment=debug {choice}" for choice in asks], (
        "run tests/config/golden.py"
    )


def test_the_standard_parametrisation_is_no_part_of_it_and_mup_is() -> None:
    assert typed("model.mup_base_dim=null") == PLAIN
    assert len({PLAIN, typed("model.mup_base_dim=16"), typed("model.mup_base_dim=32")}) == 3


OUT = {
    "data.workers": 3,
    "trainer.accelerator": "cpu",
    "trainer.devices": 2,
    "trainer.num_nodes": 2,
    "trainer.strategy": "ddp",
    "trainer.micro_batch": 4,
    "trainer.log_every_n_steps": 3,
    "run.root": "elsewhere",
    "run.on_existing": "again",
    "run.wait": True,
    "run.force": True,
    "run.unsafe_storage": True,
    "run.exportable": True,
    "run.on_error": "stop",
    "run.stop_at_step": 7,
    "run.save_every": 5,
    "run.keep_every": 5,
    "run.keep_last": 5,
    "run.cache": "cache/elsewhere",
    "run.samples": 9,
    "run.sample_prompt": "To be",
    "run.sample_tokens": 77,
    "run.tags": ["mine"],
    "run.notes": "a note",
    "run.overrides": ["seed=0"],
    "run.choices": {"model": "another"},
    "vars.anything": 5,
    "logger.tensorboard": {"_target_": "etude.loggers.tensorboard.TensorBoard"},
}


@pytest.mark.parametrize("key", OUT)
def test_how_and_where_it_runs_is_no_part_of_it(key: str) -> None:
    assert name(changed(key, OUT[key])) == PLAIN


def test_all_of_run_is_covered_above() -> None:
    assert {f"run.{key}" for key in BASE.run} <= set(OUT)


def scalars(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= scalars(value, f"{path}.")
        elif isinstance(value, int | float) or value is None:
            found[path] = value
    return found


IN = {
    key: value
    for key, value in scalars(OmegaConf.to_container(BASE, resolve=True)).items()  # type: ignore[arg-type]
    if key not in OUT
    and not key.endswith(("_partial_", ".initialise"))
    and not key.startswith("init_from.")  # says nothing without a source
}


def test_there_is_something_to_change() -> None:
    assert {"seed", "model.dim", "data.batch.examples", "optimizer.lr", "trainer.max_steps"} <= set(
        IN
    )


def another(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, float):
        return st.floats(1e-6, 0.99).filter(lambda new: new != value)
    return st.integers(1, 10**6).filter(lambda new: new != value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_other_scalar_makes_another_run(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(IN)))
    assert name(changed(key, data.draw(another(IN[key])))) != PLAIN


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("data.order", "epochs"),
        ("optimizer.betas", [0.9, 0.94]),
        ("optimizer._target_", "etude.optim.adamw.AdamW"),  # the same: nothing changes
        ("model.position._target_", "etude.nn.position.ALiBi"),
        (
            "callbacks.stop",
            {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/loss"},
        ),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.detect_anomaly", True),
    ],
)
def test_so_does_every_other_choice(key: str, value: Any) -> None:
    same = OmegaConf.select(BASE, key) == value
    assert (name(changed(key, value)) == PLAIN) == same


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("model.attention.kv_heads", None),
        ("optimizer.eps", 1e-8),
        ("optimizer.eps", "1e-8"),
        ("trainer.precision", "32-true"),
        ("trainer.detect_anomaly", False),
        ("data.batch.tokens", None),
    ],
)
def test_a_key_that_says_the_default_might_as_well_not_be_there(key: str, default: Any) -> None:
    assert name(changed(key, default)) == PLAIN


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("model.layers", 3, "3"),
        ("model.layers", 3, 3.0),
        ("optimizer.lr", 0.0003, "3e-4"),
        ("optimizer.weight_decay", 1, 1.0),
        ("optimizer.betas", [0, 0.5], [0.0, "0.5"]),
        ("model.bias", True, "true"),
        ("model.bias", True, 1),
        ("data.batch.examples", 16, "16"),
    ],
)
def test_one_value_however_it_is_written(key: str, one: Any, other: Any) -> None:
    assert name(changed(key, one)) == name(changed(key, other)) != PLAIN


@pytest.mark.parametrize(
    ("key", "brief", "whole"),
    [
        ("trainer.precision", 32, "32-true"),
        ("trainer.precision", "32", "32-true"),
        ("trainer.precision", 64, "64-true"),
    ],
)
def test_a_brief_name_is_the_whole_one(key: str, brief: Any, whole: str) -> None:
    assert name(changed(key, brief)) == name(changed(key, whole))
    assert (name(changed(key, brief)) == PLAIN) == (whole == "32-true")


@pytest.mark.parametrize("trainer", ["cpu", "gpu", "mps"])
def test_where_it_is_trained_is_no_part_of_it(trainer: str) -> None:
    assert typed(f"trainer={trainer}") == PLAIN


def test_compilation_is_part_of_it() -> None:
    assert typed("trainer.compile=false") == PLAIN
    assert typed("trainer.compile=true") != PLAIN


def test_an_interpolation_counts_as_what_it_stands_for() -> None:
    assert BASE.model.max_length == 32
    assert typed("model.max_length=32") == PLAIN
    assert typed("vars.half=16", "model.dim=${vars.half}") == typed("model.dim=16")


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(draw: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = draw.sample(list(value), len(value))
        return {key: shuffled(value[key]) for key in keys}

    raw: Any = OmegaConf.to_container(BASE, resolve=False)
    assert name(OmegaConf.create(shuffled(raw))) == PLAIN


def test_the_order_of_overrides_does_not_matter() -> None:
    overrides = ["model/position=rotary", "seed=3", "optimizer.lr=0.01"]
    assert typed(*overrides) == typed(*reversed(overrides))


def test_a_group_is_all_but_the_seed() -> None:
    def group_of(key: str, value: Any) -> str:
        return group(check(changed(key, value)).identity)

    assert group_of("seed", 1) == group_of("seed", 2)
    assert group_of("seed", 1) != group_of("model.dim", 64)
    assert len(group_of("seed", 1)) == 12
