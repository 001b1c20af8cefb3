"""The command `etude`: parses arguments, runs a command and returns its exit code.

Exit codes: 0 success; 1 a run, a job of a sweep or a check failed; 2 the request is invalid; 3 the
run is in use by another process; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP (ignored under `nohup`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import NoReturn

from etude.cli.common import (
    DONE,
    FAILED,
    HELD,
    SIGNALLED,
    WRONG,
    HelpShown,
    as_options,
    forget_arguments,
)
from etude.config.paths import check_current_folder
from etude.console import discard_unwritten, guard, guarded, open_closed_streams, show_messages
from etude.counts import counted
from etude.errors import (
    EtudeError,
    Interrupted,
    InvalidArguments,
    Problem,
    RequestError,
    RunFailed,
    RunHeld,
    nearest,
    summarize_exception,
)
from etude.escaping import printable
from etude.garbage_collection import collect_rarely
from etude.stopping import finish, kill_process, stop_signal, watch_signals

USAGE = """\
usage: etude COMMAND [ARGUMENTS] [--debug]

Trains, evaluates and compares Transformers. A config describes a run; each run is saved in a
folder of its own under experiments/.

Commands:
  etude train [OVERRIDES] [-m]     Train a run, or a sweep with -m; resumes and reuses saved runs
  etude plan [OVERRIDES] [-m]      Show what `train` would do: runs, parameters, FLOPs, memory, time
  etude find-lr [OVERRIDES]        Find a learning rate with a range test; saves no run
  etude data show [OVERRIDES]      Show the data: splits, labels, lengths, examples, a batch
  etude data step RUN N            Show the data that a run used in optimizer step N
  etude data find RUN TEXT         Find the optimizer steps in which a run used a text
  etude generate RUN               Generate text
  etude predict RUN                Predict labels, tags, numbers, answers or translations
  etude evaluate RUN...            Compute metrics on a split or on other files
  etude convert SOURCE DEST        Convert a run or released weights to a Hugging Face folder
  etude runs list [NAME] [FILTER]  List runs, for example those with "optimizer.lr>1e-3" seed=1
  etude runs show RUN              Show one run
  etude runs diff A B              Compare two runs; `etude runs compare` compares several runs
  etude runs group RUN...          Average runs over seeds; `etude runs --help`: other actions
  etude runs verify [RUN...]       Check that runs are unchanged; `etude runs rm` removes runs
  etude reproduce [PAPER...]       Reproduce the claims of a paper

Arguments:
  RUN        a run: its path, the first characters of its signature (see `etude runs list`), or
             its name (the latest finished run of that name)
  OVERRIDES  Hydra overrides, for example experiment=debug model/position=rotary,alibi

Options:
  -h, --help  show this help; `etude COMMAND --help` shows the options of one command
  --version   show the version
  --debug     show the traceback of an error

Exit codes: 0 success, 1 a run or a check failed, 2 invalid request, 3 the run is in use by another
process, 128 + N stopped by signal N.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script: runs a command and ends the process."""
    collect_rarely()
    open_closed_streams()
    guard()  # until the process ends: a traceback of a bug is printed last
    watch_signals()
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    if code > SIGNALLED:  # other threads must not delay the exit that the user requested
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        kill_process(code)
    finish()
    discard_unwritten()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code; never raises `SystemExit`."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the terminal's encoding may lack characters
            stream.reconfigure(errors="replace")
    with guarded():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    forget_arguments()
    debug = "--debug" in arguments
    arguments = [item for item in arguments if item != "--debug"]
    show_messages(stderr=arguments[:1] not in _WITH_MESSAGES_ON_STDOUT)
    signal.signal(signal.SIGTERM, _on_signal)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, _on_signal)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # here, so that an error is reported as the command's
        return code
    except BaseException as error:
        signum = stop_signal()
        # A signal cuts an import short; importing the module again then fails with another error.
        caused = isinstance(error, Exception) and not isinstance(error, (Interrupted, HelpShown))
        if signum is not None and caused and not debug:
            return _report_exception(_Terminated(signum), arguments, debug)
        return _report_exception(error, arguments, debug)


def _report_exception(raised: BaseException, arguments: list[str], debug: bool) -> int:
    """Prints the exception `raised` by a command to standard error, and returns the exit code.

    Args:
        raised: the exception.
        arguments: the arguments of the command, in which an unexpected exception's cause in the
            user's code is searched.
        debug: whether the option `--debug` is given.

    Raises:
        BaseException: if `debug` is true (option `--debug`), most exceptions are also raised again.
            Signals and the exceptions `HelpShown` and `RunHeld` are not.
    """
    try:
        raise raised
    except HelpShown:
        return DONE
    except (RequestError, InvalidArguments) as error:
        return _refuse(error.problems, debug)
    except RunHeld as error:
        _print_error(f"{error}\n  {error.hint}")
        return HELD
    except RunFailed as error:
        _print_error(str(error))
        if debug:
            raise
        return FAILED
    except Interrupted as error:
        _print_error(f"{error}; run the same command again to continue")
        return SIGNALLED + error.signum
    except KeyboardInterrupt:
        _print_error("interrupted")
        return SIGNALLED + signal.SIGINT
    except _Terminated as stop:
        _print_error("interrupted" if stop.signum == signal.SIGINT else "terminated")
        return SIGNALLED + stop.signum
    except EtudeError as error:
        _print_error(str(error))
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except OSError as error:
        if debug:
            raise
        _print_error(
            ": ".join(str(part) for part in (error.strerror or error, error.filename) if part)
        )
        return WRONG
    except BaseException as error:
        # A panic of a Rust library (tokenizers, safetensors) is not an Exception.
        if debug or (not isinstance(error, Exception) and type(error).__name__ != "PanicException"):
            raise
        from etude.cli.unexpected import find_user_fault

        if (problem := find_user_fault(error, arguments)) is not None:
            return _refuse([problem], debug)
        _print_error(
            f"unexpected {summarize_exception(error)}\n"
            "  this is a bug; please report it with the traceback that --debug shows"
        )
        return FAILED


_COMMANDS = (
    "train", "plan", "find-lr", "data", "generate", "predict", "evaluate", "convert", "runs",
    "reproduce",
)  # fmt: skip
"""Names of the commands. Each is implemented by the function and module of the same name, with `_`
for `-`."""


def _command(name: str) -> Callable[[list[str]], int]:
    name = name.replace("-", "_")
    command: Callable[[list[str]], int] = getattr(import_module(f"etude.cli.{name}"), name)
    return command


_WITH_MESSAGES_ON_STDOUT = (["train"], ["find-lr"], ["reproduce"])
"""Commands whose messages go to standard output; the others print their result there."""


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return DONE
    if arguments[0] == "--version":
        from etude import __version__

        print(f"etude {__version__}")
        return DONE
    if arguments[0] in ("-sc", "--shell-completion"):  # the shell passes no command name
        return _complete(arguments)
    if arguments[0] not in _COMMANDS:
        from etude.config.equivalents import hint_to_continue

        hint = hint_to_continue(arguments[0]) or nearest(arguments[0], _COMMANDS)
        raise RequestError(Problem("COMMAND", "a command of etude", arguments[0], hint))
    if broken := [item for item in arguments if "\0" in item]:  # only possible from Python
        expected = "arguments without null characters"
        raise RequestError(Problem(arguments[0], expected, item) for item in broken)
    check_current_folder()
    return _command(arguments[0])(arguments[1:])


def _complete(arguments: list[str]) -> int:
    """Prints the completions of the command line in the environment variable `COMP_LINE`.

    The completions are commands, overrides or runs. `arguments` are the arguments that the shell
    passed; Hydra needs them to complete overrides. Returns the exit code.
    """
    program, _, typed = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    command, after, words = typed.lstrip().partition(" ")
    if program and not after:
        print("\n".join(name for name in _COMMANDS if name.startswith(command)))
        return DONE
    if program and command in ("runs", "generate", "predict", "evaluate", "convert"):
        from etude.cli.completion import completions

        for word in completions(command, words):
            if word == printable(word, line=True):  # the shell does not escape it
                print(word)
        return DONE
    if program and command not in ("train", "plan", "find-lr", "data"):
        return DONE
    os.environ["COMP_LINE"] = f"{program} {words}"
    return _command("train")(arguments)


def _refuse(problems: Sequence[Problem], debug: bool) -> int:
    problems = as_options(problems)
    count = counted(len(problems), "error")
    entries = [str(problem).replace("\n", "\n    ") for problem in problems]
    _print_error(f"{count} in the request:\n" + "\n".join(f"  {entry}" for entry in entries))
    if debug:
        raise RequestError(problems)
    return WRONG


def _print_error(message: str) -> None:
    sys.stderr.write(f"etude: {message}\n")  # in one call: another thread may write too
    sys.stderr.flush()


class _Terminated(BaseException):
    """Raised when a signal that ends the process, such as SIGTERM, arrives outside training.

    It derives from `BaseException`, because libraries may catch `Exception`.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _on_signal(signum: int, frame: FrameType | None) -> None:
    raise _Terminated(signum)
