"""Runs commands in this process, checks how they end, and groups failures by cause."""

from __future__ import annotations

import hashlib
import resource
import shlex
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

CODES = (0, 1, 2, 3)
CPU_SECONDS = 20
EXTRA_MEMORY = 6 << 30


class Hang(BaseException):
    """Raised when a command exceeds its processor time."""


@contextmanager
def limited() -> Iterator[None]:
    """Limits processor time, and memory beyond the current use."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + EXTRA_MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    Attributes:
        cause: the exception's type and the innermost place in `src/etude`, or the rule broken.
        words: the command.
        detail: what the files were, and what was printed.
    """

    cause: str
    words: tuple[str, ...]
    detail: str

    @property
    def size(self) -> int:
        return sum(map(len, self.words)) + len(self.detail.partition("\n")[0])


@dataclass
class Failures:
    """The smallest example of each cause, and its number of occurrences."""

    smallest: dict[str, Failure] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, failure: Failure) -> None:
        self.counts[failure.cause] = self.counts.get(failure.cause, 0) + 1
        best = self.smallest.get(failure.cause)
        if best is None or failure.size < best.size:
            self.smallest[failure.cause] = failure

    def __str__(self) -> str:
        return "\n\n".join(
            f"{self.counts[cause]} x {cause}\n  etude {shlex.join(one.words)}\n  {one.detail}"
            for cause, one in self.smallest.items()
        )


def cause_of(error: BaseException) -> str:
    """Returns the exception's type and the innermost line of Étude in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/src/etude/" in frame.filename]
    inner = own[-1] if own else frames[-1]
    place = inner.filename.partition("/src/")[2] or inner.filename
    return f"{type(error).__name__} at {place}:{inner.lineno} in {inner.name}"


def contents(folder: Path) -> dict[str, str]:
    """Returns the hash of each file below a folder, except locks and logs, which may grow."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink() and file.name not in (".lock", "log.txt")
    }


def judged(
    etude: Callable[..., Any],
    words: Sequence[str],
    where: Path,
    note: str = "",
    keeps: Path | None = None,
    reads: bool = False,
) -> Failure | None:
    """Carries out the command in `where`; None if it ended as documented.

    Args:
        note: what was changed in the files that it reads.
        keeps: a root whose records must not be changed if the command refuses (exit code 2).
        reads: whether the command must not change them however it ends.
    """
    import sys

    from etude import cli

    unexpected: list[str] = []
    print_error = cli._print_error

    def watching(message: str) -> None:
        error = sys.exc_info()[1]
        if "please report it" in message and error is not None:
            unexpected.append(cause_of(error))
        print_error(message)

    def failure(cause: str, printed: str) -> Failure:
        return Failure(cause, tuple(words), f"{note}\n    {printed.strip()[-600:]}")

    before = contents(keeps) if keeps else {}
    cli._print_error = watching
    try:
        with limited():
            answer = etude(*words, cwd=where)
    except Hang as error:
        return failure(f"more than {CPU_SECONDS} s: {cause_of(error)}", "")
    except BaseException as error:
        return failure(f"not caught: {cause_of(error)}", repr(error))
    finally:
        cli._print_error = print_error
    if unexpected:
        return failure(unexpected[0], answer.err)
    if answer.code not in CODES:
        return failure(f"exit code {answer.code}", answer.err)
    if "Traceback (most recent call last)" in answer.err:
        return failure("a traceback on stderr", answer.err)
    if "please report" in answer.err + answer.out:
        return failure("asks for a report", answer.err)
    if keeps and (reads or answer.code == 2) and (after := contents(keeps)) != before:
        changed = sorted(set(after.items()) ^ set(before.items()))
        return failure(
            f"the records changed, exit code {answer.code}", f"{changed[:4]}\n{answer.err}"
        )
    return None
