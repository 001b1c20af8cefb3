"""Options of the tests: `--part K/N`, with which CI runs the slow tests in turn; `--executed`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="of what is selected every N-th test, from K on")
    parser.addoption("--executed", metavar="DIR", help="write executed notebooks to this folder")


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (part := config.getoption("--part")):
        return
    which, _, count = part.partition("/")
    if not (which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count)):
        raise pytest.UsageError(f"--part {part}: expected K/N with K from 1 to N, like 2/3")
    kept = items[int(which) - 1 :: int(count)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
