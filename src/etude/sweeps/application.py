"""Whose jobs a launcher of Hydra's is given."""

from __future__ import annotations

from typing import Any


def is_etudes(task_function: Any) -> bool:
    """Whether the jobs are Étude's: another application's function returns what it likes."""
    return type(task_function).__module__.startswith("etude.")
