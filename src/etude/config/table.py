"""Table of the shipped classes that a config may name at each of its keys.

A slot is a key path of the config, such as `model.attention`, with `*` for a name that the user
chooses (`callbacks.*`). The table is stored in `targets.json`, next to this file. It is generated
from the configs in `conf/`, which contain every class in its slot (`make targets`), and is read
without importing the classes.

A class' first `_target_` is its identifier and never changes, because signatures and saved runs
contain it. If the class moves, `moved` maps the identifier to its new location; identifiers are
never removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from etude.config.paths import conf_dir

FILE = Path(__file__).with_name("targets.json")

CHOSEN_NAMES = ("callbacks", "logger", "data.sources", "measure.texts", "model.kinds")
"""Key paths below which the user chooses the keys."""

NOT_IN_CONF = {
    "data.tokenizer": ["etude.interop.recipe.Released"],  # written by `init_from`
    "data.sources.*": ["etude.data.hub_text.HubText", "etude.data.text_files.TextFiles"],
    "data.source": ["etude.data.hub_text.HubText", "etude.data.sotu.Sotu"],
    "measure.texts.*.source": ["etude.papers.texts.FileTexts"],
}
"""Allowed classes that no shipped config contains, by slot."""

ALIASES = {
    f"model.kinds.*.{part}": f"model.{part}"
    for part in ("mask", "attention", "position", "feedforward", "block")
}
"""Slots that accept the classes of another slot."""


@dataclass(frozen=True)
class Table:
    """The shipped classes that a config may name, by slot.

    A slot is a key path of the config, with `*` for a name that the user chooses.

    Attributes:
        slots: identifiers of the classes of each slot.
        factories: slots of factories (`_partial_: true`), whose callers pass further arguments.
        moved: current locations of the classes that moved, by identifier.
    """

    slots: Mapping[str, frozenset[str]]
    factories: frozenset[str]
    moved: Mapping[str, str]

    def slot(self, path: str) -> str | None:
        """Returns the slot of a key path: the key path, with `*` for a name that the user chooses.

        Returns None if no class is allowed at the key path.

        Example:
            >>> table().slot("callbacks.stop")
            'callbacks.*'
        """
        slot = _slot(path)
        return slot if slot in self.slots else None

    def location(self, identifier: str) -> str:
        """Returns the dotted path from which the class with an identifier is imported."""
        return self.moved.get(identifier, identifier)

    def identifier(self, kind: Any) -> str:
        """Returns the identifier of the class `kind`, which is its `_target_` in configs.

        The identifier of a class that has moved is its first dotted path.
        """
        path = f"{kind.__module__}.{kind.__qualname__}"
        return next((name for name, location in self.moved.items() if location == path), path)

    def everything(self) -> frozenset[str]:
        """Returns the identifiers of all shipped classes that a config may name at any key."""
        return frozenset().union(*self.slots.values())


@cache
def table() -> Table:
    """Returns the table in `targets.json`."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    slots = {slot: frozenset(names) for slot, names in content["slots"].items()}
    return Table(slots, frozenset(content["factories"]), content["moved"])


def generate(before: Mapping[str, Any]) -> dict[str, Any]:
    """Generates the content of `targets.json` from the shipped configs.

    Args:
        before: the current content. The class names in its `slots` are kept, even if no shipped
            config contains them any more, and its `moved` is copied.
    """
    import yaml

    slots = {slot: set(names) for slot, names in before["slots"].items()}
    for slot, names in NOT_IN_CONF.items():
        slots.setdefault(slot, set()).update(names)
    factories: set[str] = set()
    for file in sorted(conf_dir().rglob("*.yaml")):
        group = ".".join(file.relative_to(conf_dir()).parent.parts)
        if group.split(".")[0] in ("", "hydra", "experiment", "sweep"):
            continue
        root = "" if group == "paper" else group
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for path, node in _nodes(content, root):
            slot = _slot(path)
            slots.setdefault(slot, set()).add(node["_target_"])
            if node.get("_partial_"):
                factories.add(slot)
    for slot, other in ALIASES.items():
        slots[slot] = slots.get(slot, set()) | slots.get(other, set())
        factories.add(slot)
    return {
        "slots": {slot: sorted(names) for slot, names in sorted(slots.items())},
        "factories": sorted(factories),
        "moved": dict(before["moved"]),
    }


def _nodes(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, Mapping):
        return
    if "_target_" in value:
        yield path, value
    for key, inner in value.items():
        yield from _nodes(inner, f"{path}.{key}" if path else str(key))


def _slot(path: str) -> str:
    for names in CHOSEN_NAMES:
        if path.startswith(f"{names}."):
            _, *rest = path.removeprefix(f"{names}.").split(".")
            return ".".join([names, "*", *rest])
    return path


if __name__ == "__main__":
    _current = json.loads(FILE.read_text(encoding="utf-8"))
    FILE.write_text(json.dumps(generate(_current), indent=2) + "\n", encoding="utf-8")
