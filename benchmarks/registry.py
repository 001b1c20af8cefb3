"""How fast records are read: a list of thousands of runs, a long metrics file, the import.

    python benchmarks/registry.py

The records are made in a temporary folder, after the pattern of what a run of `experiment=nano`
leaves. Commands are timed from outside, as a person waits for them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import Row, at_most, table

from etude.config.checks import check
from etude.config.compose import compose, plain_yaml
from etude.config.flattening import flatten_config
from etude.records import provenance
from etude.records.record import FORMAT
from etude.records.signature import sha256_of

POSITIONS = ("learned", "rotary", "alibi", "none")


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about records.

    Args:
        quick: a tenth of the records and rows, to see that everything works; without targets.
    """
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "experiments"
        records, lines = 10_000 // scale, 100_000 // scale
        make_records(root, records)
        make_metrics(next(root.glob("*/*")) / "metrics.jsonl", lines)
        repeats = 3 if quick else 5
        rows = [
            _listing(root, records, [], "", repeats),
            _listing(
                root,
                records,
                ["optimizer.lr>1e-3", "model.position=rotary", "--sort", "val/loss"],
                " with two filters on the config, sorted",
                repeats,
            ),
            _metrics(root, lines, repeats),
            _import(repeats),
        ]
    return [row if not quick else _without_target(row) for row in rows]


def make_records(root: Path, count: int) -> None:
    """`count` finished runs of one study under five names, without checkpoints."""
    draw = random.Random(0)
    checked = check(compose(["experiment=nano"]))
    config, config_yaml = flatten_config(checked), plain_yaml(checked.config)
    for index in range(count):
        position, seed = POSITIONS[index % len(POSITIONS)], index // len(POSITIONS)
        lr = 10 ** draw.uniform(-4, -2)
        stated = {"seed": seed, "model.position._target_": position, "optimizer.lr": lr}
        whole = sha256_of(stated)
        folder = root / f"study_{index % 5}" / whole[:12]
        folder.mkdir(parents=True)
        facts = _facts(checked, draw, f"position={position} lr={lr:.3g} seed={seed}", whole)
        facts |= {
            "seed": seed,
            "choices": dict(checked.run.choices) | {"model/position": position},
            "config": config | stated,
        }
        (folder / "run.json").write_text(json.dumps(facts, indent=2))
        (folder / "config.yaml").write_text(config_yaml)


def _facts(checked: Any, draw: random.Random, label: str, whole: str) -> dict[str, Any]:
    value = draw.uniform(3, 6)
    final = {key: value for key in ("train/loss", "val/loss", "val/perplexity")}
    return {
        "format": FORMAT,
        "name": checked.name,
        "signature": whole,
        "group": whole[-12:],
        "label": label,
        "status": "finished",
        "parameters": 1_838_592,
        "total_steps": 2500,
        "step": 2500,
        "data": {"fingerprint": whole, "splits": {}},
        "tokenizer": {"fingerprint": whole, "size": 8192},
        "tags": [],
        "notes": "",
        "starts": [{**provenance.start_entry(0), "threads": 2}],
        "best": {"metric": "val/loss", "value": value, "step": 2500},
        "finished": provenance.timestamp(),
        "tokens": 1_920_000,
        "seconds": draw.uniform(100, 300),
        "final": final,
    }


def make_metrics(path: Path, lines: int) -> None:
    """A row a step, with a validation every fifty."""
    draw = random.Random(0)
    with path.open("w") as file:
        for step in range(1, lines + 1):
            row: dict[str, Any] = {
                "step": step,
                "tokens": step * 768,
                "time": round(step * 0.055, 3),
                **{key: draw.random() for key in ("train/loss", "train/grad_norm", "lr")},
                "perf/tokens_per_second": draw.uniform(1e4, 2e4),
                "perf/mfu": draw.random(),
            }
            if step % 50 == 0:
                row |= {key: draw.random() for key in ("val/loss", "val/perplexity")}
            file.write(json.dumps(row) + "\n")


def _listing(root: Path, count: int, words: list[str], what: str, repeats: int) -> Row:
    command = [sys.executable, "-m", "etude", "runs", "list", "--root", str(root), *words]
    seconds = _median(lambda: _run(command), repeats)
    title = f"`etude runs list` over {count:,} records{what}"
    return at_most(2.0, title, f"{seconds:.2f} s", "", seconds, "the whole command")


def _metrics(root: Path, lines: int, repeats: int) -> Row:
    import etude

    run = next(path.parent for path in root.glob("*/*/metrics.jsonl"))
    etude.load_run(run).metrics  # noqa: B018 (imports what it needs)

    def once() -> None:
        assert len(etude.load_run(run).metrics) == lines

    seconds = _median(once, repeats)
    title = f"`load_run(...).metrics` of {lines:,} rows"
    note = "in a process that has imported pandas and torch"
    return at_most(0.5, title, f"{seconds:.2f} s", "", seconds, note)


def _import(repeats: int) -> Row:
    bare = _median(lambda: _run([sys.executable, "-c", "pass"]), repeats)
    whole = _median(lambda: _run([sys.executable, "-c", "import etude"]), repeats)
    note = f"with the interpreter's own start, {bare:.2f} s"
    return at_most(0.3, "`import etude`", f"{whole:.2f} s", "", whole, note)


def _median(call: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))


def _without_target(row: Row) -> Row:
    return Row(row.what, row.ours, row.theirs, row.figure, "", None, row.note)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
