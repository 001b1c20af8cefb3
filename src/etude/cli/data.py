"""`etude data`: shows the data of a run, and the examples that each optimizer step used."""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from typing import Any

from etude.cli.common import DONE, RUN, add_root, add_trust, make_parser
from etude.counts import counted
from etude.errors import Problem, RequestError, nearest

_RUN_HELP = f"{RUN} (which selects the latest run of this name)"
_EXAMPLES_HELP = "number of examples to show (default: 3)"

USAGE = """\
usage: etude data ACTION ...

Inspect the data of a run.

Actions:
  etude data show [OVERRIDES]  Show splits, labels, lengths, examples and the first batch
  etude data step RUN N        Show the data that a run used in optimizer step N
  etude data find RUN TEXT     Find the optimizer steps in which a run used a text

`etude data ACTION --help` shows the options of an action."""


def data(arguments: list[str]) -> int:
    """Runs `etude data` with its command-line arguments and returns the exit code."""
    actions = {"show": _show, "step": _step, "find": _find}
    action, *rest = arguments or ["none"]
    if action in actions:
        return actions[action](rest)
    if action in ("-h", "--help"):
        print(USAGE)
        return DONE
    hint = nearest(action, actions) if arguments else None
    raise RequestError(
        Problem("etude data", "one of show, step or find", action if arguments else None, hint)
    )


def _show(arguments: list[str]) -> int:
    parser = make_parser(
        "data show",
        "Show the data that `etude train OVERRIDES` would use: splits, labels, lengths, duplicate "
        "rows, examples and the first batch. Prepares the data, but does not train.",
    )
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for `etude train`")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help=_EXAMPLES_HELP)
    parser.add_argument("--config-dir", metavar="DIR", help="folder with your own configs")
    args = parser.parse_intermixed_args(arguments)
    _check_examples(args)
    from etude.analysis.data_view import show_lines
    from etude.config.compose import compose
    from etude.training.build import build_parts, check_all
    from etude.training.run_folder import cache_folder

    checked = check_all(compose(args.overrides, config_dir=args.config_dir))
    parts = build_parts(checked, check_data=True)
    parts.data.prepare(cache_folder(checked))
    print()
    for line in show_lines(parts.data, examples=args.examples, seed=checked.seed):
        print(line)
    return DONE


def _step(arguments: list[str]) -> int:
    parser = make_parser(
        "data step",
        "Show the data that a run used in one optimizer step: documents, positions in documents, "
        "inputs and targets. The step is recomputed from the run's seed; the run's data must still "
        "exist.",
    )
    parser.add_argument("run", metavar="RUN", help=_RUN_HELP)
    parser.add_argument("step", metavar="N", type=int, help="optimizer step; the first is 1")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help=_EXAMPLES_HELP)
    parser.add_argument(
        "--json", action="store_true", help="print as JSON where all examples come from"
    )
    add_root(parser)
    add_trust(parser)
    args = parser.parse_intermixed_args(arguments)
    _check_examples(args)
    from etude.analysis.data_trace import example_sources, step_lines

    run = _load_run(args)
    if args.json:
        print(json.dumps(example_sources(run, args.step), indent=1, ensure_ascii=False))
        return DONE
    for line in step_lines(run, args.step, args.examples):
        print(line)
    return DONE


def _find(arguments: list[str]) -> int:
    parser = make_parser(
        "data find",
        "Find the optimizer steps in which a run used a text. Searches the training data for exact "
        "matches; the steps are recomputed from the run's seed.",
    )
    parser.add_argument("run", metavar="RUN", help=_RUN_HELP)
    help_ = "text to find: part of a document or of a row's text"
    parser.add_argument("text", metavar="TEXT", help=help_)
    help_ = "print a JSON array with one entry for each use of an example in an optimizer step, if "
    help_ += "the example contains TEXT or a part of TEXT"
    parser.add_argument("--json", action="store_true", help=help_)
    add_root(parser)
    add_trust(parser)
    args = parser.parse_intermixed_args(arguments)
    from etude.analysis.data_trace import steps_of_text

    readings = steps_of_text(_load_run(args), args.text)
    if args.json:
        print(json.dumps(readings, indent=1, ensure_ascii=False))
        return DONE
    print(_summarize(readings))
    for step, lines in groupby(readings, key=lambda line: line["step"]):
        print(f"step {step:,}: " + "; ".join(dict.fromkeys(map(_describe_reading, lines))))
    return DONE


def _summarize(readings: list[dict[str, Any]]) -> str:
    steps = {line["step"] for line in readings}
    whole = {line["step"] for line in readings if line["whole"]}
    if not readings:
        return "no optimizer step used this text"
    count = counted(len(steps), "optimizer step")
    if steps == whole:
        return f"{count} used this text"
    return f"{count} used this text or a part of it; {len(whole):,} of them used the complete text"


def _describe_reading(line: dict[str, Any]) -> str:
    tokens = f", tokens {line['first']:,} to {line['end']:,}" if "first" in line else ""
    return f"{line['source']}{tokens}" + ("" if line["whole"] else " (partly)")


def _load_run(args: argparse.Namespace) -> Any:
    from etude.api import load_run

    return load_run(args.run, root=args.root, trust=args.trust, unfinished=True)


def _check_examples(args: argparse.Namespace) -> None:
    if args.examples < 0:
        raise RequestError(Problem("--examples", "a non-negative number", args.examples))
