"""Memory that training retains between steps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import DictConfig

from etude.huge_pages import VARIABLE
from etude.training import run as run_module
from etude.training.run import train

SCRIPT = """
import resource
from etude.training.malloc import retain_memory

PAGE, BYTES = resource.getpagesize(), 6 * 16 * 2**20

def faults():  # the share of the pages of six strings that the system has to find each time
    shares = []
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [b"x" * (BYTES // 6) for _ in range(6)]
        shares.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * PAGE / BYTES)
    return sorted(shares[3:])[3]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * PAGE / BYTES

print(faults())
with retain_memory():
    print(faults())
    kept = resident()
print(kept - resident())
"""


def measured(**environment: str) -> list[float]:
    """Returns the fractions of pages retained outside and inside, and released at the end."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return [float(line) for line in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
class TestGlibc:
    def test_it_is_found_again_and_given_back_at_the_end(self) -> None:
        outside, within, given_back = measured()
        if outside < 0.5:
            pytest.skip("the system's pages are larger")
        assert within < 0.05
        assert given_back > 0.9

    @pytest.mark.parametrize(
        ("name", "value"),
        [("MALLOC_MMAP_THRESHOLD_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")],
    )
    def test_what_the_environment_says_stands(self, name: str, value: str) -> None:
        outside, within, _ = measured(**{name: value})
        assert abs(outside - within) < 0.05


GROWTH = """
import resource, sys
import etude, torch
import torch.nn.functional as F
from etude.training.malloc import retain_memory

torch.set_num_threads(1)
head = torch.nn.Linear(4, 20000, bias=False)
optimizer = torch.optim.AdamW(head.parameters())
losses, sizes = [], []
with retain_memory():
    for step in range(40):
        loss = F.cross_entropy(head(torch.randn(512, 4)), torch.randint(20000, (512,)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())  # small blocks that stay, behind large ones that are freed
        sizes.append(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
print((sizes[-1] - sizes[9]) / (512 * 20000 * 4))
"""
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.slow
@pytest.mark.skipif(
    not HUGE.exists() or "[never]" in HUGE.read_text(), reason="this system has no huge pages"
)
def test_memory_does_not_grow_with_the_steps() -> None:
    """In blocks of the logits, 41 MB: 30 steps need no block more than 10 steps."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, env=environment
    )
    assert float(done.stdout) < 0.5


def test_a_run_keeps_it(
    small: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    whole = run_module._train_claimed

    @contextmanager
    def keeping() -> Iterator[None]:
        order.append("keep")
        yield
        order.append("give back")

    def trains(*given: object) -> object:
        order.append("train")
        return whole(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "retain_memory", keeping)
    monkeypatch.setattr(run_module, "_train_claimed", trains)
    train(small(tmp_path, "trainer.max_steps=1"))
    assert order == ["keep", "train", "give back"]
