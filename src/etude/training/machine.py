"""Accelerators of this machine, and its compiler for `trainer.compile`."""

from __future__ import annotations

from functools import cache

from etude.errors import Problem


def accelerators() -> list[str]:
    """Returns Lightning's names of the accelerators that torch can use on this machine, `cpu`
    first.
    """
    import torch

    names = ["cpu"]
    if torch.cuda.is_available():
        names.append("cuda")
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def select_accelerator(accelerator: str) -> str | None:
    """Returns the accelerator (`cpu`, `cuda` or `mps`) that a value of `trainer.accelerator`
    selects on this machine; None if this machine doesn't have it.
    """
    available = accelerators()
    if accelerator == "auto":
        return available[-1]
    if accelerator == "gpu":
        return available[-1] if len(available) > 1 else None
    return accelerator if accelerator in available else None


def missing_accelerator(accelerator: str) -> Problem | None:
    """Returns a problem if this machine lacks the accelerator that `trainer.accelerator` selects,
    otherwise None.
    """
    import torch

    if select_accelerator(accelerator) is not None:
        return None
    available = accelerators()
    hints = [f"set trainer.accelerator={available[-1]}"]
    if accelerator in ("gpu", "cuda") and not torch.backends.cuda.is_built():
        hints.append("the installed torch is built without CUDA")
    expected = f"an accelerator of this machine: {', '.join(available)}"
    return Problem("trainer.accelerator", expected, accelerator, "; ".join(hints))


@cache
def missing_compiler(kind: str) -> str | None:
    """Returns the compiler or package that `torch.compile` needs and this machine lacks, as text
    for an error message; None if nothing is missing.

    Args:
        kind: Accelerator: `cpu`, `cuda` or `mps`.
    """
    if kind == "mps":
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    try:
        get_cpp_compiler()
    except Exception:  # its type depends on the version of torch and on the system
        return "a C++ compiler (g++ or clang++ in PATH, or the environment variable CXX)"
    return "the Python package triton" if kind == "cuda" and not has_triton() else None
