"""Writes `signatures.json`: what the version that this Python imports calls each shipped config.

`python tests/config/golden.py` adds configs that are new. A signature that is there stays: a change
renames the runs that people have.
"""

from __future__ import annotations

import json
from pathlib import Path

from etude.config.checks import check
from etude.config.compose import compose
from etude.config.paths import conf_dir
from etude.errors import RequestError
from etude.records.signature import signature

FILE = Path(__file__).with_name("signatures.json")
VALUES = ["name=golden", "data.path=x", "data.format=jsonl"]
BASES = (
    "experiment=debug",
    "experiment=debug ~experiment name=g",
    "model=encoder_nano data=sotu_parties task=classification ~experiment name=g",
    "model=transformer_nano data=catalogs task=translation ~experiment name=g",
    "model=regressor_nano data=icl_regression task=regression ~experiment name=g",
)
"""Commands that a file is added to: the first in which it composes."""
NEEDED = (
    "",
    "data.path=x",
    "data.source.path=x",
    "data.path.repository=x data.path.revision=y",
    "data.repository=x",
)
"""What some files leave to the user."""


def commands() -> list[list[str]]:
    """Returns, for each shipped file, the commands that can choose it."""
    found = []
    for file in sorted(conf_dir().rglob("*.yaml")):
        group, name = file.parent.relative_to(conf_dir()).as_posix(), file.stem
        if group.split("/")[0] in (".", "paper", "hydra", "sweep"):
            continue
        choice = f"{group}={name}"
        bases = ("",) if group == "experiment" else BASES
        found.append([f"{base} {choice} {more}".strip() for base in bases for more in NEEDED])
    return found


def name(command: str) -> str:
    return signature(check(compose(command)).identity)


def first(commands: list[str]) -> tuple[str, str] | None:
    """Returns the first command that composes, and the signature of its run."""
    for command in commands:
        try:
            return command, name(command)
        except RequestError:
            continue
    return None


if __name__ == "__main__":
    known = json.loads(FILE.read_text()) if FILE.is_file() else {}
    for options in commands():
        if not known.keys() & set(options):
            found = first(options)
            if found is None:
                print("does not compose:", options[0])
            else:
                known[found[0]] = found[1]
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
