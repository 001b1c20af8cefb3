"""Calling a model once a token: cheaply, and without changing what it is.

A decoding step of a small model is mostly Python: dozens of module calls around kernels of a few
microseconds. `decoding` takes away what can be avoided, and gives every module back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.nn.linear import SMALL, linear


@contextmanager
def decoding(model: object) -> Iterator[None]:
    """Within, `model` is in evaluation mode and cheap to call; only an `nn.Module` is touched.

    - Parameters and children are plain attributes. `module.weight` else goes through
      `nn.Module.__getattr__`, which is Python and comes after the ordinary look-up has failed.
    - `nn.Linear` and layer norms call their kernel directly, products that are not small the one of
      `etude.nn.linear`; dropout, which does nothing when evaluating, calls none.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    with evaluating(model):
        added: list[tuple[dict[str, Any], str]] = []
        for module in modules:
            for name, value in _shortcuts(module).items():
                if name not in module.__dict__:
                    module.__dict__[name] = value
                    added.append((module.__dict__, name))
        try:
            yield
        finally:
            for attributes, name in added:
                attributes.pop(name, None)


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation mode within; afterwards every submodule is as it was, frozen ones too."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def _shortcuts(module: nn.Module) -> dict[str, Any]:
    """What a module finds under its own names while it decodes."""
    shortcuts: dict[str, Any] = {**module._parameters, **module._buffers, **module._modules}
    if type(module) is nn.Dropout:
        shortcuts["forward"] = _identity
    elif "weight" not in shortcuts:  # else it may be computed anew at each call
        pass
    elif type(module) is nn.Linear:
        product = linear if module.weight.numel() >= SMALL else F.linear
        shortcuts["forward"] = partial(product, weight=module.weight, bias=module.bias)
    elif isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward:
        shortcuts["forward"] = partial(
            torch.layer_norm,
            normalized_shape=module.normalized_shape,
            weight=module.weight,
            bias=module.bias,
            eps=module.eps,
        )
    return shortcuts


def _identity(x: Tensor) -> Tensor:
    return x
