"""The command `etude`: words in, exit codes out.

0 done; 1 the run, or any job of the sweep, failed; 2 the request was wrong; 3 another live process
holds the run; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP, which `nohup` turns off.
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

from etude.cli.words import DONE, FAILED, HELD, SIGNALLED, WRONG, HelpShown
from etude.collecting import collect_rarely
from etude.config.paths import check_current_folder
from etude.console import drop_unwritten, guard, guarded, open_closed, show_messages
from etude.errors import (
    EtudeError,
    Interrupted,
    InvalidArguments,
    Problem,
    RequestError,
    RunFailed,
    RunHeld,
    described,
    nearest,
)
from etude.escaping import printable
from etude.stopping import finish, leave, stopped_by, watch_signals

USAGE = """\
usage: etude COMMAND ...

  etude train [OVERRIDES] [-m]     one run, or a sweep; the same command continues or reuses it
  etude plan [OVERRIDES] [-m]      what would run: which are done, parameters, FLOPs, memory, time
  etude find-lr [OVERRIDES]        at which learning rate the loss falls most; leaves no run
  etude data show [OVERRIDES]      what it would read: splits, labels, lengths, examples, a batch
  etude data step RUN N            what a step of a run has read: documents, places, targets
  etude data find RUN TEXT         which steps of a run have read a text
  etude generate RUN               text from a run
  etude predict RUN                labels, tags or translations of texts, by a run
  etude evaluate RUN...            what runs score on a split, or on other files; predictions kept
  etude convert SOURCE DEST        released weights or a run into a Hugging Face folder, measured
  etude runs list [NAME] [FILTER]  the runs under experiments/: "optimizer.lr>1e-3", seed=1
  etude runs show RUN              one of them
  etude runs diff A B              what differs between two; `compare`: between several, with curves
  etude runs group RUN...          means over seeds; `significance`, `plot`, `export`: see --help
  etude runs verify [RUN...]       whether records are as they were written; `rm` removes some
  etude reproduce [PAPER...]       a paper's claim, measured here

`etude COMMAND --help` says more. A RUN is a path, a signature prefix, or a name (its latest
finished run). Overrides are Hydra's: `etude train experiment=debug model/position=rotary,alibi -m`.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    collect_rarely()
    open_closed()
    guard()  # to the end, as what a bug leaves is printed last
    watch_signals()
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    if code > SIGNALLED:  # what else is still going on must not keep who asked for a stop waiting
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        leave(code)
    finish()
    drop_unwritten()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Carries out one command and returns its exit code; nothing below this calls `sys.exit`."""
    open_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may lack a character of a sample
            stream.reconfigure(errors="replace")
    with guarded():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = [item for item in arguments if item != "--debug"]
    show_messages(stderr=arguments[:1] not in _REPORTING)
    signal.signal(signal.SIGTERM, _on_signal)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, _on_signal)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # an error of it is the command's
        return code
    except BaseException as error:
        signum = stopped_by()  # what was cut short, such as an import, fails when it is repeated
        follows = isinstance(error, Exception) and not isinstance(error, (Interrupted, HelpShown))
        if signum is not None and follows and not debug:
            return _outcome(_Terminated(signum), arguments, debug)
        return _outcome(error, arguments, debug)


def _outcome(raised: BaseException, arguments: list[str], debug: bool) -> int:
    """The exit code of what a command raised, which is reported.

    Raises:
        BaseException: what was raised, where its traceback is asked for.
    """
    try:
        raise raised
    except HelpShown:
        return DONE
    except RequestError as error:
        return _refuse(error.problems, debug)
    except InvalidArguments as error:
        return _refuse(error.problems, debug)
    except RunHeld as error:
        _say(f"{error}\n  {error.hint}")
        return HELD
    except RunFailed as error:
        _say(str(error))
        if debug:
            raise
        return FAILED
    except Interrupted as error:
        _say(f"{error}; the same command goes on")
        return SIGNALLED + error.signum
    except KeyboardInterrupt:
        _say("interrupted")
        return SIGNALLED + signal.SIGINT
    except _Terminated as stop:
        _say("interrupted" if stop.signum == signal.SIGINT else "terminated")
        return SIGNALLED + stop.signum
    except EtudeError as error:
        _say(str(error))
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except OSError as error:
        if debug:
            raise
        _say(": ".join(str(part) for part in (error.strerror or error, error.filename) if part))
        return WRONG
    except BaseException as error:
        # A panic of a library in Rust (tokenizers, safetensors) is no Exception.
        if debug or (not isinstance(error, Exception) and type(error).__name__ != "PanicException"):
            raise
        from etude.cli.unexpected import fault_of_users_class

        if (problem := fault_of_users_class(error, arguments)) is not None:
            return _refuse([problem], debug)
        _say(f"unexpected {described(error)}\n  --debug shows where; please report it")
        return FAILED


_COMMANDS = (
    "train", "plan", "find-lr", "data", "generate", "predict", "evaluate", "convert", "runs",
    "reproduce",
)  # fmt: skip
"""Each is the function of its name in the module of its name, `-` written `_`."""


def _command(name: str) -> Callable[[list[str]], int]:
    name = name.replace("-", "_")
    command: Callable[[list[str]], int] = getattr(import_module(f"etude.cli.{name}"), name)
    return command


_REPORTING = (["train"], ["find-lr"], ["reproduce"])
"""Their standard output is what happens; that of the others is a result."""


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return DONE
    if arguments[0] == "--version":
        from etude import __version__

        print(f"etude {__version__}")
        return DONE
    if arguments[0] in ("-sc", "--shell-completion"):  # the shell asks without naming a command
        return _complete(arguments)
    if arguments[0] not in _COMMANDS:
        hint = nearest(arguments[0], _COMMANDS)
        raise RequestError(Problem("COMMAND", "one that exists", arguments[0], hint))
    if broken := [item for item in arguments if "\0" in item]:  # from Python: no shell passes one
        expected = "arguments without null characters"
        raise RequestError(Problem(arguments[0], expected, item) for item in broken)
    check_current_folder()
    return _command(arguments[0])(arguments[1:])


def _complete(arguments: list[str]) -> int:
    """Completes the line in `$COMP_LINE`: a command, then Hydra's words or runs."""
    program, _, typed = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    command, after, words = typed.lstrip().partition(" ")
    if program and not after:
        print("\n".join(name for name in _COMMANDS if name.startswith(command)))
        return DONE
    if program and command in ("runs", "generate", "predict", "evaluate", "convert"):
        from etude.cli.completion import completions

        for word in completions(command, words):
            if word == printable(word, line=True):  # the shell prints it as it is
                print(word)
        return DONE
    if program and command not in ("train", "plan", "find-lr", "data"):
        return DONE
    os.environ["COMP_LINE"] = f"{program} {words}"
    return _command("train")(arguments)


def _refuse(problems: Sequence[Problem], debug: bool) -> int:
    count = "a mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    told = [str(problem).replace("\n", "\n    ") for problem in problems]  # no line of its own
    _say(f"{count} in the request:\n" + "\n".join(f"  {problem}" for problem in told))
    if debug:
        raise RequestError(problems)
    return WRONG


def _say(message: str) -> None:
    sys.stderr.write(f"etude: {message}\n")  # at once: another thread may write too
    sys.stderr.flush()


class _Terminated(BaseException):
    """A signal outside training. No `Exception`: libraries would wrap or swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _on_signal(signum: int, frame: FrameType | None) -> None:
    raise _Terminated(signum)
