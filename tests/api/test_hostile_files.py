"""Every command that reads a record refuses links, special files and what is too large in it, names
the file, and neither hangs nor writes elsewhere; under a root they are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import etude
from etude import cli
from etude.analysis.curves import new_figure, save_figure
from etude.analysis.scoring import evaluate_run
from etude.config.compose import compose, plain_yaml
from etude.data.tokenizer import Char
from etude.errors import RequestError
from etude.records import opening
from etude.records.record import FORMAT
from etude.training.run_folder import locked_record, log_to_file
from quick_first import quick_first

SECONDS = 60  # by then something hangs, on a machine that is busy too


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def config() -> str:
    return plain_yaml(compose(["experiment=debug"]))


@pytest.fixture
def record(tmp_path: Path, config: str) -> Path:
    """A record like that of a training, with dummy files instead of weights."""
    folder = tmp_path / "root" / "name" / "aaaaaaaaaaaa"
    (folder / "checkpoints" / "step-00000001").mkdir(parents=True)
    start = {
        "time": "2026-01-01T00:00:00", "host": "h", "versions": {"torch": "2"}, "commit": None,
        "source": "s",
    }  # fmt: skip
    info = {
        "format": FORMAT, "status": "paused", "name": "name", "signature": "a" * 64,
        "group": "b" * 64, "seed": 0, "parameters": 1, "total_steps": 1, "starts": [start],
        "data": {"fingerprint": "c"}, "tokenizer": {"size": 3, "fingerprint": "d"},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "config.yaml").write_text(config)
    (folder / "overrides.yaml").write_text("[]\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "val/loss": 2.0}\n')
    (folder / "log.txt").write_text("")
    Char().train(["abc"]).save(folder / "tokenizer.json")
    checkpoint = folder / "checkpoints" / "step-00000001"
    hashes = {}
    for name in ("model.safetensors", "state.pt"):
        (checkpoint / name).write_bytes(b"none")
        hashes[name] = hashlib.sha256(b"none").hexdigest()
    told = {"format": 1, "step": 1, "sha256": hashes}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(told))
    return folder


def link(path: Path, kind: opening.Kind) -> None:
    elsewhere = path.parents[kind.depth].parent.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def fifo(path: Path, kind: opening.Kind) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path, kind: opening.Kind) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path, kind: opening.Kind) -> None:
    path.unlink()
    path.mkdir()


def oversized(path: Path, kind: opening.Kind) -> None:
    os.truncate(path, kind.largest + 1)


def read(record: Path) -> Any:
    return etude.load_run(record)


def shown(record: Path, *words: str) -> None:
    """Runs a command that must fail with an error about the request or a damaged record."""
    assert cli.run([*words, str(record)]) in (1, 2)


FILES: dict[str, tuple[opening.Kind, list[Callable[[Path], object]]]] = {
    "run.json": (
        opening.RUN,
        [read, lambda r: shown(r, "runs", "show"), lambda r: shown(r, "runs", "verify")],
    ),
    "config.yaml": (
        opening.CONFIG,
        [read, lambda r: shown(r, "runs", "verify"), lambda r: shown(r, "evaluate")],
    ),
    "tokenizer.json": (
        opening.TOKENIZER,
        [lambda r: read(r).tokenizer(), lambda r: shown(r, "runs", "verify")],
    ),
    "metrics.jsonl": (
        opening.METRICS,
        [
            lambda r: read(r).metrics,
            lambda r: read(r).record.rows(),
            lambda r: shown(r, "runs", "verify"),
        ],
    ),
    "checkpoints/step-00000001/MANIFEST.json": (
        opening.MANIFEST,
        [lambda r: read(r).model(), lambda r: shown(r, "runs", "verify")],
    ),
    "checkpoints/step-00000001/model.safetensors": (
        opening.WEIGHTS,
        [lambda r: read(r).model(), lambda r: shown(r, "runs", "verify")],
    ),
    "checkpoints/step-00000001/state.pt": (
        opening.STATE,
        [lambda r: read(r).model(), lambda r: shown(r, "runs", "verify")],
    ),
}


@pytest.mark.parametrize("make", quick_first([link, fifo, device, folder, oversized], 2))
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_of_a_record_is_refused_by_name(
    record: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[..., None]
) -> None:
    kind, readers = FILES[name]
    make(record / name, kind)
    for reader in readers:
        try:
            reader(record)
        except RequestError as error:
            said = str(error)
        else:
            printed = capsys.readouterr()
            said = printed.out + printed.err
        assert Path(name).name in said, said
        assert "unexpected" not in said


@pytest.mark.parametrize("make", [link, fifo, device, folder])
@pytest.mark.parametrize("name", ["run.json", ".lock", "metrics.jsonl"])
def test_a_list_names_the_record_and_shows_the_others(
    record: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[..., None]
) -> None:
    other = record.with_name("bbbbbbbbbbbb")
    other.mkdir()
    info = json.loads((record / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**info, "label": "sound"}))
    if name == ".lock":
        (record / "run.json").write_text(json.dumps({**info, "status": "running"}))
        (record / ".lock").write_text("")
    make(record / name, opening.RUN)
    root = str(record.parent.parent)
    assert cli.run(["runs", "list", "--root", root]) == 0
    printed = capsys.readouterr()
    assert "sound" in printed.out
    if name not in (".lock", "metrics.jsonl"):  # a list reads neither
        assert "1 damaged run: " in printed.err
    assert len(etude.runs(root)) == (1 if name == "run.json" else 2)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link to nothing": (lambda p: p.symlink_to("nothing"), "a broken link"),
    "a link to itself": (_circle, "symbolic links"),
    "a FIFO": (os.mkfifo, "it is a FIFO"),
    "a socket": (_socket, "it is a socket"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "it is a device"),
}


@pytest.mark.parametrize("level", ["", "name"])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_under_a_root_is_skipped_in_one_line(
    record: Path, capsys: pytest.CaptureFixture[str], odd: str, level: str
) -> None:
    make, said = ODD[odd]
    root = record.parent.parent
    make(root / level / "odd")
    (root / "README.txt").write_text("a plain file is no mistake")
    for words in (["runs", "list"], ["runs", "show", "aaaaaa"], ["runs", "show", "name/aaaa"]):
        assert cli.run([*words, "--root", str(root)]) == 0
        printed = capsys.readouterr()
        assert "paused" in printed.out
        assert printed.err.count("\n") == 1
        assert said in printed.err
        assert "README" not in printed.err
    assert cli.run(["runs", "verify", "--root", str(root)]) == 1  # the record itself is invented
    assert said in capsys.readouterr().err
    assert [run.path.name for run in etude.runs(root)] == ["aaaaaaaaaaaa"]
    assert cli.run(["runs", "rm", "aaaaaa", "--yes", "--root", str(root)]) == 0
    assert not record.exists()


def test_a_folder_that_cannot_be_read_is_skipped(
    record: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who can read all folders."""
    root = record.parent.parent
    (root / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert cli.run(["runs", "list", "--root", str(root)]) == 0
    printed = capsys.readouterr()
    assert "paused" in printed.out
    assert "closed (Permission denied)" in printed.err


@pytest.mark.parametrize(
    "name", ["log.txt", "predictions", "figures", "samples", "evaluations", "checkpoints/step-2"]
)
def test_nothing_is_written_through_a_link(record: Path, tmp_path: Path, name: str) -> None:
    """An untrusted, unfinished record is neither continued nor evaluated."""
    victim = tmp_path / "victim"
    if name == "log.txt":
        victim.write_text("precious")
    else:
        victim.mkdir()
    (record / name).unlink(missing_ok=True)
    (record / name).symlink_to(victim)
    with pytest.raises(RequestError, match="it is a link"), locked_record(record, wait=False):
        pass
    with pytest.raises(RequestError, match="it is a link"):
        evaluate_run(etude.load_run(record), "val")
    again = log_to_file(record / name).__enter__ if name == "log.txt" else None
    with pytest.raises(RequestError, match="it is a link"):  # not even without that check
        again() if again else opening.make_subfolder(record, *name.split("/"))
    assert victim.read_text() == "precious" if name == "log.txt" else not os.listdir(victim)
    assert (record / "run.json").is_file()


def test_figures_that_compare_are_not_written_through_a_link(record: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    root = record.parent.parent
    (root / "_comparisons").symlink_to(victim)
    with pytest.raises(RequestError, match="_comparisons"):
        save_figure(new_figure(1, 1), root / "_comparisons" / "a.png", opening.COMPARISON)
    assert not os.listdir(victim)


def test_prepared_data_goes_to_the_readers_own_cache(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etude.training.run_folder import cache_folder

    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "mine"))
    text = (record / "config.yaml").read_text()
    assert "  cache: null\n" in text
    (record / "config.yaml").write_text(text.replace("  cache: null\n", "  cache: /theirs\n"))
    assert cache_folder(etude.load_run(record).checked) == tmp_path / "mine"
