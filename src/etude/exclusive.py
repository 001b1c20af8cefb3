"""Process-wide state that only one training at a time may use.

Torch's random numbers and settings, and the handlers of signals and messages, belong to the whole
process. Two trainings in two threads would draw from the same generator and end with other numbers
than each has alone. The second one is refused; it never waits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from etude.errors import Problem, RequestError


@dataclass(frozen=True)
class _Holder:
    """Who uses the state: what it does, and in which thread."""

    what: str
    thread: int
    name: str


class _State:
    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.holder: _Holder | None = None


_state = _State()


def _reset() -> None:
    """A forked process has a copy of everything, and shares it with nobody."""
    global _state
    _state = _State()


os.register_at_fork(after_in_child=_reset)


@contextmanager
def exclusively(what: str) -> Iterator[None]:
    """Within, this thread alone uses the process-wide state.

    Args:
        what: what it does with it, such as `etude.train`.

    Raises:
        RequestError: another thread uses it, or this one does already.
    """
    state = _state
    thread = threading.current_thread()
    mine = _Holder(what, threading.get_ident(), thread.name)
    with state.guard:
        other = state.holder
        if other is None:
            state.holder = mine
    if other is not None:
        where = "this thread" if other.thread == mine.thread else f"thread {other.name!r}"
        raise RequestError(
            Problem(
                what,
                "no other training in this process: random numbers are shared by its threads",
                hint=f"{other.what} runs in {where}; `etude train -m` runs several in processes",
            )
        )
    try:
        yield
    finally:
        with state.guard:
            if state.holder is mine:
                state.holder = None


def used_elsewhere() -> bool:
    """Whether another thread of this process uses the state now."""
    holder = _state.holder
    return holder is not None and holder.thread != threading.get_ident()
