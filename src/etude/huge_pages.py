"""Huge pages for large CPU tensors, where Linux offers them.

The system fills the pages of each new large tensor with zeros. With pages of 4 KB, this took a
third of a training step with the logits of GPT-2's vocabulary and 256 dimensions; with pages of
2 MB it is hardly measurable. Torch also aligns such tensors to 2 MB, so that freed blocks fit
again: with glibc 2.36 and torch's usual alignment, the memory of a process could grow with every
step.
"""

from __future__ import annotations

import os

VARIABLE = "THP_MEM_ALLOC_ENABLE"
"""Environment variable of torch; its first allocation reads it."""


def enable_huge_pages() -> None:
    """Makes torch allocate tensors from 2 MB in huge pages, unless the environment decides it."""
    os.environ.setdefault(VARIABLE, "1")
