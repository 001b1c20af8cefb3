"""Exceptions and error messages.

A constructor collects all errors in its arguments with `Checks` and raises one `InvalidArguments`.
The caller that knows where the arguments came from (a config, a command line) converts it into a
`RequestError` whose problems have full key paths. Only `etude.cli` converts exceptions into exit
codes.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TypeGuard

from etude.escaping import printable
from etude.secrets import mask_error

MISSING_VALUE = object()
_PACKAGE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Problem:
    """One error in the input, shown as `where = value: expected EXPECTED (hint)`.

    Attributes:
        where: where the error is: a key path (`model.heads`), or a file and a position
            (`a.txt, line 3, byte 7`).
        expected: what is valid, as a noun phrase that completes "expected ...".
        value: the invalid value; without this argument, the message contains no value.
        hint: the nearest valid choice, or what to do; None for no hint.
    """

    where: str
    expected: str
    value: object = MISSING_VALUE
    hint: str | None = None

    def under(self, prefix: str) -> Problem:
        """Returns a copy with `prefix` before the key: `heads` becomes `model.heads`."""
        if not prefix:
            return self
        return replace(self, where=f"{prefix}.{self.where}" if self.where else prefix)

    def __str__(self) -> str:
        value = "" if self.value is MISSING_VALUE else f" = {_shorten(self.value)}"
        hint = f" ({self.hint})" if self.hint else ""
        return _sanitize(f"{self.where}{value}: expected {self.expected}{hint}")


class EtudeError(Exception):
    """Base class of all errors that are reported to the user; `except EtudeError` catches them all.

    Messages may quote any input, so secrets are masked and control characters are escaped.
    """

    def __str__(self) -> str:
        return _sanitize(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Returns the lines that a notebook shows: the message and the line of the user's code.

        IPython calls this method and shows its result instead of a traceback.
        """
        frames = traceback.extract_tb(self.__traceback__)
        callers = itertools.takewhile(lambda f: not f.filename.startswith(_PACKAGE), frames)
        lines = [f"  line {caller.lineno}: {caller.line}" for caller in list(callers)[-1:]]
        return [f"{type(self).__name__}: {self}", *lines]


class _Problems(EtudeError):
    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[Problem]]]:
        return type(self), (self.problems,)


class InvalidArguments(_Problems, ValueError):
    """Raised for invalid arguments of a constructor or a function; it is also a `ValueError`.

    The attribute `problems` is the list of errors; `where` of each is the name of an argument.
    """


class RequestError(_Problems):
    """Raised for an invalid request (config, data, path), before a run starts or writes files.

    Args:
        problems: the errors in the request. The attribute `problems` is the list of them.
    """


class RunFailed(EtudeError):
    """Raised when a run fails. The status is also saved in the run's folder.

    Args:
        message: why the run failed.
        status: `failed`, `oom` or `diverged`.
        path: folder of the run.
    """

    def __init__(self, message: str, status: str = "failed", path: Path | None = None) -> None:
        super().__init__(message)
        self.status, self.path = status, path

    def __reduce__(self) -> tuple[type, tuple[str, str, Path | None]]:
        return type(self), (str(self), self.status, self.path)


class RunHeld(EtudeError):
    """Raised when the run is in use by another process.

    Args:
        message: which process uses the run.
        hint: text that states what the user can do.
        folder: folder of the run.
    """

    def __init__(
        self,
        message: str,
        hint: str = "set run.wait=true to wait for it",
        folder: Path | None = None,
    ) -> None:
        self.hint, self.folder = hint, folder
        super().__init__(message)


class Interrupted(EtudeError):
    """Raised when a signal stops the run after an optimizer step; the run's state is saved.

    Args:
        signum: signal number (2 for Ctrl-C, 15 for SIGTERM).
        message: text of the error; if empty, it names the signal.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        self.signum = signum
        super().__init__(message or f"interrupted by signal {signum}")

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.signum, str(self))

    def _render_traceback_(self) -> list[str]:
        return [*super()._render_traceback_(), "  to continue, run the cell again"]


def summarize_exception(error: BaseException) -> str:
    """Returns an exception's type and the first line of its message, as text.

    If the exception's `__str__` fails, the text names the error in `__str__` instead.
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception as reason:  # `__str__` may be anyone's code
        lines = [f"(str() of the exception raises {type(reason).__name__})"]
    return ": ".join([type(error).__name__, *lines[:1]])


class Checks:
    """Collects the errors in a constructor's arguments, so that all are reported at once.

    Example:
        checks = Checks()
        checks.that(heads > 0, "heads", heads, "a positive number")
        checks.done()
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def that(
        self, condition: bool, key: str, value: object, expected: str, hint: str | None = None
    ) -> bool:
        """Adds a problem for an argument unless `condition` is true; returns `condition`.

        Args:
            condition: whether the argument is valid.
            key: name of the argument.
            value, expected, hint: see `Problem`.
        """
        if not condition:
            self.problems.append(Problem(key, expected, value, hint))
        return condition

    def positive(self, **values: float) -> None:
        """Adds a problem for each argument that is not above zero, or is not finite.

        Args:
            values: value of each argument, by its name.
        """
        for key, value in values.items():
            self.that(is_real(value) and 0 < value < math.inf, key, value, "a positive number")

    def probability(self, **values: float) -> None:
        """Adds a problem for each argument that is not at least 0 and below 1.

        1 is invalid because a dropout of 1 would drop everything.

        Args:
            values: value of each argument, by its name.
        """
        for key, value in values.items():
            self.that(is_real(value) and 0 <= value < 1, key, value, "a probability in [0, 1)")

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Context manager that catches an error with problems, and adds the problems."""
        try:
            yield
        except _Problems as error:
            self.problems += error.problems

    def done(self) -> None:
        """Raises `InvalidArguments` with all added problems; does nothing if there are none."""
        if self.problems:
            raise InvalidArguments(self.problems)


def is_real(value: object) -> TypeGuard[int | float]:
    """Returns whether a value is an int or a float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Returns a hint such as `did you mean heads?`, with the choice that is most similar to `name`.

    If no choice is similar, returns a hint that lists all choices, or None if there are no choices
    or more than 12.
    """
    options = sorted({str(choice) for choice in choices})
    all_choices = "choose from: " + ", ".join(options) if 0 < len(options) <= 12 else None
    return nearest_of(name, options) or all_choices


def nearest_of(name: str, choices: Iterable[str]) -> str | None:
    """Returns the hint `did you mean CHOICE?`, with the choice most similar to `name`.

    The most similar choice is a key path that ends with `name`, such as `optimizer.lr` for `lr`, or
    else the only choice that begins with `name`, such as `val/accuracy` for `val/acc`.
    Returns None if no choice is similar. Used for messages that already list all choices.
    """
    options = [str(choice) for choice in choices]
    close = sorted((each for each in options if each.endswith(f".{name}")), key=len)
    begun = [each for each in options if len(name) > 2 and each.startswith(name)]
    close = close or (begun if len(begun) == 1 else [])
    close = close or difflib.get_close_matches(name, options, n=1)
    close = close or [each for each in options if sorted(each) == sorted(name)]  # `nona` for `nano`
    return f"did you mean {close[0]}?" if close else None


def _sanitize(text: str) -> str:
    return printable(mask_error(text))


def _shorten(value: object, limit: int = 80) -> str:
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if isinstance(plain, str) and "/" in plain and not re.search(r"\s", plain):
        limit = max(limit, 300)  # the end of a path says most
    text = mask_error(repr(plain))  # masked before it is cut: half a secret is not detected
    return text if len(text) <= limit else text[: limit - 3] + "..."
