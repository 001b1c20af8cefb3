"""Fixtures of the tests of displays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import etude
from etude import Run


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, write_corpus: Callable, tiny: Callable
) -> Run:
    """A run of a small language model with checkpoints at steps 5 and 10."""
    root = tmp_path_factory.mktemp("displays")
    corpus = write_corpus(root / "corpus.txt")
    return etude.train(etude.compose(tiny(corpus, root / "experiments")))


@pytest.fixture
def folder(trained: Run, tmp_path: Path) -> Path:
    """The folder of a copy of the run."""
    import shutil

    return shutil.copytree(trained.path, tmp_path / "tiny" / trained.path.name)
