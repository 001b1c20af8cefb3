"""Calls of the library `tokenizers` that a tokenizer of a stranger can bring down.

It is written in Rust, which ends a call that went wrong with a panic. In Python that is a
`PanicException`, which is no `Exception`, so that nobody catches it by mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etude.errors import Problem, RequestError


@contextmanager
def no_panic(name: str) -> Iterator[None]:
    """Makes an error for people of a panic, and of nothing else.

    Args:
        name: of the tokenizer's file.

    Raises:
        RequestError: the library panicked; says what it said.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        told = " ".join(str(error).split())[:500]
        expected = "a tokenizer that the library tokenizers can work with"
        raise RequestError(Problem(name, expected, hint=f"it broke off: {told}")) from error
