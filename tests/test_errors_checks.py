"""`Checks` reports invalid arguments of any type."""

from __future__ import annotations

import pytest

from etude.errors import Checks, InvalidArguments, Problem


@pytest.mark.parametrize("value", [{}, [], "1", None, True, float("nan"), 0, -1])
def test_what_is_no_positive_number(value: object) -> None:
    checks = Checks()
    checks.positive(lr=value)  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match=r"lr = .*: expected a positive number"):
        checks.done()


@pytest.mark.parametrize("value", [{}, "0", None, False, 1, -0.1, float("nan")])
def test_what_is_no_probability(value: object) -> None:
    checks = Checks()
    checks.probability(dropout=value)  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match=r"dropout = .*: expected a probability"):
        checks.done()


def test_numbers() -> None:
    checks = Checks()
    checks.positive(lr=1e-3, steps=5)
    checks.probability(dropout=0, other=0.99)
    checks.done()


def test_a_path_is_shown_whole_and_a_text_is_shortened() -> None:
    path = "/tmp/" + "folder/" * 20 + "file.txt"
    assert str(Problem("key", "another path", path)) == f"key = '{path}': expected another path"
    text = str(Problem("key", "a short text", "a long text / and more " * 20))
    assert len(text) < 120
