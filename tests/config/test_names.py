"""Names of runs: letters and symbols of all scripts, without special characters of shells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.config.checks import check_name


@pytest.mark.parametrize(
    "name", ["模型", "naïve", "run🚀", "🚀", "a b", "e\u0301", "Ω-3", "a,b", "a=b"]
)
def test_taken(name: str) -> None:
    assert not list(check_name(name))


@pytest.mark.parametrize(
    "name",
    ["-rf", "--help", "-1", "..", ".x", "_x", "~x", "x~2", "$x", "a/b", "a\\b", "a\nb", "a\x1b[31m",
     "a\u202eb", "a\u200bb", " a", "a ", "a:b", "a*b", "a'b", "[x]", "é" * 61, "\ud800", "", None],
)  # fmt: skip
def test_refused(name: str | None) -> None:
    (problem,) = check_name(name)
    assert problem.where == "name"


@pytest.mark.slow
def test_a_run_with_an_emoji_is_trained_listed_and_evaluated(
    tmp_path: Path, corpus: Path, tiny: Callable[..., list[str]], etude: Callable[..., Any]
) -> None:
    root, name = tmp_path / "runs", "模型🚀"
    words = [word for word in tiny(corpus, root, "run.samples=0") if word != "name=tiny"]
    answer = etude("train", *words, f"name='{name}'")
    assert answer.code == 0, answer.err
    assert [path.name for path in root.iterdir()] == [name]
    for command in (["runs", "list"], ["runs", "show", name], ["runs", "verify", name]):
        answer = etude(*command, "--root", root)
        assert answer.code == 0, answer.err
    assert name in etude("runs", "list", "--root", root).out
    assert etude("evaluate", name, "--root", root).code == 0
    unquoted = etude("train", *words, f"name={name}")
    assert unquoted.code == 0, unquoted.err
    assert "already finished" in unquoted.out


def test_a_name_that_looks_like_an_option(
    tmp_path: Path, corpus: Path, tiny: Callable[..., list[str]], etude: Callable[..., Any]
) -> None:
    for command in ("show", "verify", "rm"):
        answer = etude("runs", command, "-rf", "--root", tmp_path)
        assert answer.code == 2
        assert "Traceback" not in answer.err
