"""Optimizer steps of windows of one size."""

from __future__ import annotations

from etude.data.columns import Column
from etude.data.curriculum import Sizes, Stages
from etude.data.order import Order
from etude.data.steps import Share, WindowSteps


def window_steps(ids: Column, order: Order, share: Share, length: int, batch: int) -> WindowSteps:
    return WindowSteps(ids, order, share, length=length, sizes=Sizes(batch), lengths=Stages(length))
