"""How fast released weights are loaded, and how much memory that takes.

    python benchmarks/loading.py

The model has SmolLM2-135M's shapes and random float32 weights, in one safetensors file that the
system has in its cache. It is compared with reading that file's bytes into memory. The peak is of
the process's memory while loading, above what it was before, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import Row, at_most, in_turn, table

from etude.interop.hf_config import HFConfig
from etude.interop.llama import LlamaFamily
from etude.interop.pretrained import load_weights, save_weights

SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}  # fmt: skip
PEAK = """
import sys
from pathlib import Path
import torch
from etude.interop.pretrained import load_weights
def status(key):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if key in x)
    return int(line.split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
load_weights(Path(sys.argv[1]))
print(status("VmHWM") - before)
"""


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about loading.

    Args:
        quick: a few layers and repeats, to see that everything works; without targets.
    """
    config = {**SMOLLM2, "num_hidden_layers": 2} if quick else SMOLLM2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, config)
        file = folder / "model.safetensors"
        ours, theirs, ratio = in_turn(
            lambda: seconds(lambda: load_weights(folder)),
            lambda: seconds(file.read_bytes),
            3 if quick else 9,
        )
        size = file.stat().st_size
        peak = peak_bytes(folder)
    what = f"loading {size / 1e6:.0f} MB of SmolLM2-135M's shapes"
    rows = [
        at_most(2.0, what, f"{ours:.2f} s", f"{theirs:.2f} s to read the bytes", 1 / ratio),
        at_most(
            1.2,
            "peak memory meanwhile, of the model's",
            f"{peak / 1e6:.0f} MB",
            f"{size / 1e6:.0f} MB of weights",
            peak / size,
        ),
    ]
    if quick:
        return [Row(row.what, row.ours, row.theirs, row.figure, "", None) for row in rows]
    return rows


def write_model(folder: Path, config: dict[str, object]) -> None:
    """Random weights of a config's shapes."""
    module = (
        LlamaFamily()
        .build(HFConfig(dict(config), "config.json"), "LlamaForCausalLM")
        .to_empty(device="cpu")
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.02)
    save_weights(module, folder)


def peak_bytes(folder: Path) -> int:
    """The most memory that a process took for loading, above what it had."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return int(done.stdout)


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))
