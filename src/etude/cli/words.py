"""What the commands share: exit codes, and a parser whose mistakes are told as all others are."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from etude.errors import InvalidArguments, Problem, RequestError
from etude.stopping import SIGNALLED as SIGNALLED

DONE, FAILED, WRONG, HELD = 0, 1, 2, 3

CHECKPOINTS = "best, last, a step, average (of all kept) or average:K, of the last K (best)"


class HelpShown(Exception):
    """`--help` was asked for and printed: nothing else is to be done."""


class Parser(argparse.ArgumentParser):
    """Argparse that raises instead of ending the process: a `RequestError` of a mistake."""

    def error(self, message: str) -> NoReturn:
        hint = f"{message}; `{self.prog} --help` says more"
        raise RequestError(Problem(self.prog, "a valid call", hint=hint))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


def parser_for(command: str, description: str) -> argparse.ArgumentParser:
    return Parser(prog=f"etude {command}", description=description, allow_abbrev=False)


def with_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=_folder, default="experiments", help="the folder of runs (experiments)"
    )


def _folder(typed: str) -> str:
    if not typed:
        raise argparse.ArgumentTypeError("the path of a folder is expected, not an empty text")
    return typed


def with_output(parser: argparse.ArgumentParser, help_: str) -> None:
    parser.add_argument("--output", type=_output, metavar="FILE", help=help_)


def _output(typed: str) -> Path:
    """A file that may be written or replaced: where a link points to, and no part of a record."""
    from etude.records.registry import check_outside

    file = Path(typed).resolve() if Path(typed).is_symlink() else Path(typed)
    if not typed or (file.exists() and not file.is_file()):
        kind = "it is a folder" if file.is_dir() else "it is there, and no file"
        raise RequestError(Problem("--output", "a file, or a place where none is", typed, kind))
    check_outside(file, "--output")
    return file


def with_trust(parser: argparse.ArgumentParser) -> None:
    help_ = "modules whose classes a record from someone else may name"
    parser.add_argument(
        "--trust", metavar="MODULE", nargs="+", action="extend", default=[], help=help_
    )


def with_quoting(parser: argparse.ArgumentParser) -> None:
    help_ = "of quotation marks in CSV and TSV files: csv or none (as the run's data, or decided)"
    parser.add_argument("--quoting", choices=("csv", "none"), help=help_)


@contextmanager
def as_options() -> Iterator[None]:
    """Reports problems with arguments of Python under the names of the command's options."""
    try:
        yield
    except (InvalidArguments, RequestError) as error:
        raise RequestError([as_option(problem) for problem in error.problems]) from error


def as_option(problem: Problem) -> Problem:
    """The problem under the option's name."""
    if not problem.where.isidentifier() or problem.where == "RUN":
        return problem
    return replace(problem, where="--" + problem.where.replace("_", "-"))


def split(words: str | None) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in (words or "").split(",") if word.strip()]
