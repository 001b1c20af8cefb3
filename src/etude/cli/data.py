"""`etude data`: what a run would read, what a step has read, and which steps have read a text."""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from typing import Any

from etude.cli.words import DONE, parser_for, with_root, with_trust
from etude.errors import Problem, RequestError, nearest

USAGE = """usage: etude data show OVERRIDES   what a run would read: splits, lengths, a batch
       etude data step RUN N       what an optimizer step of a run has read
       etude data find RUN TEXT    which optimizer steps have read a text

etude data ACTION --help lists the options of each."""


def data(arguments: list[str]) -> int:
    actions = {"show": _show, "step": _step, "find": _find}
    action, *rest = arguments or ["none"]
    if action in actions:
        return actions[action](rest)
    if action in ("-h", "--help"):
        print(USAGE)
        return DONE
    hint = nearest(action, actions) if arguments else None
    raise RequestError(
        Problem("etude data", "show, step or find", action if arguments else None, hint)
    )


def _show(arguments: list[str]) -> int:
    parser = parser_for(
        "data show",
        "Splits, labels, lengths, repeated rows, examples and the first batch of the run that "
        "`etude train OVERRIDES` would be. Nothing is trained.",
    )
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for `etude train`")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="to show (3)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configs")
    asked = parser.parse_intermixed_args(arguments)
    _check_examples(asked)
    from etude.analysis.data_view import shown
    from etude.config.compose import compose
    from etude.training.build import build_parts, check_all
    from etude.training.place import cache_folder

    checked = check_all(compose(asked.overrides, config_dir=asked.config_dir))
    parts = build_parts(checked)
    parts.data.check()
    parts.data.prepare(cache_folder(checked))
    print()
    for line in shown(parts.data, examples=asked.examples, seed=checked.seed):
        print(line)
    return DONE


def _step(arguments: list[str]) -> int:
    parser = parser_for(
        "data step",
        "What an optimizer step of a run read: which documents, where in them, inputs and targets. "
        "It is computed from the run's seed, so the run's data must be there.",
    )
    parser.add_argument("run", metavar="RUN", help="a path, a signature or a name")
    parser.add_argument("step", metavar="N", type=int, help="as in the metrics: the first is 1")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="to show (3)")
    parser.add_argument("--json", action="store_true", help="where all examples came from")
    with_root(parser)
    with_trust(parser)
    asked = parser.parse_intermixed_args(arguments)
    _check_examples(asked)
    from etude.analysis.ledger import places_of, shown_step

    run = _run(asked)
    if asked.json:
        print(json.dumps(places_of(run, asked.step), indent=1, ensure_ascii=False))
        return DONE
    for line in shown_step(run, asked.step, asked.examples):
        print(line)
    return DONE


def _find(arguments: list[str]) -> int:
    parser = parser_for(
        "data find",
        "Which optimizer steps of a run have read a text. It is looked for in the training data as "
        "it stands there, and the steps are computed from the run's seed.",
    )
    parser.add_argument("run", metavar="RUN", help="a path, a signature or a name")
    parser.add_argument("text", metavar="TEXT", help="a part of a document, or of a row's text")
    parser.add_argument("--json", action="store_true", help="each example that holds some of it")
    with_root(parser)
    with_trust(parser)
    asked = parser.parse_intermixed_args(arguments)
    from etude.analysis.ledger import readings_of

    found = readings_of(_run(asked), asked.text)
    if asked.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return DONE
    print(_counted(found))
    for step, lines in groupby(found, key=lambda line: line["step"]):
        print(f"step {step:,}: " + "; ".join(dict.fromkeys(map(_described, lines))))
    return DONE


def _counted(found: list[dict[str, Any]]) -> str:
    steps = {line["step"] for line in found}
    whole = {line["step"] for line in found if line["whole"]}
    if not found:
        return "no step has read it"
    told = f"{len(steps):,} step" + ("s have" if len(steps) > 1 else " has") + " read it"
    return told if steps == whole else f"{told}, {len(whole):,} of them as a whole"


def _described(line: dict[str, Any]) -> str:
    stretch = f", tokens {line['first']:,} to {line['end']:,}" if "first" in line else ""
    return f"{line['source']}{stretch}" + ("" if line["whole"] else " (a part)")


def _run(asked: argparse.Namespace) -> Any:
    from etude.api import load_run

    return load_run(asked.run, root=asked.root, trust=asked.trust, unfinished=True)


def _check_examples(asked: argparse.Namespace) -> None:
    if asked.examples < 1:
        raise RequestError(Problem("--examples", "a positive number", asked.examples))
