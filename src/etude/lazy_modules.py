"""Lazy import of modules that libraries import and most commands never use.

Lightning imports `torch._dynamo` for one `isinstance` check. Each optimizer of torch imports it,
too. This import takes as long as that of the rest of torch. Lightning imports `torchmetrics` for
two classes, and with it `transformers`, `scipy` and `matplotlib`. After `install`, an import of a
module in `SUBSTITUTES`, such as `torch._dynamo` or `torchmetrics`, returns a `LazyModule`. The
module's code is executed on the first access to an attribute for which `SUBSTITUTES` contains no
substitute.
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


class LazyModule(ModuleType):
    """Module whose code is executed on the first access to an attribute that has no substitute.

    Args:
        real: import spec (`ModuleSpec`) of the real module.
        substitutes: maps the name of an attribute to a function that creates its substitute. The
            function gets this `LazyModule`. It is called at each access before the module's code
            is executed; later accesses return the real attribute.
    """

    def __init__(
        self, real: ModuleSpec, substitutes: Mapping[str, Callable[[LazyModule], Any]]
    ) -> None:
        super().__init__(real.name)
        self._real, self._substitutes, self._state = real, substitutes, "postponed"
        self.__file__, self.__cached__ = real.origin, real.cached
        self._folders = real.submodule_search_locations
        if self._folders is not None:
            self.__path__ = _Folders(self)

    def __getattr__(self, name: str) -> Any:
        if self._state == "postponed" and not name.startswith("__"):
            if name in self._substitutes:
                return self._substitutes[name](self)
            self.execute()
            return getattr(self, name)
        if self._state == "executing":
            with _LOCK:  # another thread waits until the module is executed
                if name in self.__dict__:
                    return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        self.execute()
        return list(super().__dir__())

    @property
    def executed(self) -> bool:
        """Whether the real module has been executed."""
        return self._state != "postponed"

    def execute(self) -> None:
        """Executes the real module's code in this object, unless it was executed before."""
        with _LOCK:
            if self.executed:
                return
            self._state = "executing"
            self.__spec__, self.__loader__ = self._real, self._real.loader
            if self._folders is not None:
                self.__path__ = self._folders
            assert self._real.loader is not None
            try:
                self._real.loader.exec_module(self)
            except BaseException:
                self._state = "postponed"
                raise
            self._state = "executed"

    def import_attribute(self, modules: Sequence[str], name: str) -> Any:
        """Imports submodules of this lazy package, and returns an attribute of the last submodule.

        The package itself is not executed.

        Args:
            modules: names relative to this package, such as `utilities`; at least one. They are
                imported in this order.
            name: name of the attribute.
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
    """Search path (`__path__`) of a lazy package.

    Iterating over the path, as the import of a submodule does, executes the package first.
    """

    def __init__(self, package: LazyModule) -> None:
        super().__init__()
        self._package = package

    @property
    def real(self) -> Sequence[str]:
        """The folders of the search path; reading them does not execute the package."""
        return self._package._folders or []

    def __iter__(self) -> Iterator[str]:
        self._package.execute()
        return iter(self._package.__path__)


class _LazyLoader(Loader):
    """Loader that creates a `LazyModule` and does not execute it."""

    def __init__(self, real: ModuleSpec) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return LazyModule(self._real, SUBSTITUTES[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(MetaPathFinder):
    """Import finder that returns lazy specs for the modules in `SUBSTITUTES`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in WITHOUT_PACKAGE:
            return PathFinder.find_spec(name, getattr(path, "real", path), target)
        real = PathFinder.find_spec(name, path, target) if name in SUBSTITUTES else None
        if real is None or real.loader is None:
            return None
        spec = ModuleSpec(name, _LazyLoader(real), origin=real.origin)
        spec.submodule_search_locations = real.submodule_search_locations
        return spec


def install() -> None:
    """Makes later imports of the modules in `SUBSTITUTES` lazy.

    Modules that are already imported don't change.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _class_for_isinstance(name: str, module: LazyModule) -> type:
    """Returns a class for `isinstance` checks, which replaces the class `name` of a lazy module.

    Before the module is executed, the real class has no instances, so each check is false.
    """

    class Kind(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return module.executed and isinstance(instance, getattr(module, name))

    return Kind(name, (), {})


def _disable(module: LazyModule) -> Callable[..., Any]:
    """Returns a function that replaces `torch._dynamo.disable` of the lazy module.

    `disable` excludes functions from compilation. Nothing is compiled before the module is
    executed, so functions are called directly until then.
    """

    def disable(function: Any = None, *args: Any, **options: Any) -> Any:
        if function is None or module.executed:
            module.execute()
            return module.disable(function, *args, **options)
        disabled: list[Callable[..., Any]] = []

        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            if not module.executed:
                return function(*arguments, **keywords)
            if not disabled:
                disabled.append(module.disable(function, *args, **options))
            return disabled[0](*arguments, **keywords)

        return call

    return disable


def _do_nothing(*args: Any, **options: Any) -> None:
    """Does nothing, whatever the arguments; replaces functions of lazy modules."""


def _when_called(name: str, module: LazyModule) -> Callable[..., Any]:
    """Returns a function that replaces the function `name` of a lazy module.

    Its first call executes the module, and each call calls the real function.
    """

    def call(*args: Any, **options: Any) -> Any:
        module.execute()
        return getattr(module, name)(*args, **options)

    return call


def _import_metric(name: str, file: str, module: LazyModule) -> Any:
    """Imports the class `name` from `torchmetrics.<file>`, but does not execute `torchmetrics`.

    Imports `torchmetrics.utilities` first, to avoid a circular import.
    """
    return module.import_attribute(["utilities", file], name)


SUBSTITUTES: Mapping[str, Mapping[str, Callable[[LazyModule], Any]]] = {
    "torch._dynamo": {
        "OptimizedModule": partial(_class_for_isinstance, "OptimizedModule"),
        "disable": _disable,
        "graph_break": lambda _: _do_nothing,
    },
    "torch._inductor": {},
    "torchmetrics": {
        "Metric": partial(_import_metric, "Metric", "metric"),
        "MetricCollection": partial(_import_metric, "MetricCollection", "collections"),
        "_logger": lambda _: logging.getLogger("torchmetrics"),
    },
    "torchmetrics.utilities.plot": {
        "_AX_TYPE": lambda _: object,
        "_PLOT_OUT_TYPE": lambda _: object,
        "plot_single_or_multi_val": partial(_when_called, "plot_single_or_multi_val"),
    },
}
"""Substitutes of attributes, by lazy module."""

WITHOUT_PACKAGE = frozenset(
    {"torch._dynamo.config", "torch._inductor.config", "torch._inductor.custom_graph_pass"}
)
"""Modules that are imported without executing their lazy package: settings, which torch reads
before it counts operations or disables deterministic algorithms."""
