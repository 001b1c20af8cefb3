"""Check whether a job belongs to Étude or to another Hydra application."""

from __future__ import annotations

from typing import Any


def is_etude_task(task_function: Any) -> bool:
    """Returns whether a Hydra task function is part of Étude, and therefore returns a `Job`."""
    return type(task_function).__module__.startswith("etude.")
