"""The one way to the terminal: what is shown there holds no secret and nothing that it would obey.

The command puts an `Outlet` in the place of both outputs (`guard`), so that no `print`, warning,
traceback or library goes around it. Standard error is escaped wherever it goes; standard output
is where it is a terminal, and in a pipe or file stays as it is, as `ls` and `git` do it. Colours
and bars are drawn by `rich_console`, which writes them itself and escapes the texts between.

In a notebook or a program of the user's, messages go to standard output, as plain lines. Notices
about the request go to standard error, as standard output may be YAML or JSON.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from etude.errors import Problem, RequestError
from etude.escaping import printable
from etude.secrets import MaskingFormatter, hidden, in_errors

if TYPE_CHECKING:
    from rich.console import Console

_MOVES = re.compile(r"\n*(?:\x1b\[A)+|\r")
"""What tqdm, the bars of other libraries, writes to a terminal beside text: up some lines, or back
to the beginning of its own."""


class _Named:
    """A stream whose errors name it, as those of files do."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def beneath(self) -> Any:
        """The stream whose errors it names."""
        return self._stream

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text) or 0)
        except OSError as error:
            error.filename = error.filename or "standard output"
            raise

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            error.filename = error.filename or "standard output"
            raise


class _Quiet(_Named):
    """Standard error: where it takes nothing (a full disk), no work ends for a message."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class _ClosedInput:
    """Standard input that was closed before the command began. Reading it is an error."""

    encoding = "utf-8"

    @property
    def buffer(self) -> NoReturn:
        self.read()

    def read(self, size: int = -1) -> NoReturn:
        raise RequestError(Problem("standard input", "something to read; it is closed"))

    readline = read

    def __iter__(self) -> Iterator[str]:
        self.read()

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """There is nothing to close."""


def open_closed() -> None:
    """Puts `/dev/null` in the place of outputs that were closed before the command began (`>&-`),
    and of their descriptors: the next file that is opened would take those, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        empty = _ClosedInput() if name == "stdin" else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, empty)


def drop_unwritten() -> None:
    """What an output did not take (a full disk, a reader who has left) is not tried once more when
    the process ends: Python would report that, with an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        beneath: Any = stream
        while isinstance(beneath, Outlet | _Named):
            beneath = beneath.beneath
        with suppress(ValueError):  # it is closed
            try:
                beneath.flush()
            except OSError:
                with suppress(OSError):
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, beneath.fileno())
                    os.close(null)


class Outlet:
    """A text stream that writes to another what may be shown there.

    Args:
        stream: where it goes.
        errors: it is standard error: all is escaped and masked as error messages are.
    """

    def __init__(self, stream: Any, *, errors: bool) -> None:
        self._stream = _Quiet(stream) if errors else _Named(stream)
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def terminal(self) -> bool:
        """Whether somebody looks at it."""
        return bool(self._stream.isatty())

    @property
    def beneath(self) -> Any:
        """The stream itself, for what is escaped already."""
        return self._stream

    def write(self, text: str) -> int:
        """Writes what may be shown of the text."""
        if not self._errors:
            shown = hidden(text)
            self._stream.write(printable(shown) if self.terminal else shown)
            return len(text)
        moves = _MOVES.match(text) if self.terminal else None
        before = moves[0] if moves is not None and moves[0] in ("\r", text) else ""
        self._stream.write(before + printable(in_errors(text[len(before) :])))
        return len(text)

    def flush(self) -> None:
        """Errors name the stream, or are none: see `_Named`."""
        self._stream.flush()

    def writelines(self, lines: Any) -> None:
        """`write` of each."""
        for line in lines:
            self.write(line)


def guard() -> None:
    """From now on both outputs are outlets."""
    if not isinstance(sys.stdout, Outlet):
        sys.stdout = cast("TextIO", Outlet(sys.stdout, errors=False))
    if not isinstance(sys.stderr, Outlet):
        sys.stderr = cast("TextIO", Outlet(sys.stderr, errors=True))


@contextmanager
def guarded() -> Iterator[None]:
    """Both outputs are outlets for as long as this lasts."""
    before = sys.stdout, sys.stderr
    guard()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def exact() -> TextIO:
    """Standard output for a model's own text: escaped on a terminal, else to the last character."""
    out: Any = sys.stdout
    exactly = isinstance(out, Outlet) and not out.terminal
    return cast("TextIO", out.beneath if exactly else out)


def print_bold(line: str) -> None:
    """Prints one line in bold on a terminal."""
    out: Any = sys.stdout
    stream = out.beneath if isinstance(out, Outlet) else out
    stream.write(f"\x1b[1m{printable(hidden(line))}\x1b[0m\n")


def rich_console(*, stderr: bool = False) -> Console:
    """Rich's console with its colours, bars and tables, in which every text is escaped."""
    from rich.console import Console
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, *arguments: Any, **options: Any) -> Any:
            for segment in super().render(*arguments, **options):
                text, style, control = segment
                yield segment if control else Segment(printable(text), style)

    stream: Any = sys.stderr if stderr else sys.stdout
    return Escaping(file=stream.beneath if isinstance(stream, Outlet) else stream)


def start_live(live: Any) -> None:
    """Starts a display of Rich's, above which what is printed meanwhile appears, escaped first:
    Rich takes colours and links from such texts."""
    guarded_before = isinstance(sys.stdout, Outlet)
    live.start()
    if guarded_before:
        guard()


NOTICES = "etude.notices"
"""The logger of notices about the request."""


class Messages(logging.Handler):
    """Writes to whatever `sys.stdout` is at that moment, as a notebook or a test may replace it.

    Args:
        stderr: to standard error instead, where standard output is for a command's result.
    """

    def __init__(self, *, stderr: bool) -> None:
        super().__init__(logging.INFO)
        self.stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        if self.stderr or record.name == NOTICES:
            with suppress(OSError):
                print(self.format(record), file=sys.stderr, flush=True)
            return
        try:
            print(self.format(record), file=sys.stdout, flush=True)
        except OSError:  # whoever read along has left, or the disk is full; training goes on
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def show_messages(*, stderr: bool = False) -> None:
    """Shows messages from now on, once, unless a program has set up handlers of its own.

    Args:
        stderr: all of them on standard error, not notices alone.
    """
    logger = logging.getLogger("etude")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = Messages(stderr=stderr)
        handler.setFormatter(MaskingFormatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logging.getLogger(NOTICES).setLevel(logging.WARNING)  # also where others are silenced


@contextmanager
def logged_to(stream: TextIO) -> Iterator[None]:
    """Within, what would be shown as it happens is written to a stream."""
    logger = logging.getLogger("etude")
    before, level = logger.handlers[:], logger.level
    handler = logging.StreamHandler(stream)
    handler.setFormatter(MaskingFormatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
