"""Distinguishes jobs of Étude from those of other Hydra applications."""

from __future__ import annotations

from typing import Any


def is_etude_task(task_function: Any) -> bool:
    """Returns whether a task function is Étude's, so that its results are `Job`s."""
    return type(task_function).__module__.startswith("etude.")
