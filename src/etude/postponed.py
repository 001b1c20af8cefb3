"""Modules that a library imports and most commands never use, executed when they are first used.

Lightning imports `torch._dynamo` for one `isinstance`, and so does each optimizer of torch; it
takes as long as the rest of torch. Lightning imports `torchmetrics` for two classes, and gets
`transformers`, `scipy` and `matplotlib` with it. After `install`, an import of one of these gives a
module that executes itself when anything is used that it has beyond what is imitated here.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_LOCK = threading.RLock()


class Postponed(ModuleType):
    """A module that is executed when an attribute is asked for that `instead` lacks.

    Args:
        real: the spec of the module that it is going to be.
        instead: makes an attribute until then, by its name.
    """

    def __init__(self, real: ModuleSpec, instead: Mapping[str, Callable[[Postponed], Any]]) -> None:
        super().__init__(real.name)
        self._real, self._instead, self._state = real, instead, "postponed"
        self.__file__, self.__cached__ = real.origin, real.cached
        self._folders = real.submodule_search_locations
        if self._folders is not None:
            self.__path__ = _Folders(self)

    def __getattr__(self, name: str) -> Any:
        if self._state == "postponed" and not name.startswith("__"):
            if name in self._instead:
                return self._instead[name](self)
            self.execute()
            return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        self.execute()
        return list(super().__dir__())

    @property
    def executed(self) -> bool:
        """Whether it is the real module by now."""
        return self._state != "postponed"

    def execute(self) -> None:
        """Makes this the real module, if it is not yet."""
        with _LOCK:
            if self.executed:
                return
            self._state = "executed"
            self.__spec__, self.__loader__ = self._real, self._real.loader
            if self._folders is not None:
                self.__path__ = self._folders
            assert self._real.loader is not None
            try:
                self._real.loader.exec_module(self)
            except BaseException:
                self._state = "postponed"
                raise

    def part(self, modules: Sequence[str], name: str) -> Any:
        """What the last of some modules of this package has under a name; without executing it.

        Args:
            modules: below it, without its name; imported in their order.
        """
        with _LOCK:
            before = self.__path__
            self.__path__ = self._folders or []
            try:
                *_, last = [import_module(f"{self.__name__}.{module}") for module in modules]
            finally:
                if not self.executed:
                    self.__path__ = before
        return getattr(last, name)


class _Folders(list[str]):
    """Where the modules of a postponed package are: whoever looks for one executes the package
    first, as the import of a module does.
    """

    def __init__(self, package: Postponed) -> None:
        super().__init__()
        self._package = package

    @property
    def real(self) -> Sequence[str]:
        """The folders, without executing anything."""
        return self._package._folders or []

    def __iter__(self) -> Iterator[str]:
        self._package.execute()
        return iter(self._package.__path__)


class _Postponing(Loader):
    """Makes the module, and leaves its execution to it."""

    def __init__(self, real: ModuleSpec) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Postponed(self._real, INSTEAD[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(MetaPathFinder):
    """Finds the modules of `INSTEAD`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ALONE:
            return PathFinder.find_spec(name, getattr(path, "real", path), target)
        real = PathFinder.find_spec(name, path, target) if name in INSTEAD else None
        if real is None or real.loader is None:
            return None
        spec = ModuleSpec(name, _Postponing(real), origin=real.origin)
        spec.submodule_search_locations = real.submodule_search_locations
        return spec


def install() -> None:
    """From now on, these modules are postponed; those that are imported already stay."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _instances(name: str, module: Postponed) -> type:
    """A class whose instances are those of a module's class, of which there are none before the
    module is executed.
    """

    class Kind(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return module.executed and isinstance(instance, getattr(module, name))

    return Kind(name, (), {})


def _disable(module: Postponed) -> Callable[..., Any]:
    """`torch._dynamo.disable`: as long as the module is not executed nothing is compiled."""

    def disable(function: Any = None, *args: Any, **options: Any) -> Any:
        if function is None or module.executed:
            module.execute()
            return module.disable(function, *args, **options)
        disabled: list[Callable[..., Any]] = []

        @wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            if not module.executed:
                return function(*given, **named)
            if not disabled:
                disabled.append(module.disable(function, *args, **options))
            return disabled[0](*given, **named)

        return call

    return disable


def _nothing(*args: Any, **options: Any) -> None:
    """Does nothing."""


def _when_called(name: str, module: Postponed) -> Callable[..., Any]:
    """A module's function, which executes the module when it is called."""

    def call(*args: Any, **options: Any) -> Any:
        module.execute()
        return getattr(module, name)(*args, **options)

    return call


def _metric(name: str, file: str, module: Postponed) -> Any:
    """A base class of `torchmetrics`; `utilities` comes first, as the two import each other."""
    return module.part(["utilities", file], name)


INSTEAD: Mapping[str, Mapping[str, Callable[[Postponed], Any]]] = {
    "torch._dynamo": {
        "OptimizedModule": partial(_instances, "OptimizedModule"),
        "disable": _disable,
        "graph_break": lambda _: _nothing,
    },
    "torch._inductor": {},
    "torchmetrics": {
        "Metric": partial(_metric, "Metric", "metric"),
        "MetricCollection": partial(_metric, "MetricCollection", "collections"),
        "_logger": lambda _: logging.getLogger("torchmetrics"),
    },
    "torchmetrics.utilities.plot": {
        "_AX_TYPE": lambda _: object,
        "_PLOT_OUT_TYPE": lambda _: object,
        "plot_single_or_multi_val": partial(_when_called, "plot_single_or_multi_val"),
    },
}
"""What is imitated of each postponed module."""

ALONE = frozenset(
    {"torch._dynamo.config", "torch._inductor.config", "torch._inductor.custom_graph_pass"}
)
"""Modules of postponed packages that are imported without executing these: settings, which torch
looks at before it counts operations, or switches deterministic algorithms off."""
