"""Tests of opening record files: regular, inside the record, of limited size; no call blocks."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.errors import RequestError
from etude.records import files
from etude.records.lock import RunLock, is_held
from etude.records.metrics_file import MetricsFile, read_frame, read_latest, read_rows
from etude.records.opening import (
    EVALUATION,
    KINDS,
    LOG,
    MANIFEST,
    METRICS,
    RUN,
    list_names,
    make_subfolder,
    open_file,
    open_for_append,
    read_bytes,
)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is limited to 108 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def out(path: Path) -> None:
    elsewhere = path.parent / "elsewhere"
    elsewhere.write_text("{}\n")
    path.symlink_to(elsewhere)


def nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def folder(path: Path) -> None:
    path.mkdir()


ODD: dict[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a socket": a_socket,
    "a device's link": device,
    "a link out": out,
    "a link to nothing": nowhere,
    "a folder": folder,
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_file_is_refused_in_every_way_of_opening(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "run.json"
    ODD[odd](path)
    said = odd if odd in ("a FIFO", "a socket", "a folder") else "a link"
    for attempt in (
        lambda: open_file(path, RUN),
        lambda: read_bytes(path, RUN),
        lambda: open_for_append(path, RUN),
        lambda: files.read_json(path, RUN),
        lambda: files.sha256_file(path, RUN),
        lambda: MetricsFile(path).append({"step": 1}),
        lambda: read_rows(path),
        lambda: read_frame(path),
        lambda: read_latest(path),
    ):
        with pytest.raises(RequestError) as refused:
            attempt()
        assert f"{path}: expected" in str(refused.value)
        assert f"it is {said}" in str(refused.value)


def test_a_device_itself_is_not_opened() -> None:
    with pytest.raises(RequestError, match=r"/dev/zero: .*it is a device"):
        open_file("/dev/zero", RUN)
    with pytest.raises(RequestError, match="it is a device"):  # paths from the user may be links
        open_file("/dev/zero", None)


def test_a_file_that_is_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "run.json", RUN)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "checkpoints" / "step-1" / "MANIFEST.json", MANIFEST)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_file_over_the_limit_of_its_kind_is_refused(tmp_path: Path, kind) -> None:
    path = tmp_path / kind.name.replace("*", "a")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(kind.largest + 1)  # a sparse file
    with pytest.raises(RequestError, match=f"at most {kind.largest:,} bytes") as refused:
        open_file(path, kind)
    assert str(path) in str(refused.value)
    with path.open("wb") as file:
        file.truncate(kind.largest)
    open_file(path, kind).close()


@pytest.mark.parametrize("which", ["checkpoints", "checkpoints/step-1"])
def test_no_folder_inside_the_record_may_be_a_link(tmp_path: Path, which: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "step-1").mkdir(parents=True)
    for place in (elsewhere, elsewhere / "step-1"):
        (place / "MANIFEST.json").write_text("{}")
    record = tmp_path / "record"
    link = record / which
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere if which == "checkpoints" else elsewhere / "step-1")
    manifest = record / "checkpoints" / "step-1" / "MANIFEST.json"
    for attempt in (
        lambda: open_file(manifest, MANIFEST),
        lambda: files.write_json(manifest, {"changed": True}, MANIFEST),
        lambda: make_subfolder(record, "checkpoints", "step-1"),
        lambda: list_names(record / "checkpoints" / "step-1", 2),
    ):
        with pytest.raises(RequestError, match="it is a link"):
            attempt()
    assert (elsewhere / "step-1" / "MANIFEST.json").read_text() == "{}"


def test_links_above_the_record_are_the_users_own(tmp_path: Path) -> None:
    """The root, a name's folder and the record's folder may be on another disk."""
    disk = tmp_path / "disk" / "run"
    (disk / "checkpoints" / "step-1").mkdir(parents=True)
    (disk / "checkpoints" / "step-1" / "MANIFEST.json").write_text("{}")
    (tmp_path / "name").mkdir()
    record = tmp_path / "name" / "aaaa"
    record.symlink_to(disk)
    assert files.read_json(record / "checkpoints" / "step-1" / "MANIFEST.json", MANIFEST) == {}
    files.write_json(record / "run.json", {"a": 1}, RUN)
    assert files.read_json(disk / "run.json", RUN) == {"a": 1}


def test_writing_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    record = tmp_path / "record"
    record.mkdir()
    (record / "run.json").symlink_to(precious)
    (record / files._temporary_name("run.json")).symlink_to(
        precious
    )  # the name that is written first
    files.write_json(record / "run.json", {}, RUN)
    assert precious.read_text() == "precious"
    assert not (record / "run.json").is_symlink()
    assert os.listdir(record) == ["run.json"]


@pytest.mark.parametrize("name", ["log.txt", ".lock", "metrics.jsonl"])
def test_what_is_appended_to_is_no_link(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    record = tmp_path / "record"
    record.mkdir()
    (record / name).symlink_to(precious)
    for attempt in (
        lambda: open_for_append(record / name, LOG).close(),
        lambda: (
            RunLock(record).acquire()
            if name == ".lock"
            else open_for_append(record / name, METRICS)
        ),
    ):
        with pytest.raises(RequestError, match="it is a link"):
            attempt()
    assert precious.read_text() == "precious"
    assert not is_held(record)


def test_a_folder_of_evaluations_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "evaluations").symlink_to(tmp_path / "out")
    with pytest.raises(RequestError, match="evaluations"):
        files.write_json(tmp_path / "record" / "evaluations" / "val.json", {}, EVALUATION)
    assert not os.listdir(tmp_path / "out")
