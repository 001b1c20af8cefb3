"""Task metrics of batches without a data module."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from torch import nn

from etude.data.evaluation_data import Evaluated
from etude.tasks.base import Setup, Task


def measured(
    kind: type[Task], model: nn.Module, batches: Iterable[Any], text_bytes: int | None = None
) -> dict[str, float]:
    """Returns a task's metrics of batches."""
    data = SimpleNamespace(bytes_predicted=lambda split: text_bytes)
    return kind(Setup(model)).measured(Evaluated(data, "val", lambda: batches)).compute()
