"""What this machine has: accelerators, and a compiler for `trainer.compile`."""

from __future__ import annotations

from functools import cache

from etude.errors import Problem


def accelerators() -> list[str]:
    """`cpu` and what else torch can use here, by Lightning's names."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def chosen(accelerator: str) -> str | None:
    """What `auto` or `gpu` come to on this machine; None for what is not here."""
    there = accelerators()
    if accelerator == "auto":
        return there[-1]
    if accelerator == "gpu":
        return there[-1] if len(there) > 1 else None
    return accelerator if accelerator in there else None


def missing_accelerator(accelerator: str) -> Problem | None:
    """Says that there is no such accelerator, and which there are."""
    import torch

    if chosen(accelerator) is not None:
        return None
    there = accelerators()
    hints = [f"trainer.accelerator={there[-1]} trains on what is here"]
    if accelerator in ("gpu", "cuda") and not torch.backends.cuda.is_built():
        hints.append("this torch is built without CUDA")
    expected = f"something that torch finds on this machine: {', '.join(there)}"
    return Problem("trainer.accelerator", expected, accelerator, "; ".join(hints))


@cache
def missing_compiler(kind: str) -> str | None:
    """What torch lacks to compile for an accelerator, None if nothing.

    Args:
        kind: cpu, cuda or mps.
    """
    if kind == "mps":
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    try:
        get_cpp_compiler()
    except Exception:  # torch has several kinds, by version and system
        return "a C++ compiler (g++ or clang++) in PATH, or named by the variable CXX"
    return "the package triton" if kind == "cuda" and not has_triton() else None
