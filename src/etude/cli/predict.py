"""`etude predict`: labels, tags and translations of texts, by a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude.cli.words import (
    CHECKPOINTS,
    DONE,
    as_options,
    parser_for,
    with_quoting,
    with_root,
    with_trust,
)
from etude.console import exact
from etude.errors import Problem, RequestError


def predict(arguments: list[str]) -> int:
    parser = parser_for("predict", "What a trained run says of texts: labels, tags, translations.")
    parser.add_argument("run", metavar="RUN")
    with_root(parser)
    parser.add_argument("--text", action="append", default=[], help="repeatable")
    help_ = "texts a line, or rows (.jsonl, .csv, ...) with the run's columns; - is standard input"
    parser.add_argument("--file", metavar="FILE", help=help_)
    with_quoting(parser)
    parser.add_argument("--pair", metavar="TEXT", help="of a run on pairs, the second text")
    parser.add_argument("--checkpoint", default="best", help=CHECKPOINTS)
    parser.add_argument("--beams", type=int, help="of a translation's search for targets (4)")
    parser.add_argument("--length-penalty", type=float, help="of that search (1)")
    parser.add_argument("--json", action="store_true", help="an object a line, complete")
    with_trust(parser)
    asked = parser.parse_args(arguments)
    if bool(asked.text) == (asked.file is not None):
        hint = "both are given" if asked.text else "neither is given"
        raise RequestError(Problem("--text and --file", "one of them", hint=hint))
    if asked.file == "":
        raise RequestError(Problem("--file", "the path of a file", ""))
    from etude.analysis.predicting import Predictor
    from etude.api import load_run

    run = load_run(asked.run, root=asked.root, trust=asked.trust)
    with as_options():
        predictor = Predictor(
            run, asked.checkpoint, beams=asked.beams, length_penalty=asked.length_penalty
        )
    texts = list(_texts(asked, predictor))
    for found in predictor(texts, asked.pair):
        told = json.dumps(found, ensure_ascii=False) if asked.json else predictor.task.line(found)
        print(told, flush=True, file=exact())
    return DONE


def _texts(asked: Any, predictor: Any) -> Iterator[Any]:
    if asked.file is None:
        yield from asked.text
    elif asked.file == "-":
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                where = f"standard input, line {number}"
                raise RequestError(Problem(where, "UTF-8 text", hint=str(error))) from error
    else:
        yield from predictor.read(Path(asked.file), asked.quoting)
