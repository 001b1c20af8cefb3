"""Exclusive use of process-wide state by one training at a time.

Torch's random generator and settings, and the handlers of signals and log messages, belong to the
whole process. Two trainings in two threads would share the generator, so each would get other
results than alone. A second training is therefore refused; it does not wait.
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
    """The operation that has reserved the process-wide state.

    Attributes:
        what: name of the operation, such as `etude.train`.
        thread, name: identifier and name of the thread that runs the operation.
    """

    what: str
    thread: int
    name: str


class _State:
    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.holder: _Holder | None = None


_state = _State()


def _reset() -> None:
    """Releases the process-wide state in a forked process, in which no training runs.

    The forked process has its own copy of the state.
    """
    global _state
    _state = _State()


os.register_at_fork(after_in_child=_reset)


@contextmanager
def reserve_process(what: str) -> Iterator[None]:
    """Context manager that reserves the process-wide state for the operation of this thread.

    During the block, no other operation can reserve the state.

    Args:
        what: name of the operation, such as `etude.train`.

    Raises:
        RequestError: the state is already reserved, by another thread or by this thread.
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
                "no other training in this process",
                hint=f"{other.what} runs in {where}, and threads share the random generator; "
                "to train in parallel processes, use `etude train -m`",
            )
        )
    try:
        yield
    finally:
        with state.guard:
            if state.holder is mine:
                state.holder = None


def is_reserved_elsewhere() -> bool:
    """Returns whether another thread of this process has reserved the process-wide state."""
    holder = _state.holder
    return holder is not None and holder.thread != threading.get_ident()
