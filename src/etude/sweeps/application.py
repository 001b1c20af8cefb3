"""Function that tells Étude's jobs from those of other Hydra applications."""

from __future__ import annotations

from typing import Any


def is_etude_task(task_function: Any) -> bool:
    """Returns whether a Hydra task function is Étude's own, which returns a `Job`."""
    return type(task_function).__module__.startswith("etude.")
