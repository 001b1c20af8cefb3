"""Location of the shipped configs: inside the wheel, or at the top of a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from etude.errors import Problem, RequestError

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """Returns the folder of the shipped configs.

    Raises:
        FileNotFoundError: neither the package nor its checkout has a folder `conf`.
    """
    for folder in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no file conf/train.yaml in {_PACKAGE} or in its Git checkout")


def check_current_folder() -> None:
    """Checks that the current folder exists.

    Raises:
        RequestError: the current folder was deleted, so relative paths cannot be resolved.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        hint = "it was deleted; cd to another folder"
        raise RequestError(Problem("current folder", "an existing folder", hint=hint)) from error


def groups(*folders: Path) -> dict[str, list[str]]:
    """Returns a dictionary from each config group in some folders to the names of its files.

    Groups and names are sorted. Files that are not part of a run's config are left out: those
    directly in a folder, and those in the groups `paper` and `hydra`.
    """
    names: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            if group.split("/")[0] not in (".", "paper", "hydra"):  # not part of a run's config
                names.setdefault(group, set()).add(file.stem)
    return {group: sorted(names[group]) for group in sorted(names)}
