"""Fixtures: a fast run of 40 steps with dropout, uneven micro-batches and clipping.

Its intervals of validation and saving have no common divisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

STEPS = 40


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Uses one thread, as the separate processes do: rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def words(
    tmp_path_factory: pytest.TempPathFactory,
    write_corpus: Callable[..., Path],
    tiny: Callable[..., list[str]],
) -> Callable[..., list[str]]:
    """`words(root, "seed=1")` returns the overrides of the run, recorded in `root`."""
    # 360 characters: 324 for training are 40 windows, 10 steps an epoch; 36 are for validation.
    text = write_corpus(tmp_path_factory.mktemp("text") / "text.txt", lines=20)
    text.write_text(text.read_text()[:360])

    def overrides(root: Path, *more: str) -> list[str]:
        return [
            *tiny(text, root),
            "model.dropout=0.2",
            f"trainer.max_steps={STEPS}",
            "trainer.micro_batch=3",
            "trainer.val_check_interval=7",
            "trainer.log_every_n_steps=4",
            "run.save_every=5",
            "run.samples=0",
            *more,
        ]

    return overrides


@pytest.fixture(scope="session")
def small(words: Callable[..., list[str]]) -> Callable[..., DictConfig]:
    """`small(root, "run.stop_at_step=5")` returns the run's config, which is composed only once."""
    from etude.config.compose import compose

    composed = compose(words(Path("ROOT")))
    OmegaConf.set_struct(composed, False)

    def config(root: Path, *more: str) -> DictConfig:
        changes = OmegaConf.from_dotlist([f"run.root={root}", *more])
        return OmegaConf.merge(composed, changes)  # type: ignore[return-value]

    return config
