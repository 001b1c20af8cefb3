"""Exit codes, the argument parser and the options that several commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from etude.errors import InvalidArguments, Problem, RequestError, nearest
from etude.stopping import SIGNALLED as SIGNALLED

DONE, FAILED, WRONG, HELD = 0, 1, 2, 3

CHECKPOINTS = (
    "best, last, a step (such as 1000), average (mean of the weights of all saved checkpoints) or "
    "average:K (mean of the last K checkpoints) (default: best)"
)
RUN = "run: its path, the first characters of its signature (see `etude runs list`), or its name"
"""Help text of the argument RUN."""


class HelpShown(Exception):
    """Raised after `--help` was printed; the command ends with exit code 0."""


_OTHER_NAMES = {
    "--input": ("--file", "--prompt", "--data"),
    "--inputs": ("--file",),
    "--ckpt": ("--checkpoint",),
    "--step": ("--checkpoint",),
    "--text": ("--prompt",),
    "--texts": ("--text", "--prompt"),
    "--prompts": ("--prompt",),
    "--test": ("--split",),
    "--metrics": ("--metric",),
    "--out": ("--output",),
}
"""Names that users type for options."""


class Parser(argparse.ArgumentParser):
    """Argument parser that raises exceptions instead of ending the process.

    It raises `RequestError` for invalid arguments, and `HelpShown` after `--help` was printed.
    """

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+|.*)", message)
        near = self._nearest_option(unknown[1]) if unknown else None
        hint = f"{message}; {near or f'see `{self.prog} --help`'}"
        raise RequestError(Problem(self.prog, "valid arguments", hint=hint))

    def _nearest_option(self, typed: str) -> str | None:
        """Returns a hint at the option that the user may have meant instead of an unknown argument,
        or at the command that has it.

        If the unknown argument is no option, the hint is the option that passes a text. Returns
        None if there is no hint.

        Args:
            typed: the unknown argument; if it is an option, only its name, such as `--text`.
        """
        options = self._option_string_actions
        if not typed.startswith("-"):
            option = next((each for each in ("--text", "--prompt") if each in options), None)
            return option and f"to pass a text, use {option}"
        meant = next((o for o in _OTHER_NAMES.get(typed, ()) if o in options), None)
        if meant is not None:
            return f"use {meant}"
        if typed in ("--text", "--file") and self.prog == "etude evaluate":
            return f"to predict from texts, use `etude predict RUN {typed} ...`"
        return nearest(typed, list(options))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Returns the argument parser of `etude COMMAND`; options must be typed in full."""
    return Parser(prog=f"etude {command}", description=description, allow_abbrev=False)


def add_root(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--root` to the parser of a command."""
    help_ = "folder of all runs (default: experiments)"
    parser.add_argument("--root", type=_folder, metavar="DIR", default="experiments", help=help_)


def _folder(typed: str) -> str:
    if not typed:
        raise argparse.ArgumentTypeError("expected the path of a folder, not an empty string")
    return typed


def add_output(parser: argparse.ArgumentParser, help_: str) -> None:
    """Adds the option `--output` to the parser of a command."""
    parser.add_argument("--output", type=_output, metavar="FILE", help=help_)


def _output(typed: str) -> Path:
    """Converts the value of the option `--output` to a path, and resolves a symbolic link.

    The file need not exist.

    Raises:
        RequestError: the path is empty, exists but is not a regular file, or is inside the folder
            of a run.
    """
    from etude.records.registry import check_outside

    file = Path(typed).resolve() if Path(typed).is_symlink() else Path(typed)
    if not typed or (file.exists() and not file.is_file()):
        kind = "it is a folder" if file.is_dir() else "this path exists, but is not a regular file"
        raise RequestError(Problem("--output", "the path of a file", typed, kind))
    check_outside(file, "--output")
    return file


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--trust` to the parser of a command."""
    help_ = "modules that Étude may import if the run's config names classes in these modules"
    parser.add_argument(
        "--trust", metavar="MODULE", nargs="+", action="extend", default=[], help=help_
    )


def add_quoting(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--quoting` to the parser of a command."""
    help_ = (
        "meaning of quotation marks in CSV and TSV files: csv if they enclose fields, none if they "
        "are part of the text (default: the setting of the run's data; if it has none, detected)"
    )
    parser.add_argument("--quoting", choices=("csv", "none"), help=help_)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--checkpoint` to the parser of a command."""
    parser.add_argument("--checkpoint", default="best", help=f"checkpoint to use: {CHECKPOINTS}")


def add_translation_search(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the beam search for translations to the parser of a command."""
    help_ = "for translation: number of beams (default: 4)"
    parser.add_argument("--beams", type=int, metavar="N", help=help_)
    help_ = "for translation: divide a text's log-probability by length^X (default: 1)"
    parser.add_argument("--length-penalty", type=float, metavar="X", help=help_)


@contextmanager
def as_options() -> Iterator[None]:
    """Context manager in which errors name the options of the command.

    An error about an argument of a function, such as `length_penalty`, becomes an error about the
    option `--length-penalty`. An `InvalidArguments` or `RequestError` in the block is raised as a
    new `RequestError`; other exceptions are unchanged.
    """
    try:
        yield
    except (InvalidArguments, RequestError) as error:
        raise RequestError([as_option(problem) for problem in error.problems]) from error


def as_option(problem: Problem) -> Problem:
    """Returns a problem that names an option instead of an argument of a function.

    For example, `length_penalty` becomes `--length-penalty`. Other problems are returned unchanged.
    """
    if not problem.where.isidentifier() or problem.where == "RUN":
        return problem
    return replace(problem, where="--" + problem.where.replace("_", "-"))


def split(text: str | None) -> list[str]:
    """Splits a text at commas and drops empty items."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]
