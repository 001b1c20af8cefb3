"""What a config may build: the list of allowed `_target_`s, and the one place that imports them.

A config is data, and data never names code: `_target_` reaches `etude.*`, a few classes of torch
and Lightning, and the modules a user lists under `extensions` (or an entry point of the group
`etude.extensions`). Loading a record trusts `etude.*` and the classes below alone, unless told
`trust=[...]`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from etude.errors import Problem, RequestError, nearest

FOREIGN_TARGETS = frozenset({"pytorch_lightning.callbacks.EarlyStopping"})


def installed_extensions() -> list[str]:
    """The modules that installed packages offer under the entry point `etude.extensions`."""
    return sorted({point.value.split(":")[0] for point in entry_points(group="etude.extensions")})


def allowed(target: str, extensions: Iterable[str]) -> bool:
    """Whether `target` lies in Étude, in the list above, or below one of `extensions`."""
    if target in FOREIGN_TARGETS:
        return True
    return any(target.startswith(f"{module}.") for module in ("etude", *extensions))


def resolve(target: str, where: str, extensions: Iterable[str] = ()) -> Callable[..., Any]:
    """The class or function that a `_target_` names.

    Args:
        target: a dotted path such as `etude.nn.attention.MultiHeadAttention`.
        where: the key path of the node, for the message.
        extensions: modules of the user's that may be named too.

    Raises:
        RequestError: the target is not allowed or does not exist; nothing foreign was imported.
    """
    extensions = list(extensions)
    if not isinstance(target, str) or "." not in target:
        raise RequestError(Problem(f"{where}._target_", "a dotted path to a class", target))
    if not allowed(target, extensions):
        module = target.split(".")[0]
        raise RequestError(
            Problem(
                f"{where}._target_",
                "a class of etude or of a module in `extensions`",
                target,
                f"extensions=[{module}] allows it in a config of your own, "
                f"trust=[{module!r}] or --trust {module} in a record",
            )
        )
    module_name, _, name = target.rpartition(".")
    found = _import(module_name, where, target)
    value: Any = getattr(found, name, None)
    if not _buildable(value, target):
        names = [n for n, v in vars(found).items() if isinstance(v, type) and not n.startswith("_")]
        raise RequestError(
            Problem(f"{where}._target_", f"a class in {module_name}", target, nearest(name, names))
        )
    return value


def _buildable(value: Any, target: str) -> bool:
    """Of Étude only its own classes: a function, or what a module imported, could do anything."""
    if target in FOREIGN_TARGETS or not target.startswith("etude."):
        return callable(value)
    return isinstance(value, type) and value.__module__.startswith("etude.")


def _import(module_name: str, where: str, target: str) -> Any:
    try:
        return _imported(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise  # the module exists, but something that it needs does not
        raise RequestError(
            Problem(f"{where}._target_", "a module that can be imported", target)
        ) from error


@cache
def _imported(module_name: str) -> Any:
    return importlib.import_module(module_name)
