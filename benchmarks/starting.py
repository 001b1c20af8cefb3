"""How long a person waits for a command that trains nothing.

    python benchmarks/starting.py [--quick]

Commands are timed from outside, in fresh processes, after one that warms the disk's cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

from rows import Row, at_most, table

NOTES = """\
The last command imports torch and Lightning to check the config against its constructors; where
`transformers` is installed, as in the development environment, `torchmetrics` imports it too,
which is a third of it.
"""


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


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about starting."""
    repeats = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            at_most(0.8, f"`etude {' '.join(arguments)}`", f"{taken:.2f} s", "", taken)
            for arguments in (["--help"], ["train", "--help"], ["train", "--cfg", "job"])
            for taken in [seconds(arguments, folder, repeats)]
        ]
        taken = seconds(["train", "experiment=debug"], folder, repeats)  # the first one trains it
        what = "`etude train experiment=debug`, finished before"
        return [*rows, Row(what, f"{taken:.2f} s", "", taken, "", None)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
