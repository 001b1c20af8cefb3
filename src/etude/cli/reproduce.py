"""`etude reproduce`: papers whose claims are measured here."""

from __future__ import annotations

from pathlib import Path

from etude.cli.words import DONE, FAILED, parser_for, with_root


def reproduce(arguments: list[str]) -> int:
    parser = parser_for(
        "reproduce", "Measures a paper's claim here; without PAPER, lists what is ready."
    )
    parser.add_argument("paper", metavar="PAPER", nargs="*")
    with_root(parser)
    asked = parser.parse_args(arguments)
    from etude.papers import claims
    from etude.papers import reproduce as papers

    if not asked.paper:
        papers.print_papers(Path(asked.root))
        return DONE
    for paper in asked.paper:
        claims.load(paper)  # a wrong name is refused before anything is measured
    matched = [papers.reproduce(paper, Path(asked.root)) for paper in asked.paper]
    return DONE if all(matched) else FAILED
