"""`--part K/N` covers all tests for every N."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from parts import pytest_collection_modifyitems


def parts(part: str | None, items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Returns the selected `items`, and those reported as deselected."""
    left_out: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    config: Any = SimpleNamespace(getoption=lambda name: part, hook=hook)
    pytest_collection_modifyitems(config, items)
    return items, left_out


def test_all_parts_together_are_the_whole() -> None:
    kept = [parts(f"{which}/3", list(range(10))) for which in (1, 2, 3)]
    assert [stays for stays, _ in kept] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert all(sorted(stays + left_out) == list(range(10)) for stays, left_out in kept)
    assert parts(None, [1, 2]) == ([1, 2], [])


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/3", "1/", "-1/3"])
def test_a_wrong_part_is_refused(part: str) -> None:
    with pytest.raises(pytest.UsageError, match="from 1 to N"):
        parts(part, [1])
