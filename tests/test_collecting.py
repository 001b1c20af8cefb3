"""Looking for garbage rarely, and as before afterwards."""

from __future__ import annotations

import gc

import pytest

from etude.collecting import rarely


@pytest.mark.parametrize("frozen", [False, True])
def test_as_before_afterwards_whatever_happens(frozen: bool) -> None:
    usual = gc.get_threshold()
    if frozen:
        gc.freeze()
    try:
        before = gc.get_freeze_count()
        with pytest.raises(ValueError, match="in between"), rarely():
            assert gc.get_threshold()[0] > usual[0]
            assert gc.get_freeze_count() > 0
            raise ValueError("in between")
        assert gc.get_threshold() == usual
        assert (gc.get_freeze_count() > 0) == (before > 0)
    finally:
        gc.unfreeze()
