"""Runs that need too much memory raise an error with the key, before the model is built."""

from __future__ import annotations

import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.config.checks import check
from etude.config.compose import compose_in_search, search_configs
from etude.config.nodes import Node
from etude.errors import InvalidArguments, RequestError
from etude.nn.memory import memory_of_machine
from etude.training import memory_check
from etude.training.build import build_parts, check_all
from etude.training.memory_check import check_memory

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB and no GPU."""
    monkeypatch.setattr(memory_check, "memory_of_machine", lambda: 16 * GIB)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture(autouse=True, scope="module")
def search() -> Iterator[None]:
    with search_configs(None):
        yield


def refused(*words: str, experiment: str = "debug") -> str:
    checked = check_all(compose_in_search([f"experiment={experiment}", *words]))
    with pytest.raises(RequestError) as caught:
        check_memory(checked, build_parts(checked))
    return str(caught.value)


def accepted(*words: str, experiment: str = "debug") -> None:
    checked = check_all(compose_in_search([f"experiment={experiment}", *words]))
    check_memory(checked, build_parts(checked))


def test_an_ordinary_run_is_accepted_without_counting_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_check, "count_cost", None)
    accepted()


def test_a_batch() -> None:
    told = refused("data.batch.examples=100000000")  # 10^8 x 32 tokens x 8 bytes = 25.6 GB
    assert "data.batch = 100000000: expected at most 67,108,864 examples of 32 tokens" in told
    assert "25.6 GB" in told
    told = refused("data.batch.examples=null", "data.batch.tokens=1000000000000")
    assert told.startswith("data.batch = 31250000000: ")


def test_a_micro_batch_of_the_whole_batch() -> None:
    told = refused("data.batch.examples=10000000")
    assert told.startswith("trainer.micro_batch = 10000000: ")
    fits = int(told.partition("trainer.micro_batch=")[2].split()[0])
    accepted("data.batch.examples=10000000", f"trainer.micro_batch={fits // 100}")


def test_a_sequence() -> None:
    words = ["data.sequence_length=300000000", "data.batch.examples=1"]
    told = refused(*words, "model/position=rotary")  # 2 layers x 32 numbers of 4 bytes a token
    assert told.startswith(
        "data.sequence_length = 300000000: expected a sequence that fits into 17.2 GB"
    )
    assert "one example needs 76.8 GB; about 67," in told
    told = refused(*words)  # learned positions have rows
    assert told.startswith("data.sequence_length = 300000000: expected a model that fits into")


def test_layers_by_hand() -> None:
    """A layer of `debug`: 12 D^2 + 2 D parameters of 8 bytes, weight and gradient; D = 32."""
    told = refused("model.layers=1000000000")
    assert told.startswith("model.layers = 1000000000: ")
    fits = int(told.partition("; up to ")[2].split()[0].replace(",", ""))
    layer = 8 * (12 * 32**2 + 2 * 32)
    assert fits == pytest.approx(16 * GIB / layer, rel=0.001)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["model.dim=1048576"], "model.dim"),  # a layer alone is too large
        (["model.vocab_size=1000000000"], "model.vocab_size"),
        (["model.max_length=1000000000"], "model.max_length"),
        (["trainer.accelerator=cpu", "trainer.devices=1000000", "trainer.strategy=ddp",
          "data.batch.examples=1000000"], "trainer.devices"),
        (["data.workers=1000000"], "data.workers"),
    ],
)  # fmt: skip
def test_the_key_that_takes_the_most(words: list[str], key: str) -> None:
    assert refused(*words).startswith(f"{key} = ")


@pytest.mark.parametrize("key", ["dim", "heads", "vocab_size"])
def test_what_cannot_be_addressed(key: str) -> None:
    words = [f"model.{key}=1000000000000000000", *(["model.heads=1"] if key == "dim" else [])]
    with pytest.raises(RequestError):
        check_memory(
            checked := check_all(compose_in_search(["experiment=debug", *words])),
            build_parts(checked),
        )


def test_what_is_counted_is_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In unclear cases, the memory of a step is counted operation by operation."""
    checked = check_all(compose_in_search(["experiment=debug", "data.batch.examples=64"]))
    parts = build_parts(checked)
    monkeypatch.setattr(memory_check, "memory_of_machine", lambda: 40 * 2**20)
    check_memory(checked, parts)
    monkeypatch.setattr(memory_check, "memory_of_machine", lambda: 2 * 2**20)
    with pytest.raises(RequestError, match=r"trainer\.micro_batch = 64: "):
        check_memory(checked, parts)


def test_the_memory_of_this_machine() -> None:
    total = memory_of_machine()
    assert total is not None
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    physical, swap = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "SwapTotal"))
    assert 2**28 < total <= physical + swap


def test_training_leaves_nothing(etude: Callable[..., Any], tmp_path: Path) -> None:
    words = ["experiment=debug", "model.layers=1000000000", f"run.root={tmp_path / 'runs'}"]
    answer = etude("train", *words)
    assert answer.code == 2
    assert "model.layers = 1000000000: expected a model that fits into 17.2 GB" in answer.err
    assert not (tmp_path / "runs").exists()


VALUES = (10**6, 10**9, 10**12, 10**18, 10**30, -1, 0)
WORDS = {
    "nano": ["experiment=nano"],
    "alibi": ["experiment=debug", "model/position=alibi", "model/mask=sliding_window"],
    "relative": ["experiment=debug", "model/position=relative", "optimizer=muon"],
    "encoder": ["experiment=party"],
    "pairs": ["experiment=translate_en_zh", "data.path=pairs.jsonl"],
    "rule": ["experiment=grokking"],
    "recall": ["experiment=recall"],
    "numbers": ["experiment=icl_regression"],
}


def integers(node: Node, path: str) -> Iterator[str]:
    """Yields every integer key below a node."""
    for name in node.description.settable(node.partial):
        value, hint = node.arguments.get(name), node.description.parameters[name].hint
        if isinstance(value, Node):
            yield from integers(value, f"{path}.{name}")
        elif hint is int or int in typing.get_args(hint):
            yield f"{path}.{name}"


def ends(words: list[str], *, plan: bool) -> None:
    from etude.sweeps.planning import _Planner

    before, began = _peak(), time.process_time()
    try:
        config = compose_in_search(words)
        if plan:
            _Planner(False).job(config)
        else:
            checked = check_all(config)
            check_memory(checked, build_parts(checked))
    except (RequestError, InvalidArguments):
        pass
    assert time.process_time() - began < 6, words  # about one on an idle machine
    assert _peak() - before < GIB, words


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WORDS)
def test_every_integer_of_the_config(name: str) -> None:
    checked = check(compose_in_search(WORDS[name]))
    keys = [key for top, node in checked.nodes.items() for key in integers(node, top)]
    keys += ["data.batch.examples", "data.batch.tokens", "seed", "init_from.lora.rank"]
    keys += [f"run.{key}" for key in ("save_every", "keep_every", "keep_last", "samples")]
    assert len(keys) > 25
    for key in keys:
        other = ["data.batch.examples=null"] if key == "data.batch.tokens" else []
        for value in VALUES:
            ends([*WORDS[name], *other, f"{key}={value}"], plan=False)
        ends([*WORDS[name], *other, f"{key}={max(VALUES)}"], plan=True)


@pytest.mark.parametrize("value", [10**9, 10**18])
@pytest.mark.parametrize("key", ["model.heads", "data.sequence_length", "trainer.micro_batch"])
def test_some_integers_of_the_config(key: str, value: int) -> None:
    ends(["experiment=debug", "model/position=alibi", f"{key}={value}"], plan=False)
