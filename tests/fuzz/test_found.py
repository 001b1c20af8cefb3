"""Small inputs that once ended as "unexpected ... please report it"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quick_first import quick_first

BASE = {
    "model.norm": "from etude.nn.norm import LayerNorm as Base\n",
    "data.tokenizer": "from etude.data.tokenizer import Char as Base\n",
}
MODULES = {
    "import raises": ("model.norm", "raise BufferError('full')\n", "BufferError: full"),
    "import exits": ("model.norm", "raise SystemExit(0)\n", "SystemExit: 0"),
    "syntax": ("model.norm", "class Mine(Base\n", "SyntaxError: "),
    "lookup raises": ("model.norm", "def __getattr__(name):\n    1 / 0\n", "ZeroDivisionError: "),
    "constructor raises": (
        "model.norm",
        "class Mine(Base):\n    def __init__(self, *a, **k):\n        raise KeyError('k')\n",
        "KeyError: 'k'",
    ),
    "constructor raises TypeError": (
        "model.norm",
        "class Mine(Base):\n    def __init__(self, *a, **k):\n        raise TypeError('t')\n",
        "TypeError: t",
    ),
    "message raises": (
        "model.norm",
        "class Odd(Exception):\n    def __str__(self):\n        return 1 // 0\n"
        "class Mine(Base):\n    def __init__(self, *a, **k):\n        raise Odd\n",
        "str() of the exception raises ZeroDivisionError",
    ),
    "attributes missing": (
        "data.tokenizer",
        "class Mine:\n    pass\n",
        "expected a subclass of etude.data.tokenizer.Recipe",
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_fault_in_a_users_class_is_reported_as_that_of_the_class(
    name: str,
    corpus: Path,
    tmp_path: Path,
    tiny: Callable[..., list[str]],
    etude: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot, source, said = MODULES[name]
    module = "users_" + name.replace(" ", "_")
    (tmp_path / f"{module}.py").write_text(BASE[slot] + source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = [f"extensions=[{module}]", f"{slot}._target_={module}.Mine"]
    answer = etude("plan", *tiny(corpus, tmp_path / "root"), *words, cwd=tmp_path)
    assert answer.code == 2, answer.err
    assert said in answer.out + answer.err
    assert "please report" not in answer.out + answer.err
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("words", [["plan"], ["runs", "list"], ["data", "show"], ["reproduce"]])
def test_help_returns(words: list[str], etude: Callable[..., Any]) -> None:
    answer = etude(*words, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: etude {words[0]}")


@pytest.mark.parametrize(
    "words", quick_first([["plan", "-m"], ["plan"], ["train", "--cfg", "job"]])
)
@pytest.mark.parametrize("value", ["9" * 5000, "[" * 900 + "]" * 900])
def test_values_that_hydras_parser_fails_on(
    words: list[str], value: str, etude: Callable[..., Any]
) -> None:
    answer = etude(*words, "experiment=debug", f"model.layers={value}")
    assert answer.code == 2
    assert "model.layers" in answer.err
    assert "please report" not in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+data@=nosuch"], "data = 'nosuch': expected a file in conf/data/"),
        (["+model/norm=[[[a]]]"], "model/norm = '[[[a]]]': expected a file in conf/model/norm/"),
        (["~init_from"], "~init_from: expected a key that can be removed"),
        (["~seed", "~name"], "~seed: expected a key that can be removed"),
        (["-m", "seed=range(1,4,0)"], "expected a list of values to sweep (range() arg 3 must not"),
        (["-m", "model/mask@vars.x=[[range(nan,1,1),'$$']]"], "expected a list of values to sweep"),
    ],
)
def test_overrides_on_which_hydra_fails(
    words: list[str], said: str, etude: Callable[..., Any]
) -> None:
    answer = etude("plan", "experiment=debug", *words)
    assert answer.code == 2
    assert said in answer.err
    assert "please report" not in answer.err


def test_a_sweep_whose_files_do_not_compose(etude: Callable[..., Any]) -> None:
    answer = etude("plan", "-m", "data@a.b=recall", "schedule=[{}]")
    assert answer.code == 2
    assert "schedule = '[{}]': expected a file in conf/schedule/" in answer.err


def test_null_characters_from_python(etude: Callable[..., Any]) -> None:
    answer = etude("runs", "export", "a", "--output", "a\0")
    assert answer.code == 2
    assert "'a\\x00': expected arguments without null characters" in answer.err
