"""Sites: named intermediate values of a module, which can be captured and replaced.

A module lists its sites in the attribute `own_sites`, with a letter for each dimension, and passes
each value through `site`:

    class Gated(nn.Module):
        own_sites = {"gate": "B T F"}

        def forward(self, x: Tensor) -> Tensor:
            gate = site(self, "gate", self.gate(x).sigmoid())
            return self.down(gate * self.up(x))

Letters: B sequences, T tokens (queries), S keys, D model width, H heads, G key-value heads, K head
dimension, F width of the feed-forward module, V vocabulary, L labels. The input and the output of a
module need no call: `etude.activations` reads them with hooks.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Handler(Protocol):
    """Function that receives each value of a site, and returns the value to continue with.

    Attributes:
        replaces: whether the returned value can differ from the received one.
    """

    replaces: bool

    def __call__(self, value: Tensor) -> Tensor: ...


class Tap:
    """The handlers of a module's sites, while values of the module are captured or replaced.

    It is the module's attribute `tap`, which is None at other times.

    Attributes:
        handlers: the handlers of each site, in the order in which they are called.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, list[Handler]] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for handler in self.handlers.get(name, ()):
            value = handler(value)
        return value

    def wants(self, *names: str) -> bool:
        """Returns whether one of the sites is captured or replaced."""
        return any(self.handlers.get(name) for name in names)

    def replaces(self, *names: str) -> bool:
        """Returns whether one of the sites is replaced."""
        return any(handler.replaces for name in names for handler in self.handlers.get(name, ()))


def site(module: nn.Module, name: str, value: Tensor) -> Tensor:
    """Returns the value with which `module` continues at one of its sites.

    This is `value` itself, unless the site is being replaced.

    Args:
        module: the module that computed the value.
        name: name of the site, as in the attribute `own_sites` of the module's class.
        value: the value.
    """
    tap: Tap | None = getattr(module, "tap", None)
    return value if tap is None else tap(name, value)
