"""A composed config checked as a whole: all mistakes at once, before anything heavy is built."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.nodes import Node, check_node
from etude.config.schema import NODES, ON_EXISTING, OUT_OF_SIGNATURE, Run
from etude.config.targets import installed_extensions
from etude.errors import Problem, RequestError, nearest


@dataclass
class Checked:
    """A config without mistakes.

    Attributes:
        config: as composed; saved to the record with its interpolations unresolved.
        nodes: the constructors and arguments of `model`, `data`, ...
        callbacks: further Lightning callbacks by name.
        identity: canonical plain data, what the signature hashes.
    """

    config: DictConfig
    name: str
    seed: int
    nodes: dict[str, Node]
    callbacks: dict[str, Node]
    run: Run
    identity: dict[str, Any]


def check(config: DictConfig, *, trust: Sequence[str] | None = None) -> Checked:
    """Checks every key and value of `config` against the root's and the constructors' types.

    Args:
        config: from `compose`, or read from a record.
        trust: modules that may be named beside Étude's; None takes the config's own
            `extensions` and the installed ones, which is for configs that the user typed.

    Raises:
        RequestError: with every problem found.
    """
    problems = list(_environment_in_identity(config))
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        reason = str(error).splitlines()[0]
        raise RequestError(
            [*problems, Problem(str(key), "an interpolation that resolves", hint=reason)]
        ) from error
    extensions = list(trust) if trust is not None else _extensions(plain, problems)
    problems += _check_root(plain)
    nodes: dict[str, Node] = {}
    callbacks: dict[str, Node] = {}
    for key in NODES:
        nodes[key], found = check_node(key, plain[key], extensions)
        problems += found
    for name, value in plain["callbacks"].items():
        callbacks[name], found = check_node(f"callbacks.{name}", value, extensions)
        problems += found
    if problems:
        raise RequestError(problems)
    identity = {
        "name": plain["name"],
        "seed": plain["seed"],
        **{key: node.canonical() for key, node in nodes.items()},
        "callbacks": {name: node.canonical() for name, node in callbacks.items()},
        "extensions": sorted(plain["extensions"]),
    }
    for path in OUT_OF_SIGNATURE:
        _remove(identity, path.split("."))
    return Checked(
        config, plain["name"], plain["seed"], nodes, callbacks, Run(**plain["run"]), identity
    )


def _extensions(plain: Mapping[str, Any], problems: list[Problem]) -> list[str]:
    import importlib.util

    for module in plain["extensions"]:
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            problems.append(
                Problem("extensions", "a module that can be imported from here", module)
            )
    return [*plain["extensions"], *installed_extensions()]


def _check_root(plain: Mapping[str, Any]) -> Iterator[Problem]:
    yield from check_name(plain["name"])
    if plain["seed"] < 0:
        yield Problem("seed", "a whole number of at least 0", plain["seed"])
    run = plain["run"]
    if run["on_existing"] not in ON_EXISTING:
        hint = nearest(str(run["on_existing"]), ON_EXISTING)
        yield Problem(
            "run.on_existing", "one of " + ", ".join(ON_EXISTING), run["on_existing"], hint
        )
    for key in ("stop_at_step", "save_every", "keep_every", "sample_tokens"):
        if run[key] is not None and run[key] < 1:
            yield Problem(f"run.{key}", "a positive number of steps or null", run[key])
    if run["samples"] < 0:
        yield Problem("run.samples", "0 or more", run["samples"])


def check_name(name: Any) -> Iterator[Problem]:
    """A run's name is one folder under the root: no separators, no leading `_` or `.`."""
    text = str(name)
    if name is None or name == "???" or not text.strip():
        yield Problem("name", "a name for the run's folder")
    elif Path(text).name != text or "\\" in text or "~" in text:
        yield Problem("name", "one folder name, without separators", text)
    elif text.startswith(("_", ".")) or text != text.strip():
        yield Problem("name", "a name that begins with a letter or digit", text)
    elif any(unicodedata.category(c).startswith("C") for c in text):
        yield Problem("name", "a name without control characters", text)
    elif len(text.encode()) > 120:
        yield Problem("name", "at most 120 bytes", text)


def _environment_in_identity(config: DictConfig) -> Iterator[Problem]:
    """`${oc.env:...}` where it would enter the signature: the run would depend on the machine."""

    def visit(value: Any, path: str) -> Iterator[Problem]:
        if any(path == out or path.startswith(f"{out}.") for out in OUT_OF_SIGNATURE):
            return
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from visit(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                yield from visit(inner, f"{path}[{index}]")
        elif isinstance(value, str) and "oc.env:" in value:
            yield Problem(path, "a value that does not come from the environment", value)

    yield from visit(OmegaConf.to_container(config, resolve=False), "")


def _remove(tree: dict[str, Any], path: Sequence[str]) -> None:
    for key in path[:-1]:
        inner = tree.get(key)
        if not isinstance(inner, dict):
            return
        tree = inner
    tree.pop(path[-1], None)
