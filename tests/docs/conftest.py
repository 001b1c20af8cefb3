"""The fixture that runs a documentation page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_blocks import run_page


@pytest.fixture
def run(
    tmp_path: Path, etude: Callable, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """`run(page)` runs a page's blocks in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def command(words: list[str]) -> tuple[int, str]:
        answer = etude(*words)
        return answer.code, answer.out + answer.err

    yield lambda page, **options: run_page(page, command, **options)
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]
