"""What it costs to look inside a model: captures, sites that nobody reads, measures over steps.

    python benchmarks/inside.py [--quick]

Passes are timed in turn within one process, without gradients. "Without sites" is the same model
with a function in place of `etude.nn.sites.site` that returns the value.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rows import Row, at_most, in_turn, table

import etude
from etude.config.checks import check
from etude.config.compose import compose
from etude.generation.generate import generate
from etude.interpret import induction_scores
from etude.nn import sites
from etude.training.model import build_model

VOCABULARY = 512
SHAPES = {
    "nano": (["experiment=nano"], 8, 128),
    "GPT-2": (["~experiment", "model=gpt2", "name=gpt2"], 1, 256),
}
"""Overrides of a model, sequences and tokens."""
NOTES = """\
"All sites" captures every value of `model.sites()` without slices. Where a fused kernel hides
scores and patterns, they are computed beside it, so that the logits stay equal bit for bit; most of
the extra time is theirs.
"""


def model_of(overrides: list[str]) -> Any:
    """A model with random weights."""
    checked = check(compose(overrides))
    return build_model(checked, VOCABULARY, 0, generator=torch.Generator().manual_seed(0)).eval()


def seconds(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    with torch.no_grad():
        call()
    return time.perf_counter() - began


@contextlib.contextmanager
def without_sites() -> Iterator[None]:
    """Replaces `site` by a function that only returns the value."""
    modules = [m for n, m in list(sys.modules.items()) if n.startswith("etude.") and m is not sites]
    users = [module for module in modules if getattr(module, "site", None) is sites.site]
    for module in users:
        vars(module)["site"] = lambda module, name, value: value
    try:
        yield
    finally:
        for module in users:
            vars(module)["site"] = sites.site


def captured(model: Any, tokens: torch.Tensor) -> None:
    """A forward pass with all sites captured."""
    with model.capture(*model.sites()["site"]):
        model(tokens)


def resident() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(model: Any, tokens: torch.Tensor, count: int) -> float:
    """MB by which the process grows over `count` captures."""
    with torch.no_grad():
        for _ in range(count // 10):
            captured(model, tokens)
        gc.collect()
        before = resident()
        for _ in range(count):
            captured(model, tokens)
        gc.collect()
    return resident() - before


def over_steps(steps: int) -> tuple[float, float]:
    """Seconds of the scores of all checkpoints of a run, and of the same call again."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        every = 5
        run = etude.train(
            etude.compose(
                "experiment=induction",
                {"trainer.max_steps": steps * every, "trainer.val_check_interval": every},
                f"run.keep_every={every}",
            )
        )
        call = partial(run.over_steps, induction_scores)
        assert len(run.checkpoints) >= steps
        return seconds(call), seconds(call)


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about captures and measures."""
    repeats = 2 if quick else 15
    rows = []
    for name, (overrides, B, T) in SHAPES.items():
        model = model_of(overrides)
        tokens = torch.randint(VOCABULARY, (B, T), generator=torch.Generator().manual_seed(1))
        plain = partial(seconds, partial(model, tokens))
        every = partial(seconds, partial(captured, model, tokens))
        with torch.no_grad():
            plain(), every()
        x, y, ratio = in_turn(plain, every, repeats)
        what = f"{name}, {B} x {T} tokens: all sites captured"
        rows.append(at_most(2.0, what, f"{1e3 * y:.0f} ms", f"plain {1e3 * x:.0f} ms", ratio))

        def bare(call: Callable[[], float]) -> float:
            with without_sites():
                return call()

        new = 8 if quick else 32
        write = partial(generate, model, tokens[:, :8], max_new_tokens=new, greedy=True)
        for kind, call in (("forward", plain), ("generation", partial(seconds, write))):
            call()
            x, y, ratio = in_turn(partial(bare, call), call, repeats)
            what = f"{name}: sites that are not read, {kind}"
            each = f"{1e3 * y:.1f} ms", f"without sites {1e3 * x:.1f} ms"
            rows.append(at_most(1.05, what, *each, ratio))
    small = model_of(["experiment=induction"])
    count = 100 if quick else 1000
    megabytes = growth(small, torch.zeros(2, 32, dtype=torch.long), count)
    what = f"growth of the process over {count:,} captures of all sites"
    rows.append(at_most(5, what, f"{megabytes:.1f} MB", "", megabytes))
    first, again = over_steps(4 if quick else 20)
    what = "induction scores of 20 checkpoints"
    rows += [
        at_most(15, what, f"{first:.1f} s", "", first),
        at_most(1, f"{what}, again", f"{again:.2f} s", "", again),
    ]
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
