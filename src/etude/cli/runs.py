"""`etude runs`: the local registry."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path

from etude.cli import studies
from etude.cli.words import (
    DONE,
    FAILED,
    parser_for,
    split,
    with_output,
    with_root,
    with_trust,
)
from etude.errors import Problem, RequestError, nearest
from etude.escaping import printable

_RUN_HELP = "a path, a signature prefix, or a name"


def runs(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        _overview().parse_args(arguments)
    action, *words = arguments
    if action not in ACTIONS:
        raise RequestError(Problem("ACTION", "one that exists", action, nearest(action, ACTIONS)))
    help_, add_arguments, act = ACTIONS[action]
    parser = parser_for(f"runs {action}", help_[0].upper() + help_[1:] + ".")
    add_arguments(parser)
    with_root(parser)
    return act(parser.parse_intermixed_args(_joined(words)))


def _overview() -> ArgumentParser:
    parser = parser_for("runs", "The local registry, read from the files alone.")
    width = max(map(len, ACTIONS))
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = "actions:\n" + "\n".join(
        f"  {name:<{width}}  {help_}" for name, (help_, _, _) in ACTIONS.items()
    )
    parser.add_argument("action", metavar="ACTION", help="one of those below; each has --help")
    return parser


def _joined(words: list[str]) -> list[str]:
    """`--sort -val/loss` in one word, as the parser would take `-val/loss` for an option."""
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
        "KEY is a field (status, seed, step, best, seconds, parameters, tag, ...), a metric\n"
        "(val/loss) or a key of the config (optimizer.lr, model.position). A FILTER is KEY, one\n"
        "of = != < <= > >= ~ (contains) !~, and a value; quote it for the shell:\n"
        '  etude runs list nano "optimizer.lr>1e-3" model.position=rotary --sort val/loss'
    )
    parser.add_argument("words", nargs="*", metavar="NAME or FILTER", help="which runs; none: all")
    parser.add_argument("--status", help="only these: finished, or failed,oom")
    parser.add_argument("--columns", help="KEY,KEY,... instead of the usual columns")
    parser.add_argument("--sort", metavar="KEY", help="by this key; -KEY: the largest first")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--limit", type=int, help="at most so many")
    parser.add_argument("--json", action="store_true", help="one JSON array with complete values")


def _list(asked: Namespace) -> int:
    from etude.records import listing
    from etude.records.filters import is_filter, must_be_status, parse

    names = [word for word in asked.words if not is_filter(word)]
    if len(names) > 1:
        hint = f"{names[0]} is one already; a FILTER looks like seed=1"
        raise RequestError(Problem("NAME", "one name", names[1], hint))
    if asked.limit is not None and asked.limit < 1:
        raise RequestError(Problem("--limit", "a positive number", asked.limit))
    statuses = split(asked.status)
    for status in statuses:
        must_be_status(status)
    sort: str | None = asked.sort
    query = listing.Query(
        root=Path(asked.root),
        name=names[0] if names else None,
        filters=[parse(word) for word in asked.words if is_filter(word)],
        statuses=statuses,
        sort=sort.removeprefix("-") if sort else None,
        descending=asked.reverse is not bool(sort and sort.startswith("-")),
        limit=asked.limit,
    )
    listing.print_list(query, split(asked.columns) or listing.COLUMNS, as_json=asked.json)
    return DONE


# -- show -------------------------------------------------------------------------------------


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=_RUN_HELP)
    parser.add_argument("--json", action="store_true", help="run.json and the config, complete")


def _show(asked: Namespace) -> int:
    from etude.records import listing
    from etude.records.registry import find

    record = find(asked.run, Path(asked.root), unfinished=True)
    listing.print_run(record, as_json=asked.json)
    return DONE


# -- diff and compare -------------------------------------------------------------------------


def _diff_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help=_RUN_HELP)
    parser.add_argument("second", metavar="B", help=_RUN_HELP)
    parser.add_argument("--json", action="store_true", help="complete values")


def _diff(asked: Namespace) -> int:
    from etude.records.comparing import print_diff
    from etude.records.registry import find

    first, second = (
        find(run, Path(asked.root), unfinished=True) for run in (asked.first, asked.second)
    )
    print_diff(first, second, as_text=not asked.json)
    return DONE


def _compare_arguments(parser: ArgumentParser) -> None:
    help_ = "a path, a signature prefix, or a name: all finished runs of it"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_)
    parser.add_argument("--metric", metavar="KEY,...", help="a panel each (that of the best)")
    parser.add_argument("--x", default="step", help="step, tokens or time (step)")
    parser.add_argument("--log", default="", metavar="AXES", help="logarithmic: x, y or xy")
    with_output(parser, "where the figure goes, instead of ROOT/_comparisons/")
    parser.add_argument("--json", action="store_true", help="complete values, no tables")


def _compare(asked: Namespace) -> int:
    from etude.analysis.comparison import Comparison
    from etude.records.comparing import as_json, print_comparison
    from etude.records.opening import COMPARISON
    from etude.records.registry import find_finished

    root = Path(asked.root)
    records = find_finished(asked.runs, root)
    if len(records) < 2:
        raise RequestError(Problem("RUN", "two runs or more", " ".join(asked.runs)))
    comparison = Comparison(records, metrics=split(asked.metric), x=asked.x, log=asked.log)
    if asked.output:
        file = comparison.save(asked.output)
    else:
        file = comparison.save(comparison.usual_file(root), COMPARISON)
    if asked.json:
        print(json.dumps(as_json(records) | {"figure": str(file)}, indent=1, ensure_ascii=False))
        return DONE
    print_comparison(records)
    for metric, missing in comparison.without.items():
        if missing:
            print("\n" + printable(f"no {metric} in: {', '.join(missing)}", line=True))
    print(f"\nfigure  {file}")
    return DONE


# -- verify and rm ----------------------------------------------------------------------------


def _verify_arguments(parser: ArgumentParser) -> None:
    help_ = f"{_RUN_HELP} (all runs of it); none: all"
    parser.add_argument("runs", metavar="RUN", nargs="*", help=help_)
    with_trust(parser)
    help_ = "take edits on which no result depends (tags, notes, ...) as they are, then verify"
    parser.add_argument("--accept", action="store_true", help=help_)


def _verify(asked: Namespace) -> int:
    from etude.records.registry import find_folders, folders, tell_damaged

    root = Path(asked.root)
    if not asked.runs and not root.is_dir():
        raise RequestError(Problem("--root", "a folder of runs", str(root)))
    named = [folder for run in asked.runs for folder in find_folders(run, root)]
    if asked.accept and not asked.runs:
        raise RequestError(Problem("--accept", "RUN, whose changes are to be accepted"))
    skipped: list[RequestError] = []
    chosen = list(dict.fromkeys(named)) if asked.runs else list(folders(root, skipped))
    tell_damaged(skipped)
    if not chosen:
        print(f"no runs under {root}")
        return DONE
    from etude.analysis.verify import verify

    if asked.accept:
        for folder in chosen:
            _accept(folder, asked.trust)

    damaged = 0
    for number, folder in enumerate(chosen, start=1):
        verdict = verify(folder, asked.trust)
        damaged += bool(verdict.faults)
        place = f"{folder.resolve().parent.name}/{folder.name}"
        told = printable(f"{place}  {verdict}", line=True)
        print(f"[{number}/{len(chosen)}] {told}", flush=True)
    if damaged:
        print(f"{damaged} of {len(chosen)} damaged")
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
    place = f"{folder.resolve().parent.name}/{folder.name}"
    print(f"{place}: accepted {', '.join(changed)}" if changed else f"{place}: nothing to accept")


def _rm_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help=_RUN_HELP)
    parser.add_argument("--all", action="store_true", help="a name means all its runs")
    parser.add_argument("--yes", action="store_true", help="without asking")


def _rm(asked: Namespace) -> int:
    from etude.records import remove
    from etude.records.registry import find_folders

    root = Path(asked.root)
    chosen: dict[Path, Path] = {}
    for run in asked.runs:
        fitting = find_folders(run, root)
        if len(fitting) > 1 and not asked.all:
            hint = f"{len(fitting)} runs have this name; --all removes them all"
            raise RequestError(Problem("RUN", "one run", run, hint))
        chosen |= {folder.absolute(): folder for folder in fitting}
    folders = list(chosen.values())
    remove.must_be_removable(folders)
    remove.print_what_goes(folders)
    if not asked.yes and not _agreed(len(folders)):
        print("nothing was removed")
        return DONE
    remove.remove(folders, root)
    print("removed")
    return DONE


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise RequestError(Problem("--yes", "this word, as nobody can be asked here"))
    what = "this run" if count == 1 else f"these {count} runs"
    try:
        return input(f"remove {what} for good? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


_Action = tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]

ACTIONS: dict[str, _Action] = {
    "list": ("the runs that fit, in columns", _list_arguments, _list),
    "show": ("what one run is, how it went, where its files are", _show_arguments, _show),
    "diff": ("two runs: what differs in their configs, how they went", _diff_arguments, _diff),
    "compare": ("several runs, with their curves in one figure", _compare_arguments, _compare),
    "group": (
        "means over seeds, their spread and intervals",
        studies.group_arguments,
        studies.group,
    ),
    "significance": (
        "whether runs differ, tested example by example",
        studies.significance_arguments,
        studies.significance,
    ),
    "plot": ("curves with bands over seeds, or a heat map", studies.plot_arguments, studies.plot),
    "export": (
        "the table of groups as CSV, LaTeX, Markdown",
        studies.export_arguments,
        studies.export,
    ),
    "verify": ("whether records are as they were written", _verify_arguments, _verify),
    "rm": ("remove runs for good, after asking", _rm_arguments, _rm),
}
