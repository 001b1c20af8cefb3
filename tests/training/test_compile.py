"""`trainer.compile` trains the same up to rounding and leaves no trace in process or record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same, rows
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn

from etude.api import Run
from etude.config.checks import check
from etude.config.compose import compose
from etude.models.decoder import Decoder
from etude.nn.block import PreNormBlock
from etude.records.record import Record
from etude.training import compilation
from etude.training.compilation import compiled, eager
from etude.training.machine import missing_compiler
from etude.training.run import train

Small = Callable[..., DictConfig]


def with_position(
    words: Callable[..., list[str]], root: Path, position: str, *more: str
) -> DictConfig:
    return compose([*words(root), f"model/position={position}", "trainer.max_steps=12", *more])


@pytest.fixture
def without_a_compiler_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs all of compilation except the C++ compiler, which takes half a minute per graph."""
    monkeypatch.setattr(compilation, "ARGUMENTS", {"backend": "aot_eager"})


def assert_close(one: Record, other: Record) -> None:
    for row, same in zip(rows(one), rows(other), strict=True):
        assert row == pytest.approx(same, rel=1e-4)
    (weights, same_weights) = (
        load_file(record.checkpoints()[-1][1] / "model.safetensors") for record in (one, other)
    )
    assert weights.keys() == same_weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, same_weights[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("without_a_compiler_run")
def test_the_same_losses_and_names(
    words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[bool, bool]] = []
    original = PreNormBlock.forward

    def watched(self: PreNormBlock, x: torch.Tensor, **context: Any) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            seen.append((self.training, torch.is_grad_enabled()))
        return original(self, x, **context)

    # Dropout, micro-batches of 3 and 1, validation of other shapes, rotary's table.
    plain = train(with_position(words, tmp_path / "plain", "rotary")).record
    monkeypatch.setattr(PreNormBlock, "forward", watched)
    record = train(with_position(words, tmp_path, "rotary", "trainer.compile=true")).record
    assert record.info["signature"] != plain.info["signature"]
    assert_close(record, plain)
    # Validation ran without it; of training, only the first batch's look at its tables did.
    assert sum(training for training, _ in seen) == 1
    assert any(not training for training, _ in seen)
    text = Run(record).model().generate("the", max_new_tokens=5, seed=0)
    assert str(text).startswith("the")


@pytest.mark.slow
@pytest.mark.usefixtures("without_a_compiler_run")
def test_stopped_and_continued(small: Small, tmp_path: Path) -> None:
    more = ["trainer.compile=true", "trainer.max_steps=12"]
    whole = train(small(tmp_path / "whole", *more)).record
    train(small(tmp_path / "cut", *more, "run.stop_at_step=5"))
    assert_same(train(small(tmp_path / "cut", *more)).record, whole)


@pytest.mark.usefixtures("without_a_compiler_run")
def test_nothing_is_left() -> None:
    with torch.device("meta"):
        config = compose(["experiment=debug"])
        model: Decoder = check(config).nodes["model"].build(vocab_size=9)

    def calls() -> list[bool]:
        return [block._compiled_call_impl is not None for block in model.blocks]

    with compiled(model):
        assert calls() == [True, True]
        with eager(model):
            assert calls() == [False, False]
        assert calls() == [True, True]
    assert calls() == [False, False]
    with pytest.raises(ZeroDivisionError), compiled(model):
        raise ZeroDivisionError
    assert calls() == [False, False]
    with compiled(model, wanted=False):
        assert calls() == [False, False]


@pytest.mark.usefixtures("without_a_compiler_run")
def test_a_model_without_layers_is_compiled_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.GELU())
    x = torch.randn(2, 3)
    expected = model(x)
    with compiled(model):
        assert model._compiled_call_impl is not None
        assert model[0]._compiled_call_impl is None
        torch.testing.assert_close(model(x), expected)


def test_without_a_compiler_it_is_refused(
    words: Callable[..., list[str]],
    etude: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from torch._inductor import config, cpp_builder

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    for kept in (missing_compiler, cpp_builder.cpp_compiler_search):
        kept.cache_clear()
    answer = etude("train", *words(tmp_path / "runs", "trainer.compile=true"))
    for kept in (missing_compiler, cpp_builder.cpp_compiler_search):
        kept.cache_clear()
    assert answer.code == 2
    expected = "trainer.compile = True: expected false, because this machine lacks a C++ compiler"
    assert expected in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("position", ["rotary", "alibi", "learned"])
def test_through_the_real_compiler(
    words: Callable[..., list[str]], tmp_path: Path, position: str
) -> None:
    plain = train(with_position(words, tmp_path / "plain", position)).record
    config = with_position(words, tmp_path / "compiled", position, "trainer.compile=true")
    record = train(config).record
    assert_close(record, plain)
    config.run.root = str(tmp_path / "cut")
    config.run.stop_at_step = 5
    train(config)
    config.run.stop_at_step = None
    assert_same(train(config).record, record)
