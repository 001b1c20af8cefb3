"""The Python interface: composes configs, trains runs, and loads runs and released weights."""

from etude.api.functions import (
    choices,
    compose,
    coordinate_check,
    find_learning_rate,
    load_pretrained,
    load_run,
    plan,
    runs,
    sweep,
    train,
    train_record,
)
from etude.api.run import Run
from etude.api.run_sequence import Runs

__all__ = [
    "Run",
    "Runs",
    "choices",
    "compose",
    "coordinate_check",
    "find_learning_rate",
    "load_pretrained",
    "load_run",
    "plan",
    "runs",
    "sweep",
    "train",
    "train_record",
]
