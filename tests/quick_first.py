"""Marks all but the first cases of a parametrized test as slow; CI runs those in turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick_first(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Returns `cases` for `parametrize`, with all but the first `quick` marked as slow."""
    first, others = (found := list(cases))[:quick], found[quick:]
    return [*first, *(pytest.param(*_values(case), marks=pytest.mark.slow) for case in others)]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
