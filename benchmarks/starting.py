"""How long a person waits for a command that trains nothing, and before a training begins.

    python benchmarks/starting.py [--quick]

Commands are timed from outside, in fresh processes, after one that warms the disk's cache and
Étude's own. What is compared with `import torch` is CPU time, measured in turn with it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from rows import Row, at_most, table

NOTES = """\
The rows with a ratio compare CPU time with that of `python -c "import torch"`, measured in turn.
A finished run is answered from an index of constructors and from what is known of the data's
files, without torch. A wrong key imports torch, to report errors in values and files with it.
"""
TORCH = [sys.executable, "-c", "import torch"]
PLAN = ["plan", "experiment=debug", "seed=1", "--no-measure"]
GENERATE = ["generate", "debug", "--max-new-tokens", "1"]
COMPARED: dict[str, tuple[list[str], float]] = {
    "a wrong key": (["train", "experiment=debug", "model.dimm=3"], 1.8),
    "`etude train experiment=debug`, finished before": (["train", "experiment=debug"], 0.5),
    f"`etude {' '.join(PLAN)}`": (PLAN, 1.8),
    f"`etude {' '.join(GENERATE)}`": (GENERATE, 1.8),
}
"""Commands, and the most that each may take for each second of `import torch`."""


def seconds(arguments: list[str], folder: str, repeats: int) -> float:
    """The median time of `etude` with these arguments in `folder`.

    Raises:
        RuntimeError: the command failed.
    """
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        command = [sys.executable, "-m", "etude", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        times.append(time.perf_counter() - began)
        if done.returncode:
            raise RuntimeError(f"etude {' '.join(arguments)}: {done.stderr.strip()}")
    return statistics.median(times[1:])


def cpu_seconds(command: list[str], folder: str) -> float:
    """The CPU time of a process and those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compared(arguments: list[str], folder: str, repeats: int) -> tuple[float, float]:
    """The median CPU times of a command and of `import torch`, measured in turn."""
    command = [sys.executable, "-m", "etude", *arguments]
    pairs = [(cpu_seconds(command, folder), cpu_seconds(TORCH, folder)) for _ in range(repeats + 1)]
    ours, torchs = zip(*pairs[1:], strict=True)
    return statistics.median(ours), statistics.median(torchs)


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about starting."""
    repeats = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            at_most(0.8, f"`etude {' '.join(arguments)}`", f"{taken:.2f} s", "", taken)
            for arguments in (["--help"], ["train", "--help"], ["train", "--cfg", "job"])
            for taken in [seconds(arguments, folder, repeats)]
        ]
        seconds(["train", "experiment=debug"], folder, 1)
        for what, (arguments, most) in COMPARED.items():
            ours, torchs = compared(arguments, folder, repeats)
            beside = f"`import torch` {torchs:.2f} s"
            rows.append(at_most(most, what, f"{ours:.2f} s of CPU time", beside, ours / torchs))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
