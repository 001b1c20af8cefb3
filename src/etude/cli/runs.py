"""`etude runs`: lists, shows, compares, verifies and removes saved runs."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path

from etude.cli import run_statistics
from etude.cli.common import (
    DONE,
    FAILED,
    RUN,
    add_output,
    add_root,
    add_trust,
    make_parser,
    name_arguments,
    split,
)
from etude.counts import counted
from etude.errors import Problem, RequestError, nearest
from etude.escaping import printable

_JSON_HELP = "print JSON with unrounded values"


def runs(arguments: list[str]) -> int:
    """Runs `etude runs` with its command-line arguments and returns the exit code."""
    if not arguments or arguments[0].startswith("-"):
        _overview().parse_args(arguments)
    action, *words = arguments
    if action not in ACTIONS:
        expected = "an action of `etude runs`"
        raise RequestError(Problem("ACTION", expected, action, nearest(action, ACTIONS)))
    help_, add_arguments, act = ACTIONS[action]
    parser = make_parser(f"runs {action}", help_[0].upper() + help_[1:] + ".")
    add_arguments(parser)
    add_root(parser)
    return act(parser.parse_intermixed_args(_joined(words)))


def _overview() -> ArgumentParser:
    parser = make_parser("runs", "List, inspect, compare, verify and remove saved runs.")
    width = max(map(len, ACTIONS))
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = "actions:\n" + "\n".join(
        f"  {name:<{width}}  {help_}" for name, (help_, _, _) in ACTIONS.items()
    )
    help_ = "one of the actions below; `etude runs ACTION --help` shows its options"
    parser.add_argument("action", metavar="ACTION", help=help_)
    return parser


def _joined(words: list[str]) -> list[str]:
    """Returns the words of a command line, with `--sort -val/loss` as `--sort=-val/loss`.

    If they were two words, argparse would parse `-val/loss` as an option.
    """
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


# -- list -------------------------------------------------------------------------------------


def _list_arguments(parser: ArgumentParser) -> None:
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = (
        "KEY is a field (status, started, seed, step, best, seconds, tag, ...), a metric\n"
        "(val/loss) or a key of the config (optimizer.lr, model.position). A FILTER is KEY\n"
        "OPERATOR VALUE without spaces. The operators are = != < <= > >= ~ (contains) and !~\n"
        "(does not contain); quote < and > for the shell:\n"
        '  etude runs list nano "optimizer.lr>1e-3" model.position=rotary --sort val/loss\n'
        '  etude runs list "started>=yesterday"    (or today, or a date such as 2026-01-31)'
    )
    help_ = "select runs by their name and by filters (default: all runs)"
    parser.add_argument("words", nargs="*", metavar="NAME or FILTER", help=help_)
    help_ = "select runs with one of these statuses, such as failed,oom"
    parser.add_argument("--status", metavar="STATUS,...", help=help_)
    help_ = "keys to show as columns, such as run,val/loss"
    parser.add_argument("--columns", metavar="KEY,...", help=help_)
    help_ = "sort by this key, smallest first; -KEY sorts largest first"
    parser.add_argument("--sort", metavar="KEY", help=help_)
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    parser.add_argument("--limit", metavar="N", type=int, help="show at most N runs")
    help_ = "print a JSON array with unrounded values"
    parser.add_argument("--json", action="store_true", help=help_)


def _list(args: Namespace) -> int:
    from etude.records import listing
    from etude.records.filters import check_status, is_filter, parse_filter

    names = [word for word in args.words if not is_filter(word)]
    if len(names) > 1:
        hint = f"the first name is {names[0]}; a filter has an operator, such as = in seed=1"
        raise RequestError(Problem("NAME", "at most one name", names[1], hint))
    if args.limit is not None and args.limit < 1:
        raise RequestError(Problem("--limit", "a positive number", args.limit))
    statuses = split(args.status)
    for status in statuses:
        check_status(status)
    sort: str | None = args.sort
    query = listing.Query(
        root=Path(args.root),
        name=names[0] if names else None,
        filters=[parse_filter(word) for word in args.words if is_filter(word)],
        statuses=statuses,
        sort=sort.removeprefix("-") if sort else None,
        descending=args.reverse is not bool(sort and sort.startswith("-")),
        limit=args.limit,
    )
    listing.print_list(query, split(args.columns) or listing.COLUMNS, as_json=args.json)
    return DONE


# -- show -------------------------------------------------------------------------------------


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    help_ = "print run.json and the config as JSON"
    parser.add_argument("--json", action="store_true", help=help_)


def _show(args: Namespace) -> int:
    from etude.records import listing
    from etude.records.registry import find_record

    record = find_record(args.run, Path(args.root), unfinished=True)
    listing.print_run(record, as_json=args.json)
    return DONE


# -- diff and compare -------------------------------------------------------------------------


def _diff_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help=RUN)
    parser.add_argument("second", metavar="B", help=RUN)
    parser.add_argument("--json", action="store_true", help=_JSON_HELP)


def _diff(args: Namespace) -> int:
    from etude.records.registry import find_record
    from etude.records.run_comparison import print_diff

    name_arguments({"run": "A or B"})
    first, second = (
        find_record(run, Path(args.root), unfinished=True) for run in (args.first, args.second)
    )
    print_diff(first, second, as_text=not args.json)
    return DONE


def _compare_arguments(parser: ArgumentParser) -> None:
    help_ = f"{RUN} (which selects all finished runs of this name)"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_)
    help_ = "metrics to plot, one panel each (default: the metric that selects the best checkpoint)"
    parser.add_argument("--metric", dest="metrics", metavar="KEY,...", help=help_)
    help_ = "x-axis: step, tokens or time (default: step)"
    parser.add_argument("--x", metavar="X", default="step", help=help_)
    help_ = "axes with a logarithmic scale: x, y or xy"
    parser.add_argument("--log", default="", metavar="AXES", help=help_)
    add_output(parser, "file of the figure (default: a file in ROOT/_comparisons/)")
    help_ = "print JSON with unrounded values instead of tables"
    parser.add_argument("--json", action="store_true", help=help_)


def _compare(args: Namespace) -> int:
    from etude.analysis.comparison import Comparison
    from etude.records.opening import COMPARISON
    from etude.records.registry import find_finished
    from etude.records.run_comparison import as_json, print_comparison

    root = Path(args.root)
    records = find_finished(args.runs, root)
    if len(records) < 2:
        raise RequestError(Problem("RUN", "at least two runs", " ".join(args.runs)))
    comparison = Comparison(records, metrics=split(args.metrics), x=args.x, log=args.log)
    if args.output:
        file = comparison.save(args.output)
    else:
        file = comparison.save(comparison.default_path(root), COMPARISON)
    if args.json:
        print(json.dumps(as_json(records) | {"figure": str(file)}, indent=1, ensure_ascii=False))
        return DONE
    print_comparison(records)
    for metric, missing in comparison.without.items():
        if missing:
            text = f"runs without the metric {metric}: {', '.join(missing)}"
            print("\n" + printable(text, line=True))
    print(f"\nfigure  {file}")
    return DONE


# -- verify and rm ----------------------------------------------------------------------------


def _verify_arguments(parser: ArgumentParser) -> None:
    help_ = f"{RUN} (which selects all runs of this name) (default: all runs)"
    parser.add_argument("runs", metavar="RUN", nargs="*", help=help_)
    add_trust(parser)
    help_ = "accept manual edits that affect no result (tags, notes, ...), then verify"
    parser.add_argument("--accept", action="store_true", help=help_)


def _verify(args: Namespace) -> int:
    from etude.records.registry import find_folders, record_folders, report_damaged

    root = Path(args.root)
    if not args.runs and not root.is_dir():
        raise RequestError(Problem("--root", "a folder of runs", str(root)))
    named = [folder for run in args.runs for folder in find_folders(run, root)]
    if args.accept and not args.runs:
        hint = "add the runs whose edits you accept to the command"
        raise RequestError(Problem("--accept", "at least one RUN", hint=hint))
    skipped: list[RequestError] = []
    chosen = list(dict.fromkeys(named)) if args.runs else list(record_folders(root, skipped))
    report_damaged(skipped)
    if not chosen:
        print(f"no runs under {root}")
        return DONE
    from etude.analysis.verify import verify

    if args.accept:
        for folder in chosen:
            _accept(folder, args.trust)

    damaged = 0
    for number, folder in enumerate(chosen, start=1):
        verdict = verify(folder, args.trust)
        damaged += bool(verdict.faults)
        name = f"{folder.resolve().parent.name}/{folder.name}"
        line = printable(f"{name}  {verdict}", line=True)
        print(f"[{number}/{len(chosen)}] {line}", flush=True)
    if damaged:
        verb = "is" if damaged == 1 else "are"
        print(f"{damaged} of {counted(len(chosen), 'run')} {verb} damaged")
    return FAILED if damaged else DONE


def _accept(folder: Path, trust: Sequence[str]) -> None:
    from etude.analysis.verify import accept
    from etude.records.lock import RunLock

    lock = RunLock(folder)
    lock.acquire()
    try:
        changed = accept(folder, trust)
    finally:
        lock.release()
    name = f"{folder.resolve().parent.name}/{folder.name}"
    accepted = f"accepted the edits of {', '.join(changed)}" if changed else "no edits to accept"
    print(f"{name}: {accepted}")


def _rm_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help=RUN)
    parser.add_argument("--all", action="store_true", help="remove all runs with the name RUN")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _rm(args: Namespace) -> int:
    from etude.records import remove
    from etude.records.registry import find_folders

    root = Path(args.root)
    chosen: dict[Path, Path] = {}
    for run in args.runs:
        fitting = find_folders(run, root)
        if len(fitting) > 1 and not args.all:
            hint = f"{len(fitting)} runs have this name; to remove all of them, add --all"
            raise RequestError(Problem("RUN", "one run", run, hint))
        chosen |= {folder.absolute(): folder for folder in fitting}
    folders = list(chosen.values())
    remove.check_removable(folders)
    remove.print_removal_table(folders)
    if not args.yes and not _confirm(len(folders)):
        print("no run was removed")
        return DONE
    remove.remove_records(folders, root)
    print("removed")
    return DONE


def _confirm(count: int) -> bool:
    if not sys.stdin.isatty():
        hint = "standard input is not a terminal, so removal cannot be confirmed"
        raise RequestError(Problem("etude runs rm", "the option --yes", hint=hint))
    target = "this run" if count == 1 else f"these {count} runs"
    try:
        return input(f"permanently remove {target}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


_Action = tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]

ACTIONS: dict[str, _Action] = {
    "list": ("list runs, selected by name and filters", _list_arguments, _list),
    "show": ("show a run's config, metrics and files", _show_arguments, _show),
    "diff": ("compare the configs and metrics of two runs", _diff_arguments, _diff),
    "compare": ("compare runs, with their curves in one figure", _compare_arguments, _compare),
    "group": (
        "compute means, spread and confidence intervals over seeds",
        run_statistics.add_group_arguments,
        run_statistics.group,
    ),
    "significance": (
        "test whether runs differ, with paired tests over examples",
        run_statistics.add_significance_arguments,
        run_statistics.significance,
    ),
    "plot": (
        "plot mean curves with bands over seeds, or a heat map",
        run_statistics.add_plot_arguments,
        run_statistics.plot,
    ),
    "export": (
        "export the table of groups as CSV, LaTeX or Markdown",
        run_statistics.add_export_arguments,
        run_statistics.export,
    ),
    "verify": (
        "check that the files of runs are complete and unchanged",
        _verify_arguments,
        _verify,
    ),
    "rm": ("permanently remove runs, after confirmation", _rm_arguments, _rm),
}
