"""Rare garbage collection, and restoring the defaults."""

from __future__ import annotations

import gc

import pytest

from etude.garbage_collection import collect_rarely_in_block


def _fails(usual: int) -> float:
    with collect_rarely_in_block():
        assert gc.get_threshold()[0] > usual
        assert gc.get_freeze_count() > 0
        return 1 / 0


@pytest.mark.parametrize("frozen", [False, True])
def test_as_before_afterwards_whatever_happens(frozen: bool) -> None:
    usual = gc.get_threshold()
    if frozen:
        gc.freeze()
    try:
        before = gc.get_freeze_count()
        with pytest.raises(ZeroDivisionError):
            _fails(usual[0])
        assert gc.get_threshold() == usual
        assert (gc.get_freeze_count() > 0) == (before > 0)
    finally:
        gc.unfreeze()
