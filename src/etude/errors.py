"""What can go wrong, said to people.

A constructor collects every mistake in its arguments with `Checks` and raises one
`InvalidArguments`; whoever knows where the arguments came from (a config, a command line)
turns it into a `RequestError` whose problems carry full key paths. Only `cli` turns
exceptions into exit codes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from etude.escaping import printable
from etude.secrets import in_errors

MISSING_VALUE = object()


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is, what stands there, what was expected, and a way out.

    Attributes:
        where: a key path (`model.heads`), or a file and a position (`a.txt, line 3, byte 7`).
        expected: what would have been right, as the end of the sentence "expected ...".
        value: what stands there; left out of the message when there is nothing to show.
        hint: the nearest valid choice, or what to do.
    """

    where: str
    expected: str
    value: object = MISSING_VALUE
    hint: str | None = None

    def under(self, prefix: str) -> Problem:
        """The same problem seen from further up: `heads` under `model` is `model.heads`."""
        if not prefix:
            return self
        return replace(self, where=f"{prefix}.{self.where}" if self.where else prefix)

    def __str__(self) -> str:
        value = "" if self.value is MISSING_VALUE else f" = {_short(self.value)}"
        hint = f" ({self.hint})" if self.hint else ""
        return _shown(f"{self.where}{value}: expected {self.expected}{hint}")


class EtudeError(Exception):
    """The root of every error that is meant for a person.

    Its message may quote any input. So it shows no secret, and nothing that a terminal obeys.
    """

    def __str__(self) -> str:
        return _shown(super().__str__())


class _Problems(EtudeError):
    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[Problem]]]:
        return type(self), (self.problems,)


class InvalidArguments(_Problems, ValueError):
    """A constructor or function was given values that cannot work; keys are argument names."""


class RequestError(_Problems):
    """The request was wrong (config, data, path): nothing was started, nothing is left behind."""


class RunFailed(EtudeError):
    """A run began and failed; its record says so.

    Args:
        status: `failed`, `oom` or `diverged`.
        path: the record.
    """

    def __init__(self, message: str, status: str = "failed", path: Path | None = None) -> None:
        super().__init__(message)
        self.status, self.path = status, path

    def __reduce__(self) -> tuple[type, tuple[str, str, Path | None]]:
        return type(self), (str(self), self.status, self.path)


class RunHeld(EtudeError):
    """Another live process holds the run.

    Args:
        hint: what can be done about it.
        folder: the run's.
    """

    def __init__(
        self,
        message: str,
        hint: str = "run.wait=true waits for it",
        folder: Path | None = None,
    ) -> None:
        self.hint, self.folder = hint, folder
        super().__init__(message)


class Interrupted(EtudeError):
    """A signal ended the run at a step boundary; its state is saved.

    Args:
        signum: the signal's number (2 for Ctrl-C, 15 for SIGTERM).
    """

    def __init__(self, signum: int, message: str = "") -> None:
        self.signum = signum
        super().__init__(message or f"interrupted by signal {signum}")

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.signum, str(self))


def described(error: BaseException) -> str:
    """The exception's type and the first line of its message, whatever its `__str__` does."""
    try:
        lines = str(error).strip().splitlines()
    except Exception as reason:  # of a class from anywhere
        lines = [f"(its message raises {type(reason).__name__})"]
    return ": ".join([type(error).__name__, *lines[:1]])


class Checks:
    """Collects the mistakes in a constructor's arguments, so that all are reported at once.

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
        """Notes a problem unless `condition` holds; returns `condition`."""
        if not condition:
            self.problems.append(Problem(key, expected, value, hint))
        return condition

    def positive(self, **values: float) -> None:
        """Each value must be above zero and finite."""
        for key, value in values.items():
            self.that(is_real(value) and 0 < value < math.inf, key, value, "a positive number")

    def probability(self, **values: float) -> None:
        """Each value must lie in [0, 1): a dropout of 1 would leave nothing."""
        for key, value in values.items():
            self.that(is_real(value) and 0 <= value < 1, key, value, "a probability in [0, 1)")

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Notes what a constructor within refuses, instead of raising it."""
        try:
            yield
        except InvalidArguments as error:
            self.problems += error.problems

    def done(self) -> None:
        """Raises `InvalidArguments` with everything that was noted, if anything was."""
        if self.problems:
            raise InvalidArguments(self.problems)


def is_real(value: object) -> TypeGuard[int | float]:
    """Whether it is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """A hint naming the choice closest to `name`, or all choices if there are few."""
    options = sorted({str(choice) for choice in choices})
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    if 0 < len(options) <= 12:
        return "choose from: " + ", ".join(options)
    return None


def _shown(text: str) -> str:
    return printable(in_errors(text))


def _short(value: object, limit: int = 80) -> str:
    text = in_errors(repr(value))  # before it is cut: half a secret is not recognised
    return text if len(text) <= limit else text[: limit - 3] + "..."
