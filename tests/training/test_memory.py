"""Memory that training keeps from one step to the next."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from etude.training import run as run_module
from etude.training.memory import keeping_memory
from etude.training.run import train

PAGE = resource.getpagesize()
BYTES = 256 * 2**20  # far above what the C library keeps by itself
GLIBC = platform.libc_ver()[0] == "glibc"

pytestmark = pytest.mark.skipif(not GLIBC, reason="another C library than glibc")


def faults(times: int) -> float:
    """Pages that the system had to find, of those in a large tensor, each time one is made."""
    torch.ones(BYTES // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BYTES // 4)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * PAGE / BYTES / times


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_it_is_found_again() -> None:
    assert faults(3) > 0.5 or huge_pages()
    with keeping_memory():
        assert faults(3) < 0.05
    after = resident()
    torch.ones(BYTES // 4)
    assert resident() - after < BYTES / 2  # the system has it again


def huge_pages() -> bool:
    """Whether the system gives pages that are large, so that few are found."""
    return "[always]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")],
)
def test_the_environment_stands(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with keeping_memory():
        assert faults(3) > 0.5 or huge_pages()


def test_a_run_keeps_it(
    small: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    whole = run_module._train_claimed

    def looked(*args: object, **options: object) -> object:
        found.append(faults(2))
        return whole(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "_train_claimed", looked)
    train(small(tmp_path, "trainer.max_steps=1"))
    assert found[0] < 0.05
