"""`etude evaluate`: computes metrics of runs on a split or on other files."""

from __future__ import annotations

import json
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
)
from etude.errors import Problem, RequestError
from etude.escaping import printable

SCORES = ("precision", "recall", "f1")
SPLITS = ("val", "test", "train")


def evaluate(arguments: list[str]) -> int:
    """Runs `etude evaluate` with its command-line arguments and returns the exit code."""
    parser = make_parser(
        "evaluate",
        "Compute metrics of runs on a split of their data, or on other files with the same "
        "columns. Metrics, predictions and figures are saved in the run's folder.",
    )
    help_ = f"{RUN} (which selects the latest finished run of this name)"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_)
    add_root(parser)
    parser.add_argument("--split", default="val", help="val, test or train (default: val)")
    help_ = (
        "evaluate on these files instead of a split; they must have the columns of the run's data"
    )
    parser.add_argument("--data", dest="files", metavar="FILE", nargs="+", help=help_)
    add_quoting(parser)
    help_ = "also compute the metrics separately for each value of this column"
    parser.add_argument("--by", metavar="COLUMN", help=help_)
    add_checkpoint(parser)
    add_translation_search(parser)
    help_ = "for language models: window length in tokens (default: that of training)"
    parser.add_argument("--sequence-length", type=int, metavar="T", help=help_)
    help_ = "for language models: use overlapping windows; score the last N tokens of each one"
    parser.add_argument("--stride", type=int, metavar="N", help=help_)
    parser.add_argument("--json", action="store_true", help="print JSON with unrounded values")
    add_trust(parser)
    args = parser.parse_args(arguments)
    problems = []
    if args.split not in SPLITS:
        problems.append(Problem("--split", f"one of {', '.join(SPLITS)}", args.split))
    for key in ("beams", "stride", "sequence_length"):
        value = getattr(args, key)
        if value is not None and value < 1:
            problems.append(Problem(f"--{key.replace('_', '-')}", "a positive number", value))
    if problems:
        raise RequestError(problems)
    from etude.analysis.scoring import evaluate_run
    from etude.api import load_run

    runs = [load_run(name, root=args.root, trust=args.trust) for name in args.runs]
    results: list[dict[str, Any]] = []
    for run in runs:
        result = evaluate_run(
            run,
            args.split,
            which=args.which,
            files=args.files,
            by=args.by,
            quoting=args.quoting,
            beams=args.beams,
            length_penalty=args.length_penalty,
            sequence_length=args.sequence_length,
            stride=args.stride,
        )
        results.append(result)
        if not args.json:
            _print_result(result, run.record.config)
    if args.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    return DONE


def _print_result(result: dict[str, Any], config: dict[str, Any]) -> None:
    from etude.records.record_fields import positive_class_note
    from etude.records.text_tables import print_columns

    head = ", ".join(result[key] for key in ("run", "on", "checkpoint"))
    head += f", {result['rows']:,} rows" if "rows" in result else ""
    print(printable(head, line=True))
    for name, value in result["metrics"].items():
        print(f"  {printable(name, line=True):20} {value:.4f}")
    if note := positive_class_note(config, result["metrics"]):
        print(f"  {note}")
    if result.get("slices"):
        names = list(next(iter(result["slices"].values())))
        rows = [
            [name, *(f"{each.get(key, float('nan')):.4f}".removesuffix(".0000") for key in names)]
            for name, each in result["slices"].items()
        ]
        print_columns([result["by"], *names], rows)
    for key, unit in (("classes", "examples"), ("spans", "spans")):
        if result.get(key):
            rows = [
                [
                    str(row["label"]),
                    *(f"{row[name]:.4f}" for name in SCORES),
                    f"{row['support']:.0f}",
                ]
                for row in result[key]
            ]
            print_columns(["label", *SCORES, unit], rows)
