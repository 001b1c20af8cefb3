"""Tests of atomic file writes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from etude.errors import RequestError
from etude.records import files


def test_a_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    files.write_text(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_the_new_content_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure between any two of these steps leaves the old file or the new one."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        os, "replace", lambda *a, **k: (events.append("rename"), replace(*a, **k))[1]
    )
    files.write_text(tmp_path / "a", "text")
    assert events == ["fsync", "rename", "fsync"]


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe{}", b""])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError) as refused:
        files.read_json(path)
    assert refused.value.problems[0].where == str(path)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "step-1") as folder:
        (folder / "weights").write_text("w")
        assert not (tmp_path / "step-1").exists()
    assert os.listdir(tmp_path) == ["step-1"]
    assert (tmp_path / "step-1" / "weights").read_text() == "w"


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_whose_writing_fails_leaves_what_was_there(tmp_path: Path, before: bool) -> None:
    place = tmp_path / "step-1"
    if before:
        with files.atomic_folder(place) as folder:
            (folder / "weights").write_text("old")

    def killed() -> None:
        with files.atomic_folder(place) as folder:
            (folder / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert os.listdir(tmp_path) == (["step-1"] if before else [])
    assert not before or (place / "weights").read_text() == "old"


def test_a_folder_replaces_an_earlier_one_wholly(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with files.atomic_folder(tmp_path / "step-1") as folder:
            (folder / name).touch()
    assert os.listdir(tmp_path) == ["step-1"]
    assert os.listdir(tmp_path / "step-1") == ["new"]


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".run.json.tmp-7").touch()
    (tmp_path / ".step-1.tmp-7").mkdir()
    (tmp_path / ".step-1.tmp-7" / "half").touch()
    for kept in ("run.json", ".lock", "tmp-7"):
        (tmp_path / kept).touch()
    files.remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "run.json", "tmp-7"]


def test_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_removing_takes_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text(json.dumps(1))
    files.remove_folder(tmp_path / "a")
    assert os.listdir(tmp_path) == []
