"""Handling of panics of the `tokenizers` library, which an invalid tokenizer can cause.

The library is written in Rust; a panic is a `PanicException` in Python, which is not an
`Exception`, so that `except Exception` does not catch it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etude.errors import Problem, RequestError


@contextmanager
def no_panic(name: str) -> Iterator[None]:
    """Context manager that converts a panic, and no other exception, into a `RequestError`.

    Args:
        name: the name of the tokenizer's file.

    Raises:
        RequestError: if the library panicked; contains its message.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        message = " ".join(str(error).split())[:500]
        expected = "a tokenizer that the `tokenizers` library can run"
        hint = f"the library failed with an internal error: {message}"
        raise RequestError(Problem(name, expected, hint=hint)) from error
