"""Parses the arguments of `etude train` and `etude plan`: Hydra's options and overrides."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

from etude.config.compose import (
    HYDRA_VERSION_BASE,
    add_plus_signs,
    compose,
    quote_unicode,
)
from etude.config.equivalents import equivalent_of, own_file_hint
from etude.config.paths import conf_dir
from etude.config.schema import ROOT_KEYS
from etude.config.yaml_file import strict_files
from etude.errors import Problem, RequestError, nearest
from etude.secrets import mask_keys

_FLAGS = ("-m", "--multirun", "--resolve")
_WITH_VALUE = ("--config-dir", "-cd", "--cfg", "-c", "--package", "-p")
_QUESTIONS = ("--help", "-h", "--hydra-help", "--info", "-i", "--cfg", "-c", "-sc")
_INFO_TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass
class Request:
    """The parsed arguments of `etude train` or `etude plan`.

    Attributes:
        overrides: the overrides, as typed.
        multirun: whether to run a sweep.
        config_dir: folder with the user's configs; None without `--config-dir`.
        question: the option that shows information instead of training (`--cfg`, `--help`, ...);
            None without such an option.
        options: all options except `-m`, with their values, as typed.
    """

    overrides: list[str] = field(default_factory=list)
    multirun: bool = False
    config_dir: str | None = None
    question: str | None = None
    options: list[str] = field(default_factory=list)


def parse(arguments: Sequence[str], command: str = "train", further: Sequence[str] = ()) -> Request:
    """Parses the arguments of a command: separates options from overrides, which may be mixed.

    Args:
        arguments: the arguments of the command.
        command: name of the command, for messages.
        further: options of the command that the caller has removed already, for suggestions.

    Raises:
        RequestError: an option is unknown or lacks its value.
    """
    request = Request()
    problems: list[Problem] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            request.overrides.append(quote_unicode(word))
            continue
        if option in _QUESTIONS or option == "--shell-completion":
            request.question = request.question or option
        if option in ("-m", "--multirun"):
            request.multirun = True
            continue
        request.options.append(word)
        if option in _WITH_VALUE:
            if not equals:
                value = words.pop(0) if words else ""
                request.options.append(value)
            if not value:
                raise RequestError(Problem(option, "a value after the option"))
            if option in ("--config-dir", "-cd"):
                request.config_dir = value
        elif option in ("--info", "-i"):
            if words and words[0] in _INFO_TOPICS:
                request.options.append(words.pop(0))
        elif option not in (*_QUESTIONS, *_FLAGS, "--shell-completion"):
            options = (*_FLAGS, *_WITH_VALUE, *_QUESTIONS, *further, "--debug")
            name = option.lstrip("-")
            hint = equivalent_of(option) or nearest(option, options)
            given = value or next(iter(words), "VALUE")
            if name in (*ROOT_KEYS, "experiment", "sweep"):  # such as `--experiment debug`
                hint = f"use {name}={given}"
            hint = own_file_hint(given) or hint
            problems.append(Problem("option", f"an option of `etude {command}`", word, hint))
            if not equals and words and "=" not in words[0] and not words[0].startswith("-"):
                words.pop(0)  # its value
    if problems:
        raise RequestError(problems)
    return request


def answer(request: Request) -> int:
    """Runs Hydra for options that show information: `--cfg`, `--info`, shell completion.

    Returns:
        The exit code.

    Raises:
        RequestError: the config of `--cfg` or `--info` cannot be composed, or has errors. In the
            second case, it is printed nevertheless.
    """
    import hydra

    completion = request.question in ("-sc", "--shell-completion")
    overrides = request.overrides if completion else [add_plus_signs(o) for o in request.overrides]
    before = sys.argv
    # Hydra's parser needs the options first; completion is installed for the program's name.
    sys.argv = ["etude" if completion else "etude train", *request.options, *overrides]
    errors, output = io.StringIO(), io.StringIO()
    code = 0
    try:
        with redirect_stderr(errors), redirect_stdout(output), strict_files():
            hydra.main(
                version_base=HYDRA_VERSION_BASE, config_path=str(conf_dir()), config_name="train"
            )(lambda config: None)()
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.argv = before
    if code and request.question in ("--cfg", "-c", "--info", "-i"):
        compose(request.overrides, config_dir=request.config_dir)  # raises a `RequestError`
    print(mask_keys(output.getvalue()), end="")
    print(errors.getvalue(), end="", file=sys.stderr)
    if not code and request.question in ("--cfg", "-c", "--info", "-i"):
        config = compose(request.overrides, config_dir=request.config_dir)
        if config.init_from.source is None:  # otherwise the model is that of the source
            from etude.config.checks import check  # heavy: it imports constructors

            check(config)
    return code
