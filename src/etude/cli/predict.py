"""`etude predict`: predicts labels, tags, numbers, answers or translations of texts with a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude.cli.common import (
    DONE,
    RUN,
    add_checkpoint,
    add_quoting,
    add_root,
    add_translation_search,
    add_trust,
    make_parser,
    name_arguments,
)
from etude.console import raw_stdout
from etude.errors import Problem, RequestError


def predict(arguments: list[str]) -> int:
    """Runs `etude predict` with its command-line arguments and returns the exit code."""
    parser = make_parser(
        "predict",
        "Predict labels, tags, numbers, answers or translations of texts with a trained run.",
    )
    help_ = f"{RUN} (which selects the latest finished run of this name)"
    parser.add_argument("run", metavar="RUN", help=help_)
    add_root(parser)
    help_ = "text to predict for; repeatable"
    parser.add_argument("--text", metavar="TEXT", action="append", default=[], help=help_)
    help_ = (
        "file with one text per line, or with rows (.jsonl, .csv, ...) that have the columns of "
        "the run's data; - reads standard input"
    )
    parser.add_argument("--file", metavar="FILE", help=help_)
    add_quoting(parser)
    help_ = "second text, for a run trained on pairs of texts"
    parser.add_argument("--pair", metavar="TEXT", help=help_)
    add_checkpoint(parser)
    add_translation_search(parser)
    help_ = "print one complete JSON object per line"
    parser.add_argument("--json", action="store_true", help=help_)
    add_trust(parser)
    args = parser.parse_args(arguments)
    name_arguments({"texts": "--file"})
    if bool(args.text) == (args.file is not None):
        hint = "both are given" if args.text else "neither is given"
        raise RequestError(Problem("--text and --file", "exactly one of them", hint=hint))
    if args.file == "":
        raise RequestError(Problem("--file", "the path of a file", ""))
    from etude.analysis.predicting import Predictor
    from etude.api import load_run

    run = load_run(args.run, root=args.root, trust=args.trust)
    predictor = Predictor(run, args.which, beams=args.beams, length_penalty=args.length_penalty)
    texts = list(_texts(args, predictor))
    for result in predictor(texts, args.pair):
        line = json.dumps(result, ensure_ascii=False) if args.json else predictor.task.line(result)
        print(line, flush=True, file=raw_stdout())
    return DONE


def _texts(args: Any, predictor: Any) -> Iterator[Any]:
    if args.file is None:
        yield from args.text
    elif args.file == "-":
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                where = f"standard input, line {number}"
                raise RequestError(Problem(where, "UTF-8 text", hint=str(error))) from error
    else:
        yield from predictor.read(Path(args.file), args.quoting)
