"""What a training step costs in Étude beside the same modules in a plain PyTorch loop.

    make bench

Both loops train twins of one model on the same batches, step by step in turn within one process,
so that a change of the machine's speed hits both. Peak memory is measured in one process each.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import etude
from etude.config.checks import check
from etude.tasks.causal_lm import next_token_loss
from etude.training import run as run_module
from etude.training.build import build_model, build_parts

SIZES = {
    "nano": ["experiment=nano"],
    "10m": [
        "experiment=nano",
        "model.layers=6",
        "model.heads=6",
        "model.dim=384",
        "data.sequence_length=256",
        "data.batch.examples=8",
    ],
}


class PlainLoop:
    """The loop that everybody writes: forward, backward, clip, step."""

    def __init__(self, overrides: list[str]) -> None:
        checked = check(etude.compose(*overrides))
        parts = build_parts(checked)
        self.data = parts.data
        self.data.prepare(run_module.cache_folder(checked))
        self.model = build_model(checked, self.data.tokenizer_.vocab_size)
        self.optimizer = parts.optimizer(self.model)
        self.clip = parts.trainer.gradient_clip_val

    def steps(self, total: int) -> Any:
        """The run's batches, from the first."""
        self.data.attach(seed=0, micro_batch=None, total_steps=total)
        return iter(self.data.train_dataloader())

    def step(self, batch: list[dict[str, Any]]) -> None:
        """One optimizer step on a batch of one micro-batch."""
        (micro,) = batch
        loss = next_token_loss(self.model, micro) / micro["step_targets"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class InTurn(pl.Callback):
    """After each of Étude's steps, one of the plain loop's; times both."""

    def __init__(self, plain: PlainLoop, total: int) -> None:
        self.plain = plain
        self.batches = plain.steps(total)
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._mark = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.ours.append(now - self._mark)
        self.plain.step(next(self.batches))
        after = time.perf_counter()
        self.theirs.append(after - now)
        self._mark = after


def overrides_for(size: str, steps: int, root: str) -> list[str]:
    """The size's config without validation, checkpoints or samples between the steps."""
    return [
        *SIZES[size],
        f"trainer.max_steps={steps}",
        "trainer.val_check_interval=null",
        "schedule.warmup_steps=0",
        "run.samples=0",
        f"run.root={root}",
    ]


def time_steps(size: str, steps: int) -> dict[str, float]:
    """Median step times in milliseconds and the median of the paired ratios."""
    with tempfile.TemporaryDirectory() as root:
        overrides = overrides_for(size, steps, root)
        in_turn = InTurn(PlainLoop(overrides), steps)
        build = run_module.build_parts

        def with_timer(checked: Any) -> Any:
            parts = build(checked)
            parts.callbacks.append(in_turn)
            return parts

        run_module.build_parts = with_timer
        try:
            run_module.train(etude.compose(*overrides))
        finally:
            run_module.build_parts = build
    warm = steps // 5  # the last step validates and saves: not a step's cost
    ours, theirs = in_turn.ours[warm:-1], in_turn.theirs[warm:-1]
    return {
        "ours_ms": 1e3 * statistics.median(ours),
        "plain_ms": 1e3 * statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
    }


def memory(key: str) -> float:
    """MiB of this process: `VmRSS` now, `VmHWM` at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def peak_growth(which: str, size: str, steps: int) -> float:
    """MiB by which a process's peak memory grows over its imports while it trains."""
    before = memory("VmRSS")
    with tempfile.TemporaryDirectory() as root:
        overrides = overrides_for(size, steps, root)
        if which == "plain":
            plain = PlainLoop(overrides)
            for batch in plain.steps(steps):
                plain.step(batch)
        else:
            run_module.train(etude.compose(*overrides, f"run.stop_at_step={steps - 1}"))
    return memory("VmHWM") - before


def memory_of(which: str, size: str, steps: int) -> float:
    """`peak_growth` in a process of its own."""
    command = [sys.executable, __file__, "--memory", which, "--size", size, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", choices=("plain", "etude"))
    parser.add_argument("--size", choices=tuple(SIZES), default="10m")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    if asked.memory:
        print(peak_growth(asked.memory, asked.size, asked.steps))
        return
    logging.getLogger("etude").setLevel(logging.ERROR)
    runs = [time_steps("nano", asked.steps or 300) for _ in range(asked.repeats)]
    plain, ours = (memory_of(which, "10m", 8) for which in ("plain", "etude"))
    report = {
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "nano_step": runs,
        "nano_step_ratio": statistics.median(run["ratio"] for run in runs),
        "memory_10m_MiB": {"plain": plain, "etude": ours, "ratio": ours / plain},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
