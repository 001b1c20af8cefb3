"""`etude runs group`, `significance`, `plot` and `export`: questions to many runs."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from etude.cli.words import DONE, split, with_output, with_trust
from etude.errors import Problem, RequestError
from etude.escaping import printable

_RUNS_HELP = "a path, a signature prefix, a name (all finished runs of it), or a sweep's folder"


def _grouped(parser: ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help=_RUNS_HELP)
    help_ = "val/loss (the last), best/val/loss, ... (the best of what chose the best)"
    parser.add_argument("--metric", metavar="KEY", help=help_)
    help_ = "these keys make a group (all of the config but the seed)"
    parser.add_argument("--by", metavar="KEY,...", help=help_)


def _groups(asked: Namespace) -> Any:
    from etude.analysis.groups import Groups
    from etude.records.registry import find_finished

    records = find_finished(asked.runs, Path(asked.root))
    groups = Groups(records, metric=asked.metric, by=split(asked.by))
    for record in groups.without:
        print(printable(f"no {groups.metric} in {record.path}", line=True))
    return groups


def group_arguments(parser: ArgumentParser) -> None:
    _grouped(parser)
    parser.add_argument("--json", action="store_true", help="complete values")


def group(asked: Namespace) -> int:
    from etude.analysis.statistics import FEWEST
    from etude.records.tables import cell, print_columns

    groups = _groups(asked)
    frame = groups.frame()
    if asked.json:
        rows = json.loads(frame.to_json(orient="records"))
        told = {"metric": groups.metric, "groups": rows}
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return DONE
    numbers = ("mean", "median", "std", "low", "high")
    rows = []
    for row in frame.itertuples(index=False):
        pairs = zip(frame.columns, row, strict=True)
        rows.append([_cell(cell, key, value, key in numbers) for key, value in pairs])
    print(printable(groups.metric, line=True))
    print_columns(list(frame.columns), rows)
    if any(len(one.values) < FEWEST for one in groups.groups):
        print("\nno interval of fewer than three runs")
    return DONE


def _cell(cell: Any, key: str, value: Any, number: bool) -> str:
    if value is None or value != value:  # pandas' NaN
        return "-"
    return str(cell("a/metric", float(value)) if number else cell(key, value))


def significance_arguments(parser: ArgumentParser) -> None:
    help_ = "a path, a signature prefix, a name, or a sweep's folder; the others are compared "
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_ + "with the first")
    parser.add_argument("--split", default="val", help="val, test or train (val)")
    parser.add_argument("--json", action="store_true", help="complete values")
    with_trust(parser)


def significance(asked: Namespace) -> int:
    from etude.api import Run, Runs
    from etude.records.registry import find, find_finished
    from etude.records.tables import print_columns

    root = Path(asked.root)
    records = (
        find_finished(asked.runs, root)
        if len(asked.runs) == 1  # all of a name or a sweep
        else [find(run, root) for run in asked.runs]
    )
    if len(records) < 2:
        raise RequestError(Problem("RUN", "two runs or more", " ".join(asked.runs)))
    runs = Runs([Run(record, trust=asked.trust) for record in records])
    frame = runs.significance(asked.split)
    if asked.json:
        rows = json.loads(frame.to_json(orient="records"))
        told = {"first": str(records[0].path), "others": rows}
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return DONE
    first = runs[0]
    mean = frame["mean"].iloc[0] - frame["difference"].iloc[0]
    examples = frame["examples"].iloc[0]
    scale = f"{mean:.5f} on {examples} examples of {asked.split}"
    named = printable(str(first.label or first.path), line=True)
    print(f"against the first, {named}: mean {scale}\n")
    rows = [
        [
            row["run"],
            f"{row['mean']:.5f}",
            f"{row['difference']:+.5f}",
            f"[{row['low']:+.5f}, {row['high']:+.5f}]",
            _p(row["permutation"]),
            _p(row["bootstrap"]),
            _p(row["holm"]),
            *([_p(row["mcnemar"])] if "mcnemar" in row else []),
        ]
        for row in frame.to_dict("records")
    ]
    head = ["run", "mean", "difference", "95 % interval", "p (permutation)", "p (bootstrap)"]
    more = ["p (McNemar)"] if "mcnemar" in frame.columns else []
    print_columns([*head, "p (Holm)", *more], rows)
    kind = first.checked.nodes["task"].constructor.scores_are
    print(
        f"\n{kind}; paired by example; of these trained models, not of their seeds: `runs group` "
        "shows those"
    )
    return DONE


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else "<0.0001"


def plot_arguments(parser: ArgumentParser) -> None:
    _grouped(parser)
    help_ = "step, tokens, time, or a key with numbers such as optimizer.lr (step)"
    parser.add_argument("--x", default="step", metavar="X", help=help_)
    parser.add_argument("--log", default="", metavar="AXES", help="logarithmic: x, y or xy")
    parser.add_argument("--heat", metavar="X,Y", help="the mean over two keys instead of curves")
    with_output(parser, "where the figure goes, instead of ROOT/_comparisons/")


def plot(asked: Namespace) -> int:
    from etude.analysis.curves import X, check_axes, save
    from etude.records.opening import COMPARISON

    check_axes(asked.x if asked.x in X else X[0], asked.log)
    keys = split(asked.heat)
    if asked.heat is not None and len(keys) != 2:
        raise RequestError(Problem("--heat", "two keys with a comma between", asked.heat))
    if keys and asked.x != "step":
        raise RequestError(Problem("--x", "none beside --heat, which names both axes", asked.x))
    groups = _groups(asked)
    figure = groups.heat(*keys) if keys else groups.plot(x=asked.x, log=asked.log)
    usual = groups.usual_file(Path(asked.root), asked.x, asked.log, asked.heat, asked.by)
    file = save(figure, asked.output or usual, None if asked.output else COMPARISON)
    print(f"figure  {file}")
    return DONE


def export_arguments(parser: ArgumentParser) -> None:
    _grouped(parser)
    parser.add_argument("--format", default="csv", help="csv, latex or markdown (csv)")
    with_output(parser, "a file instead of the terminal")


def export(asked: Namespace) -> int:
    from etude.records.files import write_text

    text = _groups(asked).export(asked.format)
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(asked.output, text)
        print(f"written  {asked.output}")
    else:
        print(text, end="")
    return DONE
