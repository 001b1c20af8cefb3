"""`etude runs`: the local registry."""

from __future__ import annotations

from pathlib import Path

from etude.cli.words import DONE, parser_for, with_root


def runs(arguments: list[str]) -> int:
    parser = parser_for("runs", "The local registry, read from the files alone.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="all runs, or those of one name")
    listing.add_argument("name", nargs="?", help="only runs of this name")
    with_root(listing)
    showing = actions.add_parser("show", help="one run")
    showing.add_argument("run", metavar="RUN")
    with_root(showing)
    asked = parser.parse_args(arguments)
    from etude.records import tables

    if asked.action == "list":
        tables.print_list(Path(asked.root), asked.name)
    else:
        from etude.records.registry import find

        tables.print_run(find(asked.run, Path(asked.root), unfinished=True))
    return DONE
