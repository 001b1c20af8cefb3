"""Shell completion of `etude runs`, `generate`, `predict`, `evaluate` and `convert`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def completions(command: str, typed: str) -> list[str]:
    """Returns the completions of the last word of a command line, each as a whole word.

    They are runs or, for the first word after `runs`, its subcommands. Other commands take one run,
    so that the list is empty after the first word, except after `--root`.

    Args:
        command: a command with an argument RUN, such as `runs` or `generate`.
        typed: the line after the command and a space; its last word may be incomplete or empty.
    """
    *before, prefix = typed.split(" ")
    words = [word for word in before if word]
    if command == "runs" and not words:
        from etude.cli.runs import ACTIONS

        return [action for action in ACTIONS if action.startswith(prefix)]
    if command != "runs" and words and not words[-1].startswith("--root"):
        return []  # these commands take one run
    return sorted(set(_runs(prefix, _root(words), words)))


def _root(words: list[str]) -> Path:
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--root":
            return Path(value if equals else "".join(words[index + 1 : index + 2]))
    return Path("experiments")


def _runs(prefix: str, root: Path, words: list[str]) -> Iterator[str]:
    """Yields the names and the signatures of runs that begin with `prefix`.

    A run is saved in the folder `<name>/<signature>`, where the signature is a hash of its config.
    If `prefix` is empty, or for `etude runs list`, only names are yielded. Otherwise, if `prefix`
    contains a `/`, only texts `<name>/<signature>` are yielded.

    Args:
        prefix: the incomplete last word of the command line.
        root: folder of all runs.
        words: the complete words before `prefix`.
    """
    from etude.records.registry import record_folders

    if not root.is_dir():
        return
    for folder in record_folders(root):
        name, signature = folder.parent.name, folder.name
        listing = words[:1] == ["list"]
        candidates = [name] if listing or not prefix else [name, signature]
        if "/" in prefix and not listing:
            candidates = [f"{name}/{signature}"]
        yield from (word for word in candidates if word.startswith(prefix))
