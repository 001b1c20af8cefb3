"""Bad data met by the command: exit code 2, the file and the place named, nothing left behind."""

from __future__ import annotations

import bz2
import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

Etude = Callable[..., Any]
WORDS = "the quick brown fox jumps over the lazy dog\n"
ROWS = [f"document {i}: {WORDS}" for i in range(40)]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps({"text": row}) + "\n" for row in rows).encode()


@pytest.fixture
def train(etude: Etude, tmp_path: Path) -> Callable[..., Any]:
    """`train(path, *overrides)`: the shortest run on a corpus; its records are in `runs`."""

    def call(path: Path, *overrides: str) -> Any:
        return etude(
            "train",
            "experiment=debug",
            "data=text_files",
            "data/tokenizer=byte",
            f"data.path='{path}'",
            "data.sequence_length=8",
            "model.layers=1",
            "model.dim=8",
            "trainer.max_steps=2",
            "trainer.val_check_interval=2",
            "trainer.accelerator=cpu",
            "run.samples=0",
            f"run.root={tmp_path / 'runs'}",
            f"run.cache={tmp_path / 'cache'}",
            *overrides,
        )

    return call


BAD: dict[str, tuple[str, bytes, str]] = {
    "missing column": (
        "a.csv",
        b"title,body\n" + b"a,b\n" * 30,
        "a.csv has the columns title, body",
    ),
    "truncated gzip": (
        "a.txt.gz",
        gzip.compress(WORDS.encode() * 999)[:-20],
        "a.txt.gz: expected a complete .gz file (the file is truncated or damaged",
    ),
    "truncated rows": (
        "a.jsonl.bz2",
        bz2.compress(jsonl(ROWS * 99))[:-20],
        "a.jsonl.bz2: expected a complete .bz2 file (the file is truncated or damaged",
    ),
    "not gzip at all": ("a.txt.gz", b"plain text", "a.txt.gz: expected a complete .gz file"),
    "broken JSON": (
        "a.jsonl",
        jsonl(ROWS * 9) + b'{"text": "half\n' + jsonl(ROWS),
        "a.jsonl, line 361, column 10: expected JSON with one object per line",
    ),
    "a number": (
        "a.jsonl",
        jsonl([*ROWS * 9, 5]),
        "a.jsonl, line 361, column text = 5: expected text or null",
    ),
    "not UTF-8": (
        "a.txt",
        WORDS.encode() * 3 + b"caf\xe9\n",
        "a.txt, line 4, byte 135 = '0xe9': expected UTF-8 text",
    ),
    "not UTF-8 within gzip": (
        "a.txt.gz",
        gzip.compress(WORDS.encode() * 3 + b"caf\xe9\n"),
        "a.txt.gz, line 4, byte 135 = '0xe9': expected UTF-8 text",
    ),
    "rows not UTF-8": (
        "a.jsonl.gz",
        gzip.compress(jsonl(ROWS * 9) + b'{"text": "caf\xe9"}\n'),
        "a.jsonl.gz, line 361, byte ",
    ),
    "empty": ("a.txt", b"", "data.path = "),
    "no rows": ("a.jsonl", b"\n\n", "expected files with rows (no file has rows)"),
    "nothing but null": ("a.jsonl", jsonl([None] * 30), "expected a column with text"),
    "one row": ("a.jsonl", jsonl(ROWS[:1]), "leaves text for training, out of 1 document"),
    "equal rows": ("a.jsonl", jsonl(ROWS[:1] * 5), "documents with equal text are in the same"),
    "no table": ("a.parquet", b"not a table", "a.parquet: expected a valid .parquet file ("),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_told(case: str, train: Etude, tmp_path: Path) -> None:
    name, content, message = BAD[case]
    path = tmp_path / "corpus" / name
    path.parent.mkdir()
    path.write_bytes(content)
    answer = train(path)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err + answer.out
    assert not (tmp_path / "runs").exists()
    left = [entry for entry in (tmp_path / "cache").glob("*") if entry.suffix != ".lock"]
    assert left == []
    assert [entry.name for entry in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.parquet"])
def test_a_corpus_that_changed_after_the_run(name: str, train: Etude, tmp_path: Path) -> None:
    path = tmp_path / name

    def write(rows: list[str]) -> None:
        if name.endswith(".parquet"):
            pd.DataFrame({"text": rows}).to_parquet(path)
        else:
            raw = jsonl(rows) if "jsonl" in name else "".join(rows).encode()
            path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)

    write(ROWS)
    assert train(path).code == 0
    assert "already finished" in train(path).out
    info = json.loads(next((tmp_path / "runs").rglob("run.json")).read_text())
    write([*ROWS[:-1], ROWS[-1].replace("dog", "dig")])
    answer = train(path)
    assert answer.code == 2
    assert info["data"]["fingerprint"] in answer.err
    assert answer.err.count("data = '") == 1
    found = answer.err.split("data = '")[1][:64]
    assert found != info["data"]["fingerprint"]
    assert len(set(found) - set("0123456789abcdef")) == 0


@pytest.mark.slow
def test_windows_and_unix_give_the_same_tokens(train: Etude, tmp_path: Path) -> None:
    tokens = []
    for name in ("a.txt", "a.jsonl", "a.csv"):
        raw = jsonl(ROWS) if name == "a.jsonl" else "".join(ROWS).encode()
        raw = b"text\n" + raw if name == "a.csv" else raw
        for raw_form in (raw, b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n")):
            path = tmp_path / f"{len(tokens)}" / name
            path.parent.mkdir()
            path.write_bytes(raw_form)
            assert train(path, f"name=run{len(tokens)}").code == 0
            info = json.loads(
                next((tmp_path / f"runs/run{len(tokens)}").rglob("run.json")).read_text()
            )
            tokens.append([split["sha256"] for split in info["data"]["splits"].values()])
    assert tokens[0::2] == tokens[1::2]


def test_a_window_longer_than_the_corpus(train: Etude, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(ROWS))
    answer = train(
        path, "data.sequence_length=5000", "data.batch.examples=1", "model.max_length=5000"
    )
    assert answer.code == 2
    assert "data.sequence_length = 5000: expected a number below 2," in answer.err
    assert not (tmp_path / "runs").exists()


class TestTheDisk:
    @pytest.fixture
    def little_room(self) -> Iterator[None]:
        """No file may grow beyond 20 kB: writing fails as on a full disk."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @pytest.mark.usefixtures("little_room")
    def test_a_disk_that_fills_up(self, train: Etude, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        with path.open("wb") as file:
            for _ in range(10):
                file.write(jsonl(ROWS[:20]))
        answer = train(path)
        assert answer.code == 2
        assert f"run.cache = '{tmp_path / 'cache'}': expected" in answer.err
        assert "Traceback" not in answer.err
        assert not (tmp_path / "runs").exists()
        assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]

    def test_a_cache_that_cannot_be_written(self, train: Etude, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(jsonl(ROWS))
        answer = train(path, f"run.cache={path}/cache")
        assert answer.code == 2
        assert (
            f"run.cache = '{path}/cache': expected a writable folder for prepared data"
            in answer.err
        )
        assert not (tmp_path / "runs").exists()


MEASURE = """
import sys, threading
from pathlib import Path
import torch, datasets, pandas
from etude.data.text import Batch
from etude.data.text_files import TextFiles
from etude.data.tokenizer import BPE, Byte, Char

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

recipe, cache, *paths = sys.argv[1:]
for path in paths:
    peak, done = 0.0, threading.Event()
    def watch():
        global peak
        while not done.wait(0.01):
            peak = max(peak, anonymous())
    watching = threading.Thread(target=watch)
    watching.start()
    data = TextFiles(path=path, tokenizer=eval(recipe), sequence_length=8, batch=Batch(examples=2))
    data.check()
    data.prepare(Path(cache))
    done.set()
    watching.join()
    print(peak)
"""


def peaks(paths: list[Path], recipe: str, cache: Path) -> list[float]:
    """A process's own memory at most, in MiB, while it prepares each of `paths`.

    That of the first includes what is imported on the way, and isn't returned.
    """
    words = [sys.executable, "-c", MEASURE, recipe, cache, *paths]
    answer = subprocess.run(words, check=True, capture_output=True, text=True)
    return [float(line) for line in answer.stdout.split()][1:]


@pytest.mark.slow
class TestMemory:
    """What is prepared may be far larger than memory: growth doesn't depend on the length."""

    @pytest.mark.parametrize("recipe", ["Char()", "Byte()", "BPE(300)"])
    @pytest.mark.parametrize("text", ["one line of words ", "onelinewithoutanyspace"])
    def test_a_line_without_an_end(self, recipe: str, text: str, tmp_path: Path) -> None:
        paths = []
        for megabytes in (1, 16, 96):
            paths.append(tmp_path / f"{megabytes}.txt")
            paths[-1].write_text(text * (megabytes * 1_000_000 // len(text)))
        short, long = peaks(paths, recipe, tmp_path / "cache")
        assert long < short + 64  # a text of 80 MB more takes at least that and its copies

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".jsonl.gz"])
    def test_rows(self, suffix: str, tmp_path: Path) -> None:
        paths = []
        for megabytes in (1, 32, 96):
            rows = [WORDS.strip() * 50] * (megabytes * 1_000_000 // (50 * len(WORDS)))
            path = tmp_path / f"{megabytes}{suffix}"
            frame = pd.DataFrame({"text": rows})
            if suffix == ".parquet":
                frame.to_parquet(path, row_group_size=1000)
            elif suffix == ".csv":
                frame.to_csv(path, index=False)
            else:
                frame.to_json(path, orient="records", lines=True)
            paths.append(path)
        few, many = peaks(paths, "Byte()", tmp_path / "cache")
        assert many < few + 64  # a text of 64 MB more takes several times that
