"""The command `etude`: words in, exit codes out.

0 done; 1 the run, or any job of the sweep, failed; 2 the request was wrong; 3 another live process
holds the run; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from etude.console import show_messages
from etude.errors import (
    EtudeError,
    Interrupted,
    InvalidArguments,
    Problem,
    RequestError,
    RunFailed,
    RunHeld,
    nearest,
)

log = logging.getLogger("etude")

DONE, FAILED, WRONG, HELD, SIGNALLED = 0, 1, 2, 3, 128

USAGE = """\
usage: etude COMMAND ...

  etude train [OVERRIDES] [-m]     one run, or a sweep; the same command continues or reuses it
  etude generate RUN               text from a run
  etude runs list                  the runs under experiments/
  etude runs show RUN              one of them
  etude reproduce [PAPER...]       a paper's claim, measured here

`etude COMMAND --help` says more. A RUN is a path, a signature prefix, or a name (its latest
finished run). Overrides are Hydra's: `etude train experiment=debug model/position=rotary,alibi -m`.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Carries out one command and returns its exit code; nothing below this calls `sys.exit`."""
    debug = "--debug" in arguments
    arguments = [item for item in arguments if item != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a character of a sample
            stream.reconfigure(errors="replace")
    show_messages()
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        return _dispatch(arguments)
    except RequestError as error:
        return _refuse(error.problems, debug)
    except InvalidArguments as error:
        return _refuse(error.problems, debug)
    except RunHeld as error:
        _say(f"{error}\n  run.wait=true waits for it")
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
    except _Terminated:
        _say("terminated")
        return SIGNALLED + signal.SIGTERM
    except EtudeError as error:
        _say(str(error))
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except OSError as error:
        if debug:
            raise
        _say(f"{error.strerror or error}: {error.filename or ''}")
        return WRONG
    except Exception as error:
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {error}\n  --debug shows where; please report it")
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "generate": _generate,
        "runs": _runs,
        "reproduce": _reproduce,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return DONE
    if arguments[0] == "--version":
        from etude import __version__

        print(f"etude {__version__}")
        return DONE
    if arguments[0] in ("-sc", "--shell-completion"):  # the shell asks without naming a command
        return _complete(arguments, commands)
    command = commands.get(arguments[0])
    if command is None:
        raise RequestError(
            Problem("COMMAND", "one that exists", arguments[0], nearest(arguments[0], commands))
        )
    return command(arguments[1:])


# -- train ------------------------------------------------------------------------------------


def _train(arguments: list[str]) -> int:
    from etude.config.request import answer, parse

    request = parse(arguments)
    if request.question:
        return answer(request)
    if request.multirun:
        return _train_sweep(request.overrides, request.config_dir)
    from etude.api import train_record
    from etude.config.compose import compose

    config = compose(request.overrides, config_dir=request.config_dir)
    outcome = train_record(config)
    _tell_outcome(outcome.record, reused=outcome.reused)
    return DONE


def _train_sweep(overrides: list[str], config_dir: str | None) -> int:
    from etude.api import train_record
    from etude.sweeps.multirun import multirun

    jobs = multirun(overrides, train_record, config_dir)
    bad = [job for job in jobs if job.status in ("failed", "refused", "held")]
    counts = {
        status: sum(job.status == status for job in jobs)
        for status in dict.fromkeys(job.status for job in jobs)
    }
    log.info("\n%d jobs: %s", len(jobs), ", ".join(f"{n} {status}" for status, n in counts.items()))
    for job in bad:
        log.info("  %s  %s: %s", job.status, job.label, job.message)
    if bad and len(bad) == len(jobs) and all(job.status == "refused" for job in bad):
        return WRONG
    return FAILED if bad else DONE


def _tell_outcome(record: Any, *, reused: bool) -> None:
    info = record.info
    if info.get("status") == "paused":
        return
    name = record.path
    log.info("%s", "" if reused else "\n" + _summary_line(info))
    log.info("  record      %s", name)
    log.info("  loss curve  %s", name / "figures" / "loss.png")
    log.info("  more text   etude generate %s --prompt 'To be'", name)
    log.info("  all runs    etude runs list")


def _summary_line(info: dict[str, Any]) -> str:
    best = info.get("best") or {}
    final = info.get("final", {})
    told = [f"finished: {info['step']} steps, {info['seconds']:.0f} s"]
    told += [f"{key} {value:.4f}" for key, value in final.items() if key.startswith("val/")]
    if best:
        told.append(f"best at step {best['step']}")
    return ", ".join(told)


def _complete(arguments: list[str], commands: Iterable[str]) -> int:
    """Completes the line in `$COMP_LINE`: a command's name, then Hydra's words after `train`."""
    program, _, typed = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    command, after, words = typed.lstrip().partition(" ")
    if program and not after:
        print("\n".join(name for name in commands if name.startswith(command)))
        return DONE
    if program and command != "train":
        return DONE
    os.environ["COMP_LINE"] = f"{program} {words}"
    return _train(arguments)


# -- generate ---------------------------------------------------------------------------------


def _generate(arguments: list[str]) -> int:
    parser = _parser("generate", "Continues a prompt with the model of a run.")
    parser.add_argument("run", metavar="RUN")
    _with_root(parser)
    parser.add_argument(
        "--prompt", default="", help="the text to continue; empty begins a document"
    )
    parser.add_argument("--samples", type=int, default=1, help="continuations (1)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="their length (200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="1 is the model's own (0.8)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest that make up p")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument("--seed", type=int, help="the same seed, the same text")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a step (best)")
    parser.add_argument("--stream", action="store_true", help="show text as it comes")
    parser.add_argument("--trust", nargs="*", default=[], help="modules a foreign record may name")
    asked = parser.parse_args(arguments)
    if asked.seed is not None and not 0 <= asked.seed < 2**63:
        raise RequestError(Problem("--seed", "a whole number from 0 to 2**63 - 1", asked.seed))
    from etude.api import load_run

    model = load_run(asked.run, root=asked.root, trust=asked.trust).model(asked.checkpoint)
    stream = None
    if asked.stream:
        if asked.samples != 1:
            raise RequestError(Problem("--samples", "1 with --stream", asked.samples))

        def stream(piece: str) -> None:
            print(piece, end="", flush=True)

    texts = model.generate(
        [asked.prompt] if stream is None else asked.prompt,
        samples=asked.samples,
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        greedy=asked.greedy,
        seed=asked.seed,
        stream=stream,
    )
    if stream is not None:
        print()
    else:
        print(f"\n{'-' * 72}\n".join(texts))
    return DONE


# -- runs -------------------------------------------------------------------------------------


def _runs(arguments: list[str]) -> int:
    parser = _parser("runs", "The local registry, read from the files alone.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="all runs, or those of one name")
    listing.add_argument("name", nargs="?", help="only runs of this name")
    _with_root(listing)
    showing = actions.add_parser("show", help="one run")
    showing.add_argument("run", metavar="RUN")
    _with_root(showing)
    asked = parser.parse_args(arguments)
    from etude.records import tables

    if asked.action == "list":
        tables.print_list(Path(asked.root), asked.name)
    else:
        from etude.records.registry import find

        tables.print_run(find(asked.run, Path(asked.root), unfinished=True))
    return DONE


# -- reproduce --------------------------------------------------------------------------------


def _reproduce(arguments: list[str]) -> int:
    parser = _parser(
        "reproduce", "Measures a paper's claim here; without PAPER, lists what is ready."
    )
    parser.add_argument("paper", metavar="PAPER", nargs="*")
    _with_root(parser)
    asked = parser.parse_args(arguments)
    from etude.papers import claims, reproduce

    if not asked.paper:
        reproduce.print_papers(Path(asked.root))
        return DONE
    for paper in asked.paper:
        claims.load(paper)  # a wrong name is refused before anything is measured
    matched = [reproduce.reproduce(paper, Path(asked.root)) for paper in asked.paper]
    return DONE if all(matched) else FAILED


# -- shared -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Argparse whose mistakes are ours: a `RequestError`, with the nearest valid choice."""

    def error(self, message: str) -> NoReturn:
        hint = f"{message}; `{self.prog} --help` says more"
        raise RequestError(Problem(self.prog, "a valid call", hint=hint))


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return _Parser(prog=f"etude {command}", description=description, allow_abbrev=False)


def _with_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", default="experiments", help="the folder of runs (experiments)")


def _refuse(problems: Sequence[Problem], debug: bool) -> int:
    count = "a mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    _say(f"{count} in the request:\n" + "\n".join(f"  {problem}" for problem in problems))
    if debug:
        raise RequestError(problems)
    return WRONG


def _say(message: str) -> None:
    print(f"etude: {message}", file=sys.stderr, flush=True)


class _Terminated(BaseException):
    """SIGTERM outside training. No `Exception`: libraries on the way would wrap or swallow it."""


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    raise _Terminated
