"""`source.patch`: the difference between a Git checkout and its commit when a run was started.

`git apply source.patch` in a clean clone at the commit in `run.json` restores the source that was
used for training.
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
from etude.records.opening import PATCH, path_exists, read_bytes
from etude.secrets import Mask

MAX_BYTES = 5 * 2**20  # bytes; larger patches are not recorded
_TIMEOUT = 60.0  # timeout of one git call
_UNTRACKED = (".py", ".yaml", ".yml")


@dataclass(frozen=True)
class Checkout:
    """Git work tree with source code of a run.

    Attributes:
        top: root folder of the work tree.
        commit: checked-out commit.
        index: git's index file, which is only read.
        objects: git's object folder, which is only read.
    """

    top: Path
    commit: str
    index: Path
    objects: Path


def write_patches(
    record: Path, sources: Sequence[tuple[str, Path]], mask: Mask
) -> list[dict[str, Any]]:
    """Writes a patch for each Git checkout with uncommitted changes into a run's folder.

    The patch of the first source's checkout is `source.patch`; other patches are
    `source.<name>.patch`. If the folder contains a different patch of that name from an earlier
    start of the run, the name is `source-2.patch` and so on. A patch that the folder already
    contains is not written again.

    Args:
        record: the run's folder.
        sources: pairs of a package's name, such as `etude`, and the folder of its source code.
        mask: object that masks secrets in the patches.

    Returns:
        For `run.json`: a list with a dictionary for each patch, with the keys `file`, `sha256` and
        `commit` (to which the patch applies). Empty if there are no changes, no checkouts, or git
        is not installed.
    """
    checkouts: dict[Checkout, tuple[str, list[Path]]] = {}
    for number, (name, folder) in enumerate(sources):
        checkout = find_checkout(folder)
        if checkout is not None:
            stem = f"source.{name}" if number else "source"
            checkouts.setdefault(checkout, (stem, []))[1].append(folder)
    entries = []
    for checkout, (stem, folders) in checkouts.items():
        patch = mask_patch(diff_checkout(checkout, folders), mask)
        if patch:
            file = _write_patch(record, stem, patch)
            sha256 = hashlib.sha256(patch).hexdigest()
            entries.append({"file": file, "sha256": sha256, "commit": checkout.commit})
    return entries


def find_checkout(folder: Path) -> Checkout | None:
    """Returns the Git checkout that contains `folder`.

    Returns None if there is no checkout, if git ignores the folder (such as a virtual environment),
    if git is not installed, or if there is no commit yet.
    """
    options = ("--show-toplevel", "HEAD", "--git-path", "index", "--git-path", "objects")
    try:
        top, commit, index, objects = os.fsdecode(_git(folder, "rev-parse", *options)).splitlines()
        if _git(folder, "check-ignore", "--", str(folder), accepted_codes=(0, 1)):
            return None
        return Checkout(Path(top), commit, folder / index, folder / objects)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def diff_checkout(checkout: Checkout, folders: Sequence[Path]) -> bytes:
    """Returns the difference between a checkout and its commit as a patch.

    The patch is empty if there is no difference. It contains changes of tracked files in the whole
    checkout and, as additions, untracked Python and YAML files in `folders` and in `conf/`. If the
    patch is larger than 5 MiB, only changes in `folders` are included. If this smaller patch is
    still too large, or if git fails, the result is one line with the reason.
    """
    inside = [os.path.relpath(folder.resolve(), checkout.top.resolve()) for folder in folders]
    try:
        for paths in (["."], inside):
            patch = _diff(checkout, paths, [*inside, "conf"])
            if len(patch) <= MAX_BYTES:
                return patch
        return b"Left out: the difference is larger than 5 MiB.\n"
    except subprocess.CalledProcessError as error:
        return b"Left out: " + (error.stderr or b"git failed").strip() + b"\n"
    except (OSError, subprocess.SubprocessError) as error:
        return f"Left out: {type(error).__name__}\n".encode()


def mask_patch(patch: bytes, mask: Mask) -> bytes:
    """Returns a patch in which secrets are masked.

    If any secret was masked, the first line says so.
    """
    text = patch.decode(errors="surrogateescape")
    masked_text = mask.text(text)
    if masked_text == text:
        return patch
    return b"Secrets are masked below.\n" + masked_text.encode(errors="surrogateescape")


def _diff(checkout: Checkout, paths: Sequence[str], source: Sequence[str]) -> bytes:
    """Returns the output of `git diff HEAD` for the files and folders `paths` of a checkout.

    Untracked Python and YAML files in the folders `source` are included. They are added to a
    temporary copy of git's index, so that the index itself stays unchanged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        if checkout.index.exists():
            shutil.copyfile(checkout.index, index)
        environment = {
            "GIT_INDEX_FILE": str(index),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(checkout.objects.resolve()),
        }
        untracked = _git(checkout.top, "ls-files", "-z", "-o", "--exclude-standard", "--", *source)
        new = [name for name in os.fsdecode(untracked).split("\0") if name.endswith(_UNTRACKED)]
        if new:
            options = ("--pathspec-from-file=-", "--pathspec-file-nul")
            names = os.fsencode("\0".join(new))
            _git(
                checkout.top,
                "add",
                "--intent-to-add",
                *options,
                environment=environment,
                stdin=names,
            )
        return _git(
            checkout.top,
            *("diff", "HEAD", "--binary", "--full-index", "--no-color", "--no-ext-diff"),
            *("--no-textconv", "--no-renames", "--unified=3", "--ignore-submodules=dirty"),
            *("--src-prefix=a/", "--dst-prefix=b/", "--", *paths),
            environment=environment,
        )


def _git(
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    stdin: bytes = b"",
    accepted_codes: Sequence[int] = (0,),
) -> bytes:
    """Returns the output of a git command.

    The output is cut one byte after the maximum size of a patch, so the caller can notice that the
    output is too large.

    Args:
        folder: folder in which git runs.
        arguments: arguments of git.
        environment: additional environment variables.
        stdin: standard input of git.
        accepted_codes: exit codes that are not errors.

    Raises:
        OSError: git is not installed.
        subprocess.SubprocessError: git failed or timed out.
    """
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    with tempfile.TemporaryFile() as output:
        completed = subprocess.run(
            command,
            input=stdin,
            stdout=output,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            timeout=_TIMEOUT,
        )
        if completed.returncode not in accepted_codes:
            raise subprocess.CalledProcessError(
                completed.returncode, command, stderr=completed.stderr
            )
        output.seek(0)
        return output.read(MAX_BYTES + 1)


def _write_patch(record: Path, stem: str, patch: bytes) -> str:
    """Writes a patch into a run's folder, unless it is already there, and returns the file's name.

    The name is `<stem>.patch`. If that file contains another patch, it is `<stem>-2.patch`, and so
    on.
    """
    number = 1
    while True:
        path = record / (f"{stem}.patch" if number == 1 else f"{stem}-{number}.patch")
        if not path_exists(path):
            write_bytes(path, patch, PATCH)
            return path.name
        if read_bytes(path, PATCH) == patch:
            return path.name
        number += 1
