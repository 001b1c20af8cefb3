"""Étude: a config-driven framework for research on Transformers.

    import etude
    cfg = etude.compose("experiment=nano", "model/position=rotary")
    run = etude.train(cfg)
    run.metrics, run.config, run.status, run.summary
    model = run.model("best")
    etude.runs("experiments/nano").frame()
    model = etude.load_pretrained("gpt2")  # a folder, or an id on the Hugging Face Hub

Importing this package is fast: the names below are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from etude import lazy_modules
from etude.huge_pages import enable_huge_pages

if TYPE_CHECKING:
    from etude.api import (
        Run,
        Runs,
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
    )

lazy_modules.install()
enable_huge_pages()

__version__ = "0.1.0"
__all__ = [
    "Run",
    "Runs",
    "__version__",
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
]


_PACKAGES = ("activations", "errors", "interpret", "views")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"etude.{name}")
    if name in __all__:
        from etude import api

        return getattr(api, name)
    raise AttributeError(f"module 'etude' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_PACKAGES))
