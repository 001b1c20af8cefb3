"""Exit codes, the argument parser and the options that several commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from etude.errors import Problem, RequestError, nearest
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


_SYNONYMS = {"run": ("run", "runs"), "runs": ("run", "runs")}
"""Python arguments to which an argument of a command belongs, if these are several."""


class Parser(argparse.ArgumentParser):
    """Argument parser that raises exceptions instead of ending the process.

    It raises `RequestError` for invalid arguments, and `HelpShown` after `--help` was printed.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed = super().parse_known_args(args, namespace)
        for action in self._actions:
            name = action.option_strings[-1] if action.option_strings else str(action.metavar)
            name_arguments(dict.fromkeys(_SYNONYMS.get(action.dest, (action.dest,)), name))
        return parsed

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
    help_ = f"checkpoint to use: {CHECKPOINTS}"
    parser.add_argument(
        "--checkpoint", dest="which", default="best", metavar="CHECKPOINT", help=help_
    )


def add_translation_search(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the beam search for translations to the parser of a command."""
    help_ = "for translation: number of beams (default: 4)"
    parser.add_argument("--beams", type=int, metavar="N", help=help_)
    help_ = "for translation: divide a text's log-probability by length^X (default: 1)"
    parser.add_argument("--length-penalty", type=float, metavar="X", help=help_)


_ALWAYS = {"config_dir": "--config-dir", "multirun": "-m"}
_names = dict(_ALWAYS)
"""The name on the command line of each Python argument that the command passes on."""


def name_arguments(names: Mapping[str, str]) -> None:
    """Sets the names with which errors of the command refer to arguments of Python functions.

    A parser sets the names of its own arguments when it parses a command line: that of an option
    with `dest="which"`, for the Python argument `which`.

    Args:
        names: dict from Python arguments, such as `which`, to names on the command line, such as
            `--checkpoint`.
    """
    _names.update(names)


def forget_arguments() -> None:
    """Forgets the names that an earlier command of this process has set."""
    _names.clear()
    _names.update(_ALWAYS)


def as_options(problems: Sequence[Problem]) -> list[Problem]:
    """Returns problems that name the command's arguments instead of those of Python functions.

    For example, `length_penalty` becomes `--length-penalty`, and the hint `set beams=1` becomes
    `set --beams 1`. Other problems are returned unchanged.
    """
    return [
        replace(
            problem,
            where=_names.get(problem.where, problem.where),
            expected=_rename_values(problem.expected),
            hint=problem.hint and _rename_values(problem.hint),
        )
        for problem in problems
    ]


def _rename_values(text: str) -> str:
    """Returns a text in which `NAME=VALUE`, for a Python argument NAME, is an option."""

    def option(match: re.Match[str]) -> str:
        name = _names[match[1]]
        return name if match[2] == "True" else f"{name} {match[2]}"

    options = "|".join(key for key, name in _names.items() if name.startswith("-"))
    return re.sub(rf"(?<![\w.])({options})=(\w+)(?: to etude\.\w+)?", option, text)


def split(text: str | None) -> list[str]:
    """Splits a text at commas and drops empty items."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]
