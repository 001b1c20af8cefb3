"""Context managers that put a model in evaluation mode and make decoding steps faster.

A decoding step of a small model is mostly Python overhead: dozens of module calls around kernels of
a few microseconds. `fast_decoding` avoids some of this overhead; on exit, it restores every module.
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
def fast_decoding(model: object) -> Iterator[None]:
    """Context manager that puts a model in evaluation mode and speeds up its calls.

    The context manager has no effect on a model that is not an `nn.Module`. Calls are faster for
    two reasons:

    - Parameters and child modules become instance attributes. Without this change, `module.weight`
      is found by `nn.Module.__getattr__`, a Python function that runs after the normal lookup of
      the attribute has failed.
    - `nn.Linear` and layer norms call their kernels directly; large linear layers call the kernel
      of `etude.nn.linear`. Dropout, which has no effect in evaluation mode, is skipped.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    with evaluation_mode(model):
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
def evaluation_mode(model: object) -> Iterator[None]:
    """Context manager that puts a model in evaluation mode.

    On exit, it restores the mode of every submodule.
    """
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
    """Returns the attributes that `fast_decoding` sets on a module: a dict from names to values."""
    shortcuts: dict[str, Any] = {**module._parameters, **module._buffers, **module._modules}
    if type(module) is nn.Dropout:
        shortcuts["forward"] = _identity
    elif "weight" not in shortcuts:  # a parametrised weight is computed at each call
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
