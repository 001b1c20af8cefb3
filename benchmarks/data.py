"""How fast text becomes tokens and tokens become batches, and what memory that takes.

    python benchmarks/data.py [--quick]

Token files of any size are generated; text is that of the State of the Union speeches, again and
again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, at_least, at_most, in_turn, table

from etude.data.columns import Column, column_file
from etude.data.curriculum import Sizes, Stages
from etude.data.mixture import MixtureOrder
from etude.data.order import EveryExampleOnce, Order, RandomWindows
from etude.data.passages import cut
from etude.data.sotu import Sotu
from etude.data.split_writer import BATCH, write_split
from etude.data.splits import Passage, SectionMeta
from etude.data.steps import Share, Steps, WindowSteps
from etude.data.text import Batch
from etude.data.tokenizer import BPE, Byte, Tokenizer

BLOCK, WINDOWS = 1024, 12
TOKEN = "<u2"
MEGABYTE = 1_000_000

NOTES = """\
A training step's windows are gathered from the memory map in one operation and made int64 for the
embedding; nothing is copied a sample. What the map touches is the page cache's: the system counts
it as resident while there is room, takes it back when there is none, and shares it among all
processes that read the file. (Advising the system of random access keeps a sixth as much of a cold
file mapped and makes reading it four times as slow, so it isn't done.) Text is tokenised by the
library's own threads, a batch of a million characters at a time; the batch before is converted and
written meanwhile.
"""


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about data.

    Args:
        quick: a tenth of the text and of the larger file.
    """
    large = 100 if quick else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, big = (token_column(folder / str(m), m) for m in (10, large))
        return [
            *loading(big, 200 if quick else 2000),
            *memory(small, big, 500 if quick else 2000),
            tokenising(folder, 10 if quick else 100),
        ]


def token_column(path: Path, megabytes: int) -> Column:
    """Writes a column of random tokens of two bytes."""
    draw = np.random.default_rng(0)
    tokens = megabytes * MEGABYTE // 2
    with column_file(path, ".values").open("wb") as file:
        for first in range(0, tokens, MEGABYTE):
            draw.integers(0, 50257, min(MEGABYTE, tokens - first), dtype=np.uint16).tofile(file)
    return Column(path, TOKEN)


def orders(tokens: int) -> dict[str, Order]:
    """The ways to choose windows; the mixture has four sources."""
    quarter = tokens // 4
    sections = {f"source{k}": SectionMeta(k * quarter, quarter, 0, 0) for k in range(4)}
    weights = {name: weight for name, weight in zip(sections, (0.4, 0.3, 0.2, 0.1), strict=True)}
    mixed: dict[str, Any] = {"length": BLOCK, "batch": WINDOWS, "seed": 0, "within": "windows"}
    return {
        "random windows": RandomWindows(tokens, BLOCK, WINDOWS, seed=0),
        "every example once": EveryExampleOnce(tokens, BLOCK, WINDOWS, seed=0),
        "a mixture of four": MixtureOrder(sections, [(0, weights)], **mixed),
    }


def steps(column: Column, order: Order, number: int) -> Steps:
    """The first optimizer steps of a run."""
    sizes, lengths = Sizes(WINDOWS), Stages(BLOCK)
    return Steps(WindowSteps(column, order, Share(0), BLOCK, sizes, lengths), 0, number)


def loading(column: Column, number: int) -> Iterator[Row]:
    """Millions of tokens a second, by order."""
    for name, order in orders(len(column.values)).items():
        rates = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in steps(column, order, number):
                pass
            rates.append(number * WINDOWS * BLOCK / (time.perf_counter() - began) / 1e6)
        rate = statistics.median(rates)
        size = f"{len(column.values) / 5e8:.2g} GB"
        what = f"loader, {name}, {WINDOWS} windows of {BLOCK} tokens, {size}"
        yield at_least(2, what, f"{rate:.0f} M tokens/s", "", rate)


def memory(small: Column, big: Column, number: int) -> Iterator[Row]:
    """What a process holds after many steps, on a small file and on a big one."""
    found = [resident(column, number) for column in (small, big)]
    sizes = [f"{len(column.values) * 2 / MEGABYTE:.0f} MB" for column in (small, big)]
    own = [figures["RssAnon"] for figures in found]
    mapped = [figures["RssFile"] for figures in found]
    what = f"a process's own memory after {number} steps: {sizes[1]} of tokens beside {sizes[0]}"
    yield at_most(1.05, what, f"{own[1]:.0f} MiB", f"{own[0]:.0f} MiB", own[1] / own[0])
    what = f"mapped pages of the file, then: {sizes[1]} of tokens beside {sizes[0]}"
    told = [f"{value:.0f} MiB" for value in mapped[::-1]]
    yield Row(what, *told, mapped[1], "", None, "the page cache's, taken back when it is needed")


def resident(column: Column, number: int) -> dict[str, float]:
    """MiB of a process of its own: anonymous memory, and growth of the pages of files."""
    command = [sys.executable, __file__, "--resident", str(column.path), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read_steps(path: str, number: int) -> None:
    """Prints what this process holds after so many steps."""
    column = Column(Path(path), TOKEN)
    before = status("RssFile")
    for _ in steps(column, RandomWindows(len(column.values), BLOCK, WINDOWS, seed=0), number):
        pass
    print(json.dumps({"RssAnon": status("RssAnon"), "RssFile": status("RssFile") - before}))


def status(key: str) -> float:
    """MiB, as the system counts this process's memory (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def tokenising(folder: Path, megabytes: int) -> Row:
    """Text to a file of ids beside the library's own fastest call, some megabytes at a time."""
    texts = speeches()
    tokenizer = BPE(8192).train(texts[-20:])
    passages = itertools.cycle(cut(texts))
    slices = [take(passages, 5 * MEGABYTE) for _ in range(megabytes // 5)]
    mine, others = iter(slices), iter(slices)

    def ours() -> float:
        passages = next(mine)
        began = time.perf_counter()
        write_split(folder / "ids", {"": lambda _: iter(passages)}, tokenizer, TOKEN, "train")
        return time.perf_counter() - began

    def theirs() -> float:
        passages = next(others)
        began = time.perf_counter()
        encode(tokenizer, [text for _, text in passages])
        return time.perf_counter() - began

    encode(tokenizer, [text for _, text in slices[0]])  # both find the library's cache of words
    mine_s, others_s, faster = in_turn(ours, theirs, len(slices))
    what = f"tokenising {megabytes} MB and writing the ids, beside encode_batch_fast alone"
    rates = [f"{5 / seconds:.1f} MB/s" for seconds in (mine_s, others_s)]
    return at_most(1.2, what, *rates, 1 / faster, "time, ours / theirs")


def encode(tokenizer: Tokenizer, texts: list[str]) -> None:
    """The library's own call, on as much text at a time as memory has room for its answers."""
    some: list[str] = []
    for text in texts:
        some.append(text)
        if sum(map(len, some)) >= BATCH:
            tokenizer.backend.encode_batch_fast(some, add_special_tokens=False)
            some = []
    tokenizer.backend.encode_batch_fast(some, add_special_tokens=False)


def speeches() -> list[str]:
    """The text of all of them."""
    data = Sotu(tokenizer=Byte(), sequence_length=1, batch=Batch(examples=1))
    return [*data.documents("train"), *data.documents("val")]


def take(passages: Iterator[str], characters: int) -> list[Passage]:
    """The next passages, of so many characters or a few more."""
    taken: list[Passage] = []
    while characters > 0:
        text = next(passages)
        taken.append((len(taken), text))
        characters -= len(text)
    return taken


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--resident", nargs=2, metavar=("PATH", "STEPS"))
    asked = parser.parse_args()
    if asked.resident:
        path, number = asked.resident
        read_steps(path, int(number))
    else:
        print(table(measure(asked.quick)) + "\n" + NOTES)


if __name__ == "__main__":
    main()
