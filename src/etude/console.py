"""Terminal output: masks secrets and escapes control characters.

The command replaces standard output and standard error by `SafeStream`s (`guard`), which also
receive the output of `print`, warnings, tracebacks and libraries. Secrets are always masked.
Control characters are always escaped on standard error; on standard output, they are escaped only
if it is a terminal, as by `ls` and `git`. Colours and progress bars come from `rich_console`, which
escapes the texts but not its own control sequences.

In a notebook or a user's program, log messages go to standard output, as plain lines. Notices about
the user's request (`NOTICES`) go to standard error, because standard output may be YAML or JSON.
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
from etude.exclusivity import is_reserved_elsewhere
from etude.secrets import MaskingFormatter, mask_error, mask_secrets

if TYPE_CHECKING:
    from rich.console import Console

_MOVES = re.compile(r"\n*(?:\x1b\[A)+|\r")
"""Cursor movements that the progress bars of `tqdm` write: up some lines, or to the start of a
line."""


class _NamedStream:
    """Wrapper of standard output that adds the name "standard output" to its errors (`OSError`).

    Similarly, errors of files contain the file's name.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def wrapped(self) -> Any:
        """The wrapped stream."""
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


class _NonRaisingStream(_NamedStream):
    """Wrapper of standard error that ignores write errors: a full disk does not end a run."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class _ClosedInput:
    """Replacement of a standard input that was closed before the command started.

    Reading raises `RequestError`.
    """

    encoding = "utf-8"

    @property
    def buffer(self) -> NoReturn:
        self.read()

    def read(self, size: int = -1) -> NoReturn:
        raise RequestError(
            Problem("standard input", "an open stream", hint="use a pipe or `< FILE`, not `<&-`")
        )

    readline = read

    def __iter__(self) -> Iterator[str]:
        self.read()

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """Does nothing, as there is no stream to close."""


def open_closed_streams() -> None:
    """Replaces the standard streams that were closed (`>&-`) before the command started.

    Standard output and standard error are replaced by `/dev/null`, standard input by
    `_ClosedInput`. Their file descriptors are opened, too: otherwise the next opened file would get
    such a descriptor, and text printed to the stream would be written to this file.
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


def discard_unwritten() -> None:
    """Discards output that could not be written (full disk, closed pipe) before the process ends.

    Otherwise Python would try to write the output again at exit, fail, and change the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        inner: Any = stream
        while isinstance(inner, SafeStream | _NamedStream):
            inner = inner.wrapped
        with suppress(ValueError):  # the stream is closed
            try:
                inner.flush()
            except OSError:
                with suppress(OSError):
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, inner.fileno())
                    os.close(null)


class SafeStream:
    """Text stream that masks secrets and escapes control characters.

    Args:
        stream: the stream to write to.
        errors: whether the stream is standard error. If true, text is masked by `mask_error` and
            always escaped. If false, text is masked by `mask_secrets`, and escaped only if the
            stream is a terminal.
    """

    def __init__(self, stream: Any, *, errors: bool) -> None:
        self._stream = _NonRaisingStream(stream) if errors else _NamedStream(stream)
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def terminal(self) -> bool:
        """Whether the stream is a terminal."""
        return bool(self._stream.isatty())

    @property
    def wrapped(self) -> Any:
        """The wrapped stream, for text that is already escaped."""
        return self._stream

    def write(self, text: str) -> int:
        """Writes a text, masked and escaped; returns the number of characters of the text."""
        if not self._errors:
            shown = mask_secrets(text)
            self._stream.write(printable(shown) if self.terminal else shown)
            return len(text)
        moves = _MOVES.match(text) if self.terminal else None
        before = moves[0] if moves is not None and moves[0] in ("\r", text) else ""
        self._stream.write(before + printable(mask_error(text[len(before) :])))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream.

        Standard error raises no errors; other streams raise `OSError`.
        """
        self._stream.flush()

    def writelines(self, lines: Any) -> None:
        """Writes each of the texts `lines`, masked and escaped."""
        for line in lines:
            self.write(line)


def guard() -> None:
    """Replaces standard output and standard error by `SafeStream`s."""
    if not isinstance(sys.stdout, SafeStream):
        sys.stdout = cast("TextIO", SafeStream(sys.stdout, errors=False))
    if not isinstance(sys.stderr, SafeStream):
        sys.stderr = cast("TextIO", SafeStream(sys.stderr, errors=True))


@contextmanager
def guarded() -> Iterator[None]:
    """Context manager in which standard output and standard error are `SafeStream`s."""
    before = sys.stdout, sys.stderr
    guard()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw_stdout() -> TextIO:
    """Returns a stream for generated text, which writes to standard output.

    On a terminal, the stream masks secrets and escapes control characters. In a pipe or a file, it
    writes text unchanged.
    """
    out: Any = sys.stdout
    exactly = isinstance(out, SafeStream) and not out.terminal
    return cast("TextIO", out.wrapped if exactly else out)


BOLD, RED, GREEN, YELLOW = 1, 31, 32, 33


def has_colours() -> bool:
    """Returns whether standard output is a terminal and `NO_COLOR` is unset or empty."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def print_styled(*parts: tuple[str, int | None]) -> None:
    """Prints one line of texts with styles, such as bold or red.

    Without colours (see `has_colours`), only the texts are printed.

    Args:
        parts: pairs of a text and its style: `BOLD`, `RED`, `GREEN`, `YELLOW`, or None.
    """
    if not has_colours():
        print("".join(text for text, _ in parts))
        return
    out: Any = sys.stdout
    stream = out.wrapped if isinstance(out, SafeStream) else out
    for text, style in parts:
        shown = printable(mask_secrets(text))
        stream.write(shown if style is None else f"\x1b[{style}m{shown}\x1b[0m")
    stream.write("\n")


def rich_console(*, stderr: bool = False) -> Console:
    """Returns a Rich console that escapes all texts, but not its own control sequences.

    Args:
        stderr: whether the console writes to standard error instead of standard output.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, *arguments: Any, **options: Any) -> Any:
            for segment in super().render(*arguments, **options):
                text, style, control = segment
                yield segment if control else Segment(printable(text), style)

    stream: Any = sys.stderr if stderr else sys.stdout
    return Escaping(file=stream.wrapped if isinstance(stream, SafeStream) else stream)


def start_live(live: Any) -> None:
    """Starts `live`, a live display of Rich such as a progress bar.

    Text that is printed while the display is active appears above the display. The text is escaped
    first, because Rich would interpret escape sequences for colours and links in the text.
    """
    guarded_before = isinstance(sys.stdout, SafeStream)
    live.start()
    if guarded_before:
        guard()


NOTICES = "etude.notices"
"""Name of the logger of notices about the user's request, such as its overrides."""


class Messages(logging.Handler):
    """Log handler that writes to the current `sys.stdout`, which a notebook or test may replace.

    Args:
        stderr: whether to write all messages to standard error, for commands whose standard output
            is a result. If false, only the messages of the logger `NOTICES` are written to standard
            error.
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
        except OSError:  # the reader of the pipe has ended, or the disk is full; training continues
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def show_messages(*, stderr: bool = False) -> None:
    """Shows Étude's log messages by a log handler, unless the program has its own log handlers.

    Args:
        stderr: whether to write all messages to standard error; if false, only notices (`NOTICES`).
    """
    logger = logging.getLogger("etude")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = Messages(stderr=stderr)
        handler.setFormatter(MaskingFormatter("%(message)s"))
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:  # otherwise the user has chosen a level
            logger.setLevel(logging.INFO)
        logging.getLogger(NOTICES).setLevel(logging.WARNING)  # even if `etude` is set to ERROR


@contextmanager
def redirect_log(stream: TextIO) -> Iterator[None]:
    """Context manager that writes Étude's log messages to `stream` instead of the terminal."""
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


@contextmanager
def hide_messages() -> Iterator[None]:
    """Context manager that hides Étude's log messages below ERROR.

    Used for work that is repeated, such as preparing data again. While another thread trains,
    messages are not hidden, because the log level applies to the whole process.
    """
    if is_reserved_elsewhere():
        yield
        return
    logger = logging.getLogger("etude")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
