"""The JSON files of released folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etude.errors import RequestError
from etude.interop.adapter_config import AdapterConfig
from etude.interop.hf_config import HFConfig
from etude.interop.json_file import RELEASED, read_object
from etude.interop.tensors import files_named


def refused(file: Path) -> str:
    with pytest.raises(RequestError) as caught:
        read_object(file)
    return str(caught.value)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to("blob")
    assert read_object(tmp_path / "config.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c' in an object"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "expected valid JSON"),
        ("{", "expected valid JSON"),
        ("\xff", "expected valid JSON"),
    ],
)
def test_what_is_no_object(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    assert said in refused(tmp_path / "config.json")


def test_what_is_no_regular_file_or_too_large(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    assert "no such file" in refused(file)
    os.mkfifo(file)
    assert "a FIFO" in refused(file)
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(RELEASED.largest + 1)
    assert f"at most {RELEASED.largest:,} bytes" in refused(file)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "model.index.json"])
def test_all_that_read_one_refuse_a_key_that_stands_twice(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"r": 1, "r": 2}')
    readers = {
        "config.json": HFConfig.of,
        "adapter_config.json": AdapterConfig.of,
        "model.index.json": lambda folder: files_named(folder / name),
    }
    with pytest.raises(RequestError, match="duplicate key 'r'"):
        readers[name](tmp_path)
