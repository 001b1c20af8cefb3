"""Where the configs lie: inside the wheel, or at the top of a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from etude.errors import Problem, RequestError

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The folder of the shipped configs.

    Raises:
        FileNotFoundError: neither an installed nor a checked-out `conf/` is there.
    """
    for folder in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/train.yaml beside {_PACKAGE} or at the top of its checkout")


def check_current_folder() -> None:
    """Refuses to work in a folder that was removed: relative paths lead nowhere there.

    Raises:
        RequestError: the current folder does not exist any more.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        expected = "one that exists: it was removed meanwhile"
        raise RequestError(Problem("current folder", expected, hint="cd to another")) from error


def groups(*folders: Path) -> dict[str, list[str]]:
    """The groups of a run's config in these folders and the names of their files, both sorted."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            if group.split("/")[0] not in (".", "paper", "hydra"):  # no part of a run
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}
