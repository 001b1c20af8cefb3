"""Tests that `source.patch` and a clean clone restore the source used for training."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etude.records import patches, provenance
from etude.records.record import Record
from etude.secrets import Mask


def git(folder: Path, *words: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *names, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package `my_parts_in_git`, a configs folder and data."""
    top = tmp_path / "theirs"
    package = top / "src" / "my_parts_in_git"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("DIM = 1\nHEADS = 2\n")
    (package / "gone.py").write_text("OLD = True\n")
    (package / "table.bin").write_bytes(bytes(range(256)))
    (top / "conf").mkdir()
    (top / "notes.md").write_text("# Notes\n")
    (top / ".gitignore").write_text("ignored.py\nenv/\n")
    git(tmp_path, "init", "-q", str(top))
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "first")
    monkeypatch.syspath_prepend(str(top / "src"))
    yield top
    sys.modules.pop("my_parts_in_git", None)


NAME = "my_parts_in_git"


def change(top: Path) -> None:
    """Changes the checkout in every way: edit, binary, removal, new file, staged and unstaged."""
    package = top / "src" / NAME
    (package / "parts.py").write_text("DIM = 1\nHEADS = 4\n")
    (package / "table.bin").write_bytes(bytes(reversed(range(256))))
    (package / "gone.py").unlink()
    (package / "new thé.py").write_text("NEW = 'é'\n")
    (package / "staged.py").write_text("STAGED = True\n")
    git(top, "add", "src/my_parts_in_git/staged.py")
    (package / "ignored.py").write_text("")
    (package / "log.txt").write_text("untracked, and no source")
    (top / "conf" / "mine.yaml").write_text("a: 1\n")
    (top / "elsewhere.py").write_text("# beside the source\n")


def written(record: Path, mask: Mask | None = None) -> list[dict[str, Any]]:
    record.mkdir(exist_ok=True)
    found = provenance._module_files(NAME)
    assert found is not None
    return patches.write_patches(record, [(NAME, found[0])], mask or Mask())


def clone(top: Path, folder: Path, record: Path, told: dict[str, Any]) -> Path:
    git(folder, "clone", "-q", str(top), str(folder / "clone"))
    git(folder / "clone", "checkout", "-q", told["commit"])
    git(folder / "clone", "apply", str(record / told["file"]))
    return folder / "clone"


def files(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and ".git" not in path.parts and "__pycache__" not in path.parts
    }


def test_a_clean_clone_and_the_patch_give_the_source(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(checkout)
    before = (git(checkout, "status", "--porcelain"), (checkout / ".git" / "index").read_bytes())
    objects = set((checkout / ".git" / "objects").rglob("*"))
    (told,) = written(tmp_path / "record")
    assert set((checkout / ".git" / "objects").rglob("*")) == objects
    assert (
        git(checkout, "status", "--porcelain"),
        (checkout / ".git/index").read_bytes(),
    ) == before

    assert told["file"] == "source.patch"
    patch = (tmp_path / "record" / "source.patch").read_bytes()
    assert told["sha256"] == hashlib.sha256(patch).hexdigest()
    assert told["commit"] == git(checkout, "rev-parse", "HEAD")
    copy = clone(checkout, tmp_path, tmp_path / "record", told)
    missing = {f"src/{NAME}/ignored.py", f"src/{NAME}/log.txt", "elsewhere.py"}
    assert files(copy) == {k: v for k, v in files(checkout).items() if k not in missing}

    (checkout / f"src/{NAME}/ignored.py").unlink()
    trained = provenance.module_hash(NAME)
    monkeypatch.syspath_prepend(str(copy / "src"))
    assert provenance.module_hash(NAME) == trained
    git(copy, "checkout", "-q", "-f", ".")
    assert provenance.module_hash(NAME) != trained


def test_the_users_settings_of_git_do_not_matter(checkout: Path, tmp_path: Path) -> None:
    change(checkout)
    for key, value in {
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "color.ui": "always",
        "diff.external": "/bin/false",
        "core.quotepath": "off",
        "diff.renames": "copies",
        "diff.context": "0",
    }.items():
        git(checkout, "config", key, value)
    (told,) = written(tmp_path / "record")
    copy = clone(checkout, tmp_path, tmp_path / "record", told)
    assert (copy / "src" / NAME / "parts.py").read_text() == "DIM = 1\nHEADS = 4\n"


def test_no_difference_no_git_no_checkout_no_file(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written(tmp_path / "record") == []
    environment = checkout / "env" / "lib"
    environment.mkdir(parents=True)
    assert patches.find_checkout(environment) is None
    assert patches.find_checkout(tmp_path / "record") is None
    change(checkout)
    assert len(written(tmp_path / "record")) == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    assert written(tmp_path / "another") == []
    assert list((tmp_path / "another").iterdir()) == []


def test_another_start_with_another_source_adds_a_patch(checkout: Path, tmp_path: Path) -> None:
    source = checkout / "src" / NAME / "parts.py"
    names = []
    for text in ("DIM = 2\n", "DIM = 2\n", "DIM = 3\n", "DIM = 2\n"):
        source.write_text(text)
        names += [told["file"] for told in written(tmp_path / "record")]
    assert names == ["source.patch", "source.patch", "source-2.patch", "source.patch"]
    assert b"+DIM = 3" in (tmp_path / "record" / "source-2.patch").read_bytes()


def test_one_patch_a_checkout(checkout: Path, tmp_path: Path) -> None:
    change(checkout)
    folder = checkout / "src" / NAME
    (tmp_path / "record").mkdir()
    (one,) = patches.write_patches(tmp_path / "record", [("a", folder), ("b", folder)], Mask())
    assert one["file"] == "source.patch"
    nowhere = ("etude", tmp_path / "record")
    (other,) = patches.write_patches(tmp_path / "record", [nowhere, (NAME, folder)], Mask())
    assert other["file"] == f"source.{NAME}.patch"


def test_what_is_too_large_is_left_out(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are not source are left out first, then everything."""
    monkeypatch.setattr(patches, "MAX_BYTES", 2000)
    (checkout / "notes.md").write_text("note\n" * 1000)
    (checkout / "src" / NAME / "parts.py").write_text("DIM = 5\n")
    written(tmp_path / "record")
    patch = (tmp_path / "record" / "source.patch").read_text()
    assert "+DIM = 5" in patch
    assert "note" not in patch
    (checkout / "src" / NAME / "parts.py").write_text("DIM = 5\n" * 1000)
    (told,) = written(tmp_path / "record")
    left_out = (tmp_path / "record" / told["file"]).read_text()
    assert left_out == "Left out: the difference is larger than 5 MiB.\n"


def test_secrets_in_the_source_are_masked(checkout: Path, tmp_path: Path) -> None:
    source = checkout / "src" / NAME / "parts.py"
    source.write_text("URL = 'https://me:hunter2@host'\nKEY = 's3cret-key'\n")
    written(tmp_path / "record", Mask({"KEY": "s3cret-key"}))
    patch = (tmp_path / "record" / "source.patch").read_text()
    assert patch.startswith("Secrets are masked below.\n")
    assert "+URL = 'https://me:***@host'\n+KEY = '${oc.env:KEY}'" in patch


def test_a_run_says_which_source_trained_it(
    checkout: Path, etude: Any, corpus: Path, tiny: Any, tmp_path: Path
) -> None:
    """The first start records its source; on reuse, one line reports the difference."""
    change(checkout)
    words = tiny(corpus, tmp_path / "root", "run.samples=0", f"extensions=[{NAME}]")
    assert etude("train", *words).code == 0
    (path,) = (tmp_path / "root" / "tiny").iterdir()
    start = Record.read(path).info["starts"][-1]
    assert start["extensions"] == {NAME: provenance.module_hash(NAME)}
    theirs = [told for told in start["patches"] if told["file"] == f"source.{NAME}.patch"]
    assert theirs[0]["commit"] == git(checkout, "rev-parse", "HEAD")
    assert (path / theirs[0]["file"]).exists()

    told = f"(commit {start['commit'] or 'unknown'}, source hash {start['source']}; "
    assert told + "unchanged source" in etude("train", *words).out
    (checkout / "src" / NAME / "parts.py").write_text("DIM = 77\n")
    assert told + f"the source code of {NAME} has changed" in etude("train", *words).out
