"""What the shell's completion is told after `etude runs`, `generate` and `convert`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def completions(command: str, typed: str) -> list[str]:
    """The words that may stand where the line ends.

    Args:
        command: `runs`, `generate` or `convert`.
        typed: the line after the command and a space; its last word may be begun or empty.
    """
    *before, begun = typed.split(" ")
    words = [word for word in before if word]
    if command == "runs" and not words:
        from etude.cli.runs import ACTIONS

        return [action for action in ACTIONS if action.startswith(begun)]
    if command != "runs" and words and not words[-1].startswith("--root"):
        return []  # one run alone
    return sorted(set(_runs(begun, _root(words), words)))


def _root(words: list[str]) -> Path:
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--root":
            return Path(value if equals else "".join(words[index + 1 : index + 2]))
    return Path("experiments")


def _runs(begun: str, root: Path, words: list[str]) -> Iterator[str]:
    """Names; with a few letters typed also signatures, alone or after their name."""
    from etude.records.registry import folders

    if not root.is_dir():
        return
    for folder in folders(root):
        name, signature = folder.parent.name, folder.name
        listing = words[:1] == ["list"]
        told = [name] if listing or not begun else [name, signature]
        if "/" in begun and not listing:
            told = [f"{name}/{signature}"]
        yield from (word for word in told if word.startswith(begun))
