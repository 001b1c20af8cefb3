"""Errors of a user's own class name the argument, the class and the remedy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.config.checks import check
from etude.config.compose import compose
from etude.errors import RequestError
from etude.training.build import build_parts

CODE = """
from torch import nn

from etude.nn.mask import Mask


class Closed(nn.Module):
    cache = None

    def __init__(self, dim, heads, bias=False, dropout=0.0):
        super().__init__()

    def forward(self, x, **options):
        return x


class Open(Closed):
    def __init__(self, dim, heads, bias=False, dropout=0.0, window=3, **rest):
        super().__init__(dim, heads, bias, dropout, **rest)


class Own(Mask):
    pass
"""
CLASS = "model.attention._target_=own_classes"


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_classes.py").write_text(CODE)
    (tmp_path / "own_raises.py").write_text("x = 1\nraise ValueError('broken')\n")
    (tmp_path / "own_syntax.py").write_text("x = 1\n\ny = (\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("own_classes", "own_raises", "own_syntax"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            [f"{CLASS}.Open", "model.attention.windw=2"],
            "model.attention.windw = 2: expected an argument of Open (did you mean window?)",
        ),
        *(
            (
                [f"{CLASS}.{name}", "model.head_dim=8"],
                f"model.attention._target_ = 'own_classes.{name}': expected a class that accepts "
                "the arguments passed to it (accept the argument head_dim, which the model passes, "
                "or unset model.head_dim)",
            )
            for name in ("Open", "Closed")
        ),
        (
            ["model.mask._target_=own_classes.Own"],
            "model.mask = 'Own': expected a causal mask, because CausalLM predicts the next tokens "
            "(set model/mask=causal; a causal mask of your own has the class attribute causal",
        ),
        (["extensions=[own_classes.py]"], "(name the module without .py: extensions=[own_classes"),
        (["extensions=[a/own.py]"], "(name the module without .py: extensions=[a.own])"),
        (["model.mask._target_=own_raises.A"], "own_raises.py, line 2: ValueError: broken)"),
        (["model.mask._target_=own_syntax.A"], "own_syntax.py, line 3: SyntaxError: "),
    ],
)
def test_message(typed: list[str], told: str) -> None:
    overrides = ["experiment=debug", "extensions=[own_classes,own_raises,own_syntax]", *typed]
    with pytest.raises(RequestError) as caught:
        build_parts(check(compose(overrides)))
    assert told in str(caught.value)


def test_a_part_without_a_target(tmp_path: Path) -> None:
    file = tmp_path / "model" / "attention" / "own.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("kv_heads: 1\n")
    with pytest.raises(RequestError) as caught:
        check(compose(["experiment=debug", "model/attention=own"], config_dir=tmp_path))
    expected = "model.attention = {'kv_heads': 1}: expected a mapping with the key _target_"
    assert f"{expected} (add `_target_: CLASS`, or" in str(caught.value)
