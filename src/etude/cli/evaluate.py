"""`etude evaluate`: what runs score on a split, or on other data."""

from __future__ import annotations

import json
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
from etude.errors import Problem, RequestError
from etude.escaping import printable

SCORES = ("precision", "recall", "f1")
SPLITS = ("val", "test", "train")


def evaluate(arguments: list[str]) -> int:
    parser = parser_for(
        "evaluate",
        "Scores runs on a split of their own data, or on other files of the same kind. Metrics, "
        "predictions and figures are kept in the record.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a path, a signature or a name")
    with_root(parser)
    parser.add_argument("--split", default="val", help="val, test or train (val)")
    help_ = "other files instead of the split: rows, with the columns that the run's data has"
    parser.add_argument("--data", metavar="FILE", nargs="+", help=help_)
    with_quoting(parser)
    parser.add_argument("--by", metavar="COLUMN", help="score the rows with each value apart too")
    parser.add_argument("--checkpoint", default="best", help=CHECKPOINTS)
    parser.add_argument("--beams", type=int, help="of a translation's search for targets (4)")
    parser.add_argument("--length-penalty", type=float, help="of that search (1)")
    help_ = "of a language model: windows of this many tokens (the training's)"
    parser.add_argument("--sequence-length", type=int, metavar="T", help=help_)
    help_ = "of a language model: windows overlap, and each counts its last N tokens alone"
    parser.add_argument("--stride", type=int, metavar="N", help=help_)
    parser.add_argument("--json", action="store_true", help="complete values")
    with_trust(parser)
    asked = parser.parse_args(arguments)
    problems = []
    if asked.split not in SPLITS:
        problems.append(Problem("--split", f"one of {', '.join(SPLITS)}", asked.split))
    for key in ("beams", "stride", "sequence_length"):
        value = getattr(asked, key)
        if value is not None and value < 1:
            problems.append(Problem(f"--{key.replace('_', '-')}", "a positive number", value))
    if problems:
        raise RequestError(problems)
    from etude.analysis.scoring import scored
    from etude.api import load_run

    runs = [load_run(name, root=asked.root, trust=asked.trust) for name in asked.runs]
    told: list[dict[str, Any]] = []
    for run in runs:
        with as_options():
            found = scored(
                run,
                asked.split,
                which=asked.checkpoint,
                files=asked.data,
                by=asked.by,
                quoting=asked.quoting,
                beams=asked.beams,
                length_penalty=asked.length_penalty,
                sequence_length=asked.sequence_length,
                stride=asked.stride,
            )
        told.append(found)
        if not asked.json:
            _show(found)
    if asked.json:
        print(json.dumps(told, indent=1, ensure_ascii=False))
    return DONE


def _show(found: dict[str, Any]) -> None:
    from etude.records.tables import print_columns

    head = ", ".join(found[key] for key in ("run", "on", "checkpoint"))
    head += f", {found['rows']:,} rows" if "rows" in found else ""
    print(printable(head, line=True))
    for name, value in found["metrics"].items():
        print(f"  {printable(name, line=True):20} {value:.4f}")
    if found.get("slices"):
        names = list(next(iter(found["slices"].values())))
        rows = [
            [name, *(f"{each.get(key, float('nan')):.4f}".removesuffix(".0000") for key in names)]
            for name, each in found["slices"].items()
        ]
        print_columns([found["by"], *names], rows)
    for key, wanted in (("classes", "examples"), ("spans", "spans")):
        if len(found.get(key, [])) > (key == "classes") * 2:
            rows = [
                [
                    str(row["label"]),
                    *(f"{row[name]:.4f}" for name in SCORES),
                    f"{row['support']:.0f}",
                ]
                for row in found[key]
            ]
            print_columns(["label", *SCORES, wanted], rows)
