"""What Étude reports about runs with custom classes: errors in their code, and changes of it."""

from __future__ import annotations

import importlib
import os
import py_compile
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import etude as package
from etude.config.stale_modules import stale_modules
from etude.errors import RequestError
from etude.records.record import Record

MODULE = """
import torch

from etude.nn.attention import MultiHeadAttention
from etude.tasks.causal_lm import CausalLM


class Same(MultiHeadAttention):
    pass


class Shapes(MultiHeadAttention):
    def merge(self, y):
        return torch.nn.functional.linear(y, torch.zeros(3, 5))


class Arguments(MultiHeadAttention):
    def attend(self, q, k):
        return q


class Own(CausalLM):
    pass


class Missing(CausalLM):
    def loss(self, micro):
        return micro["input_ids"]


class Never(CausalLM):
    monitor = "val/nothing_loss"
"""
ATTENTION, TASK = "model.attention._target_", "task._target_"


@pytest.fixture
def custom(
    corpus: Path, tmp_path: Path, tiny: Any, etude: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Trains with classes of the module `custom_classes`."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "custom_classes.py").write_text(MODULE)
    own = ["extensions=[custom_classes]", f"{ATTENTION}=custom_classes.Same"]

    def trained(*words: str) -> Any:
        return etude("train", *tiny(corpus, tmp_path / "runs", *own, *words))

    yield trained
    sys.modules.pop("custom_classes", None)


def test_changes_of_the_source_are_reported(
    custom: Callable[..., Any],
    etude: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = f"{TASK}=custom_classes.Own"
    first = custom(own)
    assert first.code == 0, first.err
    assert "generate    etude generate" in first.out
    (path,) = (tmp_path / "runs" / "tiny").iterdir()
    trust = ("--trust", "custom_classes")
    changed = "the source code of custom_classes has changed"
    assert "has changed" not in etude("evaluate", path, *trust).err
    with (tmp_path / "custom_classes.py").open("a") as file:
        file.write("# another line\n")
    again = custom(own)
    assert f"{changed}; to train again with it, set run.on_existing=again" in again.out
    for words in (("evaluate", path), ("generate", path, "--prompt", "a")):
        answer = etude(*words, *trust)
        assert answer.code == 0
        assert answer.err.count(f"{path}: {changed} since this run was trained") == 1
    package.load_run(path, trust="custom_classes").model()
    assert f"{changed} since this run was trained" in caplog.text
    assert custom(own, "model.dropout=0.1").code == 0  # a later run, but less similar
    os.utime(path, (0, 0))
    answer = custom(own, "run.on_existing=again")
    assert f"new run with the config of {path.name}; {changed} since then" in answer.out
    second = path.with_name(f"{path.name}~2")
    assert "has changed" not in etude("evaluate", second, *trust).err


@pytest.mark.parametrize(
    ("override", "message", "line"),
    [
        (f"{ATTENTION}=custom_classes.Shapes", "size", "torch.nn.functional.linear"),
        (f"{ATTENTION}=custom_classes.Arguments", "unexpected keyword argument", "class Arguments"),
        (f"{TASK}=custom_classes.Missing", "KeyError: 'input_ids'", 'micro["input_ids"]'),
    ],
)
def test_a_failed_run_names_the_line(
    override: str, message: str, line: str, custom: Callable[..., Any], tmp_path: Path
) -> None:
    answer = custom(override)
    assert answer.code == 1
    assert message in answer.err
    number = next(n for n, text in enumerate(MODULE.splitlines(), 1) if line in text)
    assert f"({tmp_path / 'custom_classes.py'}, line {number}; traceback in " in answer.err
    (path,) = (tmp_path / "runs" / "tiny").iterdir()
    assert "Traceback" in Record.read(path).info["traceback"]


def test_a_monitor_of_the_class_is_named_as_its_attribute(custom: Callable[..., Any]) -> None:
    answer = custom(f"{TASK}=custom_classes.Never")
    assert answer.code == 2
    assert "Never.monitor = 'val/nothing_loss': expected a metric that the" in answer.err


PART = """
from etude.nn.feedforward import GELU

FACTOR = {factor}


class Scaled(GELU):
    def forward(self, x):
        return FACTOR * super().forward(x)
"""


@pytest.mark.parametrize("first", ["user", "etude"])
def test_an_edited_module_is_refused_until_it_is_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    name = f"edited_{first}"
    file = tmp_path / f"{name}.py"
    file.write_text(PART.format(factor=1))
    if first == "user":
        importlib.import_module(name)

    def loss() -> float:
        target = f"model.feedforward._target_={name}.Scaled"
        more = [f"extensions=[{name}]", target, "run.on_existing=again", *SHORT]
        config = package.compose("experiment=debug", more)
        return float(package.train(config).metrics["train/loss"].iloc[-1])

    before = None if first == "user" else loss()
    file.write_text(PART.format(factor=100))
    with pytest.raises(RequestError, match=rf"extensions = '{name}': .*importlib.reload"):
        loss()
    with pytest.raises(RequestError, match="restart Python"):  # again
        loss()
    importlib.reload(sys.modules[name])
    after = loss()
    assert after != before
    file.write_text(PART.format(factor=1000))
    with pytest.raises(RequestError, match=r"importlib\.reload"):
        loss()


SHORT = ("trainer.max_steps=2", "schedule.warmup_steps=0")


class TestStaleModules:
    """Edits that are and are not detected, of modules imported by the user."""

    @pytest.fixture
    def problems(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(tmp_path)
        yield lambda name: [str(p) for p in stale_modules([name], "extensions")]
        for name in [each for each in sys.modules if each.startswith("stale_")]:
            del sys.modules[name]

    @pytest.mark.parametrize("bytecode", [True, False])
    @pytest.mark.parametrize("imported", ["before", "after"])
    def test_an_edit(
        self,
        problems: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        bytecode: bool,
        imported: str,
    ) -> None:
        monkeypatch.setattr(sys, "dont_write_bytecode", not bytecode)
        name = f"stale_{imported}_{bytecode}"
        file = tmp_path / f"{name}.py"
        file.write_text("def value():\n    return 1\n")
        if imported == "before":
            importlib.import_module(name)
        assert problems(name) == []
        importlib.import_module(name)
        file.write_text("# a comment\ndef value():\n    return 1\n")
        os.utime(file, (1, 1))
        file.write_text("def value():\n    return 20\n")
        assert "importlib.reload" in problems(name)[0]
        importlib.reload(sys.modules[name])
        assert problems(name) == []

    def test_bytecode_of_another_process(self, problems: Any, tmp_path: Path) -> None:
        file = tmp_path / "stale_other.py"
        file.write_text("class A:\n    def value(self):\n        return 1\n")
        importlib.import_module("stale_other")
        file.write_text("class A:\n    def value(self):\n        return 2\n")
        py_compile.compile(str(file))
        assert len(problems("stale_other")) == 1

    def test_a_touched_file_is_no_edit(self, problems: Any, tmp_path: Path) -> None:
        file = tmp_path / "stale_touched.py"
        file.write_text("def value():\n    return {1, 2, 3}\n")
        importlib.import_module("stale_touched")
        os.utime(file, (1, 1))
        assert problems("stale_touched") == []

    def test_a_package_with_old_classes(self, problems: Any, tmp_path: Path) -> None:
        folder = tmp_path / "stale_package"
        folder.mkdir()
        (folder / "__init__.py").write_text("from stale_package.sub import A\n")
        (folder / "sub.py").write_text("class A:\n    def value(self):\n        return 1\n")
        importlib.import_module("stale_package")
        assert problems("stale_package") == []
        (folder / "sub.py").write_text("class A:\n    def value(self):\n        return 2\n")
        (problem,) = problems("stale_package")
        assert "stale_package.sub" in problem
        assert "restart Python" in problem
        importlib.reload(sys.modules["stale_package.sub"])
        (problem,) = problems("stale_package")  # stale_package.A is the old class
        assert "'stale_package'" in problem

    def test_a_helper_that_the_module_imports(self, problems: Any, tmp_path: Path) -> None:
        (tmp_path / "stale_helper.py").write_text("def value():\n    return 1\n")
        (tmp_path / "stale_user.py").write_text("from stale_helper import value\n")
        importlib.import_module("stale_user")
        assert problems("stale_user") == []
        (tmp_path / "stale_helper.py").write_text("def value():\n    return 2\n")
        (problem,) = problems("stale_user")
        assert "stale_helper" in problem
