"""Runs of models with different layers: overrides, records, use as a source, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from etude.api import load_run

PATTERN = [
    "model.pattern=[local,global]",
    "+model/mask@model.kinds.local.mask=sliding_window",
    "model.kinds.local.mask.window=3",
    "+model/attention@model.kinds.global.attention=multi_query",
    "+model/position@model.kinds.global.position=none",
    "model.layers=3",
    "model.heads=2",
    "model/position=rotary",
]


@pytest.fixture
def words(tiny: Callable[..., list[str]], corpus: Path, tmp_path: Path) -> Callable[..., list[str]]:
    return lambda *more: tiny(corpus, tmp_path / "runs", *more)


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_trained_continued_and_read_again(
    words: Callable[..., list[str]], etude: Callable[..., Any], tmp_path: Path
) -> None:
    answer = etude("train", *words(*PATTERN, "run.stop_at_step=5"))
    assert answer.code == 0, answer.err
    path = only(tmp_path / "runs" / "tiny")
    assert etude("train", *words(*PATTERN)).code == 0
    module: Any = load_run(path).model("last").module
    assert [block.attention.kv_heads for block in module.blocks] == [2, 1, 2]
    assert [type(module.at_layer(i)[0]).__name__ for i in range(3)] == [
        "SlidingWindow", "Causal", "SlidingWindow",
    ]  # fmt: skip
    whole = words(*PATTERN, "name=whole")
    assert etude("train", *whole).code == 0
    (one,) = path.glob("checkpoints/step-00000010/model.safetensors")
    other = only(tmp_path / "runs" / "whole") / one.relative_to(path)
    for name, tensor in load_file(one).items():
        assert torch.equal(tensor, load_file(other)[name])
    said = etude("generate", path, "--prompt", "th", "--max-new-tokens", "12")
    assert said.code == 0, said.err
    assert etude("evaluate", path).code == 0

    begun = [
        "name=begun",
        f"init_from={path}",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
    ]
    rest = [word for word in words(*begun) if not word.startswith("model")]
    answer = etude("train", *rest, "init_from.lora.rank=2")
    assert answer.code == 0, answer.err
    module = load_run(only(tmp_path / "runs" / "begun")).model().module
    assert [type(module.at_layer(i)[1]).__name__ for i in range(3)] == [
        "Rotary", "NoPosition", "Rotary",
    ]  # fmt: skip

    refused = etude("convert", path, tmp_path / "out")
    assert refused.code == 2
    assert "SlidingWindow" in refused.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["model.pattern=[local]"], "model.kinds.global"),
        (["model.pattern=[locl,global]"], "did you mean local?"),
        (
            ["model.pattern=[local,global,third]"],
            "to define a layer kind third that uses the model's own modules, "
            "add +model.kinds.third={}",
        ),
        (["model.pattern=null"], "model.kinds.local"),
        (["model.pattern=[]"], "model.pattern"),
        (["model/mask@model.kinds.local.mask=bidirectional"], "model.kinds.local.mask"),
        (["model/position@model.kinds.global.position=learned"], "model.kinds.global.position"),
        (["+model.kinds.local.norm=3"], "an argument of LayerKind"),
        (["model.kinds.local.mask.window=0"], "model.kinds.local.mask.window"),
        (["model.kinds.local.mask._target_=etude.nn.norm.LayerNorm"], "a class that is allowed"),
        (["+model.kinds.other=3"], "model.kinds.other"),
    ],
)
def test_mistakes(
    words: Callable[..., list[str]], etude: Callable[..., Any], more: list[str], said: str
) -> None:
    base = [w for w in PATTERN if not any(w.split("=")[0] == m.split("=")[0] for m in more)]
    chosen = [w for w in base if w.lstrip("+").split("=")[0] != more[0].split("=")[0]]
    if "@" in more[0]:
        more = [f"+{more[0]}"]
        chosen = [w for w in chosen if "window" not in w]
    refused = etude("plan", *words(*chosen, *more))
    assert said in refused.out + refused.err


def test_a_prefix_in_one_kind(words: Callable[..., list[str]], etude: Callable[..., Any]) -> None:
    prefix = [*PATTERN[:1], "+model/mask@model.kinds.local.mask=prefix", "+model.kinds.global={}"]
    refused = etude("plan", *words(*prefix, "model.layers=2"))
    assert "model.kinds.local.mask" in refused.out  # not causal, as the model's is
