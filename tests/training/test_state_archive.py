"""A small `state.pt` cannot decompress to a much larger one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from etude.errors import RequestError
from etude.training.checkpoints import must_be_stored


def test_what_torch_writes_is_accepted_and_a_compressed_copy_is_not(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000), "b": [1, "x"]}, tmp_path / "state.pt")
    with (tmp_path / "state.pt").open("rb") as file:
        must_be_stored(file, tmp_path / "state.pt")
        assert torch.load(file, weights_only=True)["b"] == [1, "x"]  # from its beginning again
    packed = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(tmp_path / "state.pt") as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other,
    ):
        for name in plain.namelist():
            other.writestr(name, plain.read(name))
    assert torch.load(packed, weights_only=True)["b"] == [1, "x"]  # torch alone unpacks it
    with packed.open("rb") as file, pytest.raises(RequestError, match="an uncompressed archive"):
        must_be_stored(file, packed)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x80\x02}q\x00."])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with (
        (tmp_path / "state.pt").open("rb") as file,
        pytest.raises(RequestError, match=r"state\.pt"),
    ):
        must_be_stored(file, tmp_path / "state.pt")
