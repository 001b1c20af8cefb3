"""`source.patch`: by what a checkout differs from its commit, so that a run's code is known.

`git apply source.patch` in a clean clone at the recorded commit gives the source that trained.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.records.files import write_bytes
from etude.records.opening import PATCH, is_there, read_bytes
from etude.secrets import Mask

LARGEST = 5 * 2**20  # bytes of a patch that goes into a record
_SECONDS = 60.0  # for one call of git
_UNTRACKED = (".py", ".yaml", ".yml")


@dataclass(frozen=True)
class Checkout:
    """A git work tree that holds source of a run.

    Attributes:
        top: its folder.
        commit: what is checked out.
        index, objects: git's own files, which are read and never written.
    """

    top: Path
    commit: str
    index: Path
    objects: Path


def write_patches(
    record: Path, sources: Sequence[tuple[str, Path]], mask: Mask
) -> list[dict[str, Any]]:
    """Writes a patch for each checkout that differs from its commit, unless the record has it.

    The first source's checkout gives `source.patch`, another's `source.<name>.patch`; where an
    earlier start wrote another content, `source-2.patch` and so on.

    Args:
        record: the run's folder.
        sources: names and folders of source code.
        mask: hides secrets that stand in the source.

    Returns:
        For `run.json`: of each patch its `file`, its `sha256` and the `commit` that it applies to.
        Empty where nothing differs, outside a checkout and without git.
    """
    checkouts: dict[Checkout, tuple[str, list[Path]]] = {}
    for number, (name, folder) in enumerate(sources):
        found = checkout_of(folder)
        if found is not None:
            stem = f"source.{name}" if number else "source"
            checkouts.setdefault(found, (stem, []))[1].append(folder)
    written = []
    for checkout, (stem, folders) in checkouts.items():
        patch = masked(difference(checkout, folders), mask)
        if patch:
            file = _place(record, stem, patch)
            sha256 = hashlib.sha256(patch).hexdigest()
            written.append({"file": file, "sha256": sha256, "commit": checkout.commit})
    return written


def checkout_of(folder: Path) -> Checkout | None:
    """The checkout that `folder` belongs to; None for one that it ignores, such as an environment.

    None, too, without git and before the first commit.
    """
    asked = ("--show-toplevel", "HEAD", "--git-path", "index", "--git-path", "objects")
    try:
        top, commit, index, objects = os.fsdecode(_git(folder, "rev-parse", *asked)).splitlines()
        if _git(folder, "check-ignore", "--", str(folder), good=(0, 1)):
            return None
        return Checkout(Path(top), commit, folder / index, folder / objects)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def difference(checkout: Checkout, folders: Sequence[Path]) -> bytes:
    """By what a checkout differs from its commit, as a patch; empty where it does not.

    Tracked files of the whole checkout, and as additions untracked Python and YAML files in
    `folders` and in `conf/`. Where that is larger than 5 MiB: of `folders` alone; where that is,
    too: a line that says so. Where git fails, a line with what it said.
    """
    inside = [os.path.relpath(folder.resolve(), checkout.top.resolve()) for folder in folders]
    try:
        for chosen in (["."], inside):
            patch = _patch(checkout, chosen, [*inside, "conf"])
            if len(patch) <= LARGEST:
                return patch
        return b"Left out: the difference is larger than 5 MiB.\n"
    except subprocess.CalledProcessError as error:
        return b"Left out: " + (error.stderr or b"git failed").strip() + b"\n"
    except (OSError, subprocess.SubprocessError) as error:
        return f"Left out: {type(error).__name__}\n".encode()


def masked(patch: bytes, mask: Mask) -> bytes:
    """The patch without secrets, which says so in its first line."""
    text = patch.decode(errors="surrogateescape")
    without = mask.text(text)
    if without == text:
        return patch
    return b"Secrets are masked below.\n" + without.encode(errors="surrogateescape")


def _patch(checkout: Checkout, chosen: Sequence[str], source: Sequence[str]) -> bytes:
    """`git diff HEAD`, untracked source files included by way of an index of our own."""
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        if checkout.index.exists():
            shutil.copyfile(checkout.index, index)
        apart = {
            "GIT_INDEX_FILE": str(index),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(checkout.objects.resolve()),
        }
        others = _git(checkout.top, "ls-files", "-z", "-o", "--exclude-standard", "--", *source)
        new = [name for name in os.fsdecode(others).split("\0") if name.endswith(_UNTRACKED)]
        if new:
            listed = ("--pathspec-from-file=-", "--pathspec-file-nul")
            names = os.fsencode("\0".join(new))
            _git(checkout.top, "add", "--intent-to-add", *listed, apart=apart, given=names)
        return _git(
            checkout.top,
            *("diff", "HEAD", "--binary", "--full-index", "--no-color", "--no-ext-diff"),
            *("--no-textconv", "--no-renames", "--unified=3", "--ignore-submodules=dirty"),
            *("--src-prefix=a/", "--dst-prefix=b/", "--", *chosen),
            apart=apart,
        )


def _git(
    folder: Path,
    *arguments: str,
    apart: dict[str, str] | None = None,
    given: bytes = b"",
    good: Sequence[int] = (0,),
) -> bytes:
    """What git prints, up to a little more than the largest patch.

    Raises:
        OSError: there is no git.
        subprocess.SubprocessError: it failed, or took too long.
    """
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    with tempfile.TemporaryFile() as printed:
        done = subprocess.run(
            command,
            input=given,
            stdout=printed,
            stderr=subprocess.PIPE,
            env={**os.environ, **(apart or {})},
            timeout=_SECONDS,
        )
        if done.returncode not in good:
            raise subprocess.CalledProcessError(done.returncode, command, stderr=done.stderr)
        printed.seek(0)
        return printed.read(LARGEST + 1)


def _place(record: Path, stem: str, patch: bytes) -> str:
    """The name of the file that holds the patch, written if no earlier start has."""
    number = 1
    while True:
        path = record / (f"{stem}.patch" if number == 1 else f"{stem}-{number}.patch")
        if not is_there(path):
            write_bytes(path, patch, PATCH)
            return path.name
        if read_bytes(path, PATCH) == patch:
            return path.name
        number += 1
