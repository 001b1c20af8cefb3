"""Writes `old_runs.tar.xz` anew, by the version of Étude that this Python imports.

The archive holds records of an earlier version, which every later one must list, evaluate, reuse
and continue to the same bits: `python tests/old_runs/make.py` is for a version that is to be kept,
not for one that fails the tests.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import commands
import torch

from etude import cli
from etude.papers import claims
from etude.records.provenance import start_entry
from etude.records.registry import read_records
from toys import write_toys


def etude(*words: str) -> str:
    """What the command prints, in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.run(list(words))
    assert code == 0, (code, words)
    return out.getvalue()


def train(root: str, *overrides: str) -> None:
    print(" ".join(overrides[:3]), file=sys.stderr)
    etude("train", *overrides, f"run.root={root}")


def interrupt() -> None:
    """Ctrl-C in a run, some steps after its first checkpoint."""
    words = commands.typed("interrupted", commands.INTERRUPTED, "run.save_every=10")
    words.append(f"run.root={commands.PAUSED}")
    process = subprocess.Popen([sys.executable, "-m", "etude", "train", *words])
    while not list(Path(commands.PAUSED).glob("interrupted/*/checkpoints/step-*/MANIFEST.json")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    for file in Path(commands.PAUSED).glob("interrupted/*/run.json"):
        assert 0 < json.loads(file.read_text())["step"] < 400


def paper() -> None:
    """The paper's two runs and its result."""
    load = claims.load
    runs = {"sorted": commands.PAPER_RUN, "untrained": commands.PAPER_UNTRAINED}
    claims.load = lambda name, *_: replace(load(name), runs=runs, seeds=[0])
    cli.run(["reproduce", commands.PAPER, "--root", commands.ROOT])
    claims.load = load


def make() -> None:
    """Everything, in the current folder."""
    Path("data").mkdir()
    write_toys(Path("data"))
    for name in (*commands.RUNS, *commands.PARTS):
        train(commands.ROOT, *commands.of(name))
        train(commands.PAUSED, *commands.of(name), commands.PAUSE)
    (source,) = Path(commands.ROOT, "causal_lm").iterdir()
    train(commands.ROOT, *commands.adapter(str(source)))
    interrupt()
    train(commands.ROOT, *commands.typed("interrupted", commands.INTERRUPTED))
    train(commands.ROOT, *commands.typed("sweep", commands.SWEEP))
    train(commands.ROOT, *commands.typed("search", commands.SEARCH))
    paper()
    runs = sorted(str(record.path) for record in read_records(Path(commands.ROOT)))
    scores = {run: evaluated(run) for run in runs}
    content = {
        "made": start_entry(0) | {"processor": commands.processor()},
        "scores": scores,
        "texts": {name: etude("generate", name, *commands.GENERATE) for name in commands.GENERATED},
        "list": json.loads(etude("runs", "list", "--json")),
    }
    Path("expected.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def evaluated(run: str) -> object:
    """The scores of a run on its validation split."""
    return json.loads(etude("evaluate", run, "--split", "val", "--json"))


def without_figures(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leaves out what is large and drawn again."""
    return None if "/figures/" in member.name else member


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["ETUDE_CACHE"] = str(Path(folder, "cache"))
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        make()
        with tarfile.open(commands.ARCHIVE, "w:xz") as archive:
            for name in ("data", "expected.json", commands.ROOT, commands.PAUSED):
                archive.add(name, filter=without_figures)
