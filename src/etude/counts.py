"""Formats numbers of things, such as `1 job` and `3,104 jobs`."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Returns a number with a noun in the singular or plural.

    Example:
        >>> [counted(number, "process") for number in (0, 1, 2000)]
        ['0 processes', '1 process', '2,000 processes']
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith(('s', 'ch', 'x')) else 's'}"
