"""The Python interface changes no state of the user's process."""

from __future__ import annotations

import contextlib
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import etude

NOT_OURS = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
"""Variables that pytest and torch set."""


def state() -> dict[str, Any]:
    """What libraries and programs share within a process."""
    return {
        "folder": os.getcwd(),
        "environment": {k: v for k, v in os.environ.items() if k not in NOT_OURS},
        "path": list(sys.path),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "excepthook": sys.excepthook,
        "displayhook": sys.displayhook,
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "warnings": list(warnings.filters),
        "threads": {t.name for t in threading.enumerate() if not t.daemon},
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "numpy errors": np.geterr(),
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "torch threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "matplotlib": dict(matplotlib.rcParams),
        "backend": matplotlib.get_backend(),
        "pandas": pd.get_option("display.max_rows"),
        "hydra": GlobalHydra.instance().is_initialized(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run; training it has imported everything."""
    folder = tmp_path_factory.mktemp("state")
    with contextlib.chdir(folder):
        etude.train(etude.compose("experiment=debug", "trainer.max_steps=2"))
    return folder


@pytest.fixture
def unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    random.seed(5)
    torch.manual_seed(5)
    before = state()
    yield
    after = state()
    assert after.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, dict):
            changed = {key for key in value | after[name] if value.get(key) != after[name].get(key)}
            assert {key: (value.get(key), after[name].get(key)) for key in changed} == {}, name
        assert after[name] == value, name


def sweep() -> None:
    etude.sweep("experiment=debug", {"seed": [0, 1]}, "trainer.max_steps=2")


def plot() -> None:
    run = etude.load_run("debug")
    run.plot()._repr_png_()
    etude.runs().compare()._repr_html_()


def failure() -> None:
    with pytest.raises(etude.errors.RequestError):
        etude.train(etude.compose("experiment=debug", "optimizer.lr=fast"))


CALLS: dict[str, Callable[[], Any]] = {
    "compose": lambda: etude.compose("experiment=debug", "seed=1"),
    "choices": lambda: etude.choices("model/position"),
    "train": lambda: etude.train(etude.compose("experiment=debug", "trainer.max_steps=3")),
    "to yaml": lambda: OmegaConf.to_yaml(etude.load_run("debug").config),
    "plan": lambda: etude.plan("experiment=debug"),
    "sweep": sweep,
    "generate": lambda: etude.load_run("debug").generate("The", max_new_tokens=3, seed=0),
    "evaluate": lambda: etude.load_run("debug").evaluate(),
    "data": lambda: list(etude.load_run("debug").data("val")),
    "measure": lambda: etude.load_run("debug").over_steps(
        etude.interpret.induction_scores, length=9
    ),
    "plot": plot,
    "failure": failure,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("unchanged")
def test_the_state_of_the_process_is_unchanged(call: Callable[[], Any]) -> None:
    call()
