"""`etude runs group`, `significance`, `plot` and `export`: statistics over several runs."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from etude.cli.common import DONE, RUN, add_output, add_trust, name_arguments, split
from etude.counts import counted
from etude.errors import Problem, RequestError
from etude.escaping import printable

_RUNS_HELP = f"{RUN} (which selects all finished runs of this name), or the folder of a sweep"
_SCOPE = (
    "the tests compare only these trained models, not the methods: with other seeds, the result "
    "may differ; to compare methods over seeds, use `etude runs group`"
)
_JSON_HELP = "print JSON with unrounded values"


def _add_group_options(parser: ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help=_RUNS_HELP)
    help_ = (
        "final value of a metric (such as val/loss) or its best value (such as best/val/loss) "
        "(default: the best value of the metric that selects the best checkpoint)"
    )
    parser.add_argument("--metric", metavar="KEY", help=help_)
    help_ = "group runs by these config keys (default: the whole config except the seed)"
    parser.add_argument("--by", metavar="KEY,...", help=help_)


def _load_groups(args: Namespace) -> Any:
    from etude.analysis.run_groups import Groups
    from etude.records.registry import find_finished

    records = find_finished(args.runs, Path(args.root))
    groups = Groups(records, metric=args.metric, by=split(args.by))
    for record in groups.without:
        line = f"the run {record.path} has no metric {groups.metric} and is omitted"
        print(printable(line, line=True))
    return groups


def add_group_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `etude runs group` to its argument parser."""
    _add_group_options(parser)
    help_ = (
        "group with which the other groups are compared: best (by the metric) or first (the group "
        "of the first run) (default: best)"
    )
    parser.add_argument("--against", metavar="GROUP", default="best", help=help_)
    help_ = "pair runs with the same seed; valid only if a seed has the same effect in all groups"
    parser.add_argument("--paired", action="store_true", help=help_)
    parser.add_argument("--json", action="store_true", help=_JSON_HELP)


def group(args: Namespace) -> int:
    """Runs `etude runs group` with its parsed arguments and returns the exit code."""
    from etude.analysis.statistics import MIN_VALUES
    from etude.records.text_tables import print_columns

    groups = _load_groups(args)
    frame, tests = groups.frame(), groups.comparison(args.against, paired=args.paired)
    if args.json:
        reference = groups.reference(args.against).name
        comparison = {
            "against": args.against,
            "reference": reference,
            "paired": args.paired,
            "groups": _rows_of(tests),
        }
        output = {"metric": groups.metric, "groups": _rows_of(frame), "comparison": comparison}
        print(json.dumps(output, indent=1, ensure_ascii=False))
        return DONE
    numbers = ("mean", "median", "std", "low", "high")
    rows = []
    for row in frame.itertuples(index=False):
        pairs = zip(frame.columns, row, strict=True)
        rows.append([_cell(key, value, number=key in numbers) for key, value in pairs])
    print(printable(groups.metric, line=True))
    print_columns(list(frame.columns), rows)
    if any(len(each.values) < MIN_VALUES for each in groups.groups):
        print("\nno confidence interval for groups of fewer than three runs")
    _print_comparison(groups, tests, args)
    return DONE


def _print_comparison(groups: Any, frame: Any, args: Namespace) -> None:
    """Prints statistical tests that compare each group of runs with the reference group.

    The option `--against` selects the reference group: that with the best mean, or that of the
    first run.

    Args:
        groups: the groups of runs (`etude.analysis.run_groups.Groups`).
        frame: data frame of the tests, from `Groups.comparison`; nothing is printed if it is empty.
        args: arguments of the command.
    """
    from etude.analysis.group_tests import limits_of_tests
    from etude.records.text_tables import print_columns

    if not len(frame):
        return
    if (frame["smallest_p"] == 1).all():
        print("\nno comparison, because a test needs several seeds per group")
        return
    reference = groups.reference(args.against)
    compared = f"differences from the {args.against} group, {reference.name}"
    kind = "exact permutation test" if frame["exact"].all() else "permutation test"
    kind += ", paired by seed" if args.paired else " over the seeds"
    print(f"\n{printable(compared, line=True)} ({kind})")
    rows = []
    for row in frame.to_dict("records"):
        keys = [_cell(key, row[key]) for key in reference.keys]
        rows.append([*keys, _difference(row["difference"]), _p(row["p"]), _p(row["holm"])])
    print_columns([*reference.keys, "difference", "p", "p (Holm)"], rows)
    print()
    for note in limits_of_tests(frame, reference, against=args.against, paired=args.paired):
        print(note)


def _rows_of(frame: Any) -> list[dict[str, Any]]:
    """Returns the rows of a data frame for JSON: numbers in full precision, NaN as None."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{key: getattr(v, "item", lambda v=v: v)() for key, v in row.items()} for row in rows]


def _cell(key: str, value: Any, number: bool = False) -> str:
    from etude.records.text_tables import format_cell

    if value is None or value != value:  # pandas' NaN
        return "-"
    return _number(float(value)) if number else format_cell(key, value)


def _number(value: float) -> str:
    from etude.records.text_tables import format_metric

    return format_metric(value, decimals=5)


def _difference(value: float) -> str:
    from etude.records.text_tables import format_metric

    return format_metric(value, decimals=5, sign=True)


def add_significance_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `etude runs significance` to its argument parser."""
    help_ = f"{RUN}, or the folder of a sweep; the first run is the baseline of the others"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_)
    parser.add_argument("--split", default="val", help="val, test or train (default: val)")
    parser.add_argument("--json", action="store_true", help=_JSON_HELP)
    add_trust(parser)


def significance(args: Namespace) -> int:
    """Runs `etude runs significance` with its parsed arguments and returns the exit code.

    The command prints tests of whether each run differs from the first run, as a table or as JSON.
    """
    from etude.api import Run, Runs
    from etude.records.registry import find_finished, find_record
    from etude.records.text_tables import print_columns

    root = Path(args.root)
    records = (
        find_finished(args.runs, root)
        if len(args.runs) == 1  # all runs of a name or a sweep
        else [find_record(run, root) for run in args.runs]
    )
    if len(records) < 2:
        raise RequestError(Problem("RUN", "at least two runs", " ".join(args.runs)))
    runs = Runs([Run(record, trust=args.trust) for record in records])
    frame = runs.significance(args.split)
    if args.json:
        output = {"first": str(records[0].path), "others": _rows_of(frame)}
        print(json.dumps(output, indent=1, ensure_ascii=False))
        return DONE
    first = runs[0]
    mean = frame["mean"].iloc[0] - frame["difference"].iloc[0]
    examples = counted(int(frame["examples"].iloc[0]), "example")
    label = printable(str(first.label or first.path), line=True)
    print(f"baseline: {label}, mean {_number(mean)} on {examples} of {args.split}\n")
    rows = [
        [
            row["run"],
            _number(row["mean"]),
            _difference(row["difference"]),
            f"[{_difference(row['low'])}, {_difference(row['high'])}]",
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
    print(f"\nvalues: {kind}; the tests compare the two runs example by example")
    print(_SCOPE)
    return DONE


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else "<0.0001"


def add_plot_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `etude runs plot` to its argument parser."""
    _add_group_options(parser)
    help_ = "x-axis: step, tokens, time, or a numeric config key such as optimizer.lr (default: "
    parser.add_argument("--x", default="step", metavar="X", help=help_ + "step)")
    help_ = "axes with a logarithmic scale: x, y or xy"
    parser.add_argument("--log", default="", metavar="AXES", help=help_)
    help_ = "plot a heat map of the metric's mean, with two config keys as axes, instead of curves"
    parser.add_argument("--heat", metavar="X,Y", help=help_)
    add_output(parser, "file of the figure (default: a file in ROOT/_comparisons/)")


def plot(args: Namespace) -> int:
    """Runs `etude runs plot` with its parsed arguments and returns the exit code."""
    from etude.analysis.curves import X_AXES, check_axes, save_figure
    from etude.records.opening import COMPARISON

    check_axes(args.x if args.x in X_AXES else X_AXES[0], args.log)
    keys = split(args.heat)
    if args.heat is not None and len(keys) != 2:
        raise RequestError(Problem("--heat", "two keys separated by a comma", args.heat))
    if keys and args.x != "step":
        hint = "--heat sets both axes"
        raise RequestError(Problem("--x", "no value together with --heat", args.x, hint))
    groups = _load_groups(args)
    if keys:
        name_arguments({"x": "--heat", "y": "--heat"})
    figure = groups.heat(*keys) if keys else groups.plot(x=args.x, log=args.log)
    usual = groups.default_path(Path(args.root), args.x, args.log, args.heat, args.by)
    file = save_figure(figure, args.output or usual, None if args.output else COMPARISON)
    print(f"figure  {file}")
    return DONE


def add_export_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `etude runs export` to its argument parser."""
    _add_group_options(parser)
    parser.add_argument(
        "--format", dest="form", default="csv", help="csv, latex or markdown (default: csv)"
    )
    help_ = "caption of a latex or markdown table (default: names the metric and its intervals)"
    parser.add_argument("--caption", metavar="TEXT", help=help_)
    help_ = "label of a latex table (default: tab:NAME-METRIC); an empty text omits the label"
    parser.add_argument("--label", metavar="LABEL", help=help_)
    add_output(parser, "write to this file instead of standard output")


def export(args: Namespace) -> int:
    """Runs `etude runs export` with its parsed arguments and returns the exit code."""
    from etude.records.files import write_text

    text = _load_groups(args).export(args.form, caption=args.caption, label=args.label)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.output, text)
        print(f"saved to {args.output}")
    else:
        print(text, end="")
    return DONE
