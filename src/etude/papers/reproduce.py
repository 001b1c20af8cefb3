"""`etude reproduce`: which papers are ready, and one of them measured here."""

from __future__ import annotations

import logging
from pathlib import Path

from etude.errors import Problem, RequestError
from etude.papers import claims, report
from etude.records.files import whole_folder, write_json, write_text
from etude.records.tables import print_table

log = logging.getLogger("etude")


def print_papers(root: Path) -> None:
    """A table of the papers that are ready: what is claimed, what it costs, how it stands here.

    Raises:
        RequestError: a paper's file or an earlier result is damaged.
    """
    lines = []
    for name in claims.names():
        paper = claims.load(name)
        settings = claims.measurement(name, paper).canonical()
        state = report.read_verdict(folder_of(name, root) / "result.json", paper, settings)
        lines.append([name, paper.claim, f"{paper.cost} ({paper.tier})", str(state)])
    print_table(("paper", "claim", "cost", "state"), lines)


def reproduce(name: str, root: Path) -> bool:
    """Measures a paper's cells, prints its table and writes `<root>/_papers/<paper>/`.

    The folder holds `report.md`, `result.json` and `figures/`; an earlier one is replaced when
    the new one is whole.

    Returns:
        Whether every cell matches.

    Raises:
        RequestError: no such paper, a mistake in its file, or a root that cannot be written.
    """
    paper = claims.load(name)
    node = claims.measurement(name, paper)
    measurement: claims.Measurement = node.build()
    folder = folder_of(name, root)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as new:
            figures = new / "figures"
            figures.mkdir()
            readings = measurement.measure(paper.seeds, figures)
            found = report.result(name, paper, node.canonical(), readings)
            drawn = sorted(path.name for path in figures.iterdir())
            write_text(new / "report.md", report.markdown(name, paper, found, drawn))
            write_json(new / "result.json", found)
    except OSError as error:
        expected = "a folder that can be written"
        raise RequestError(Problem("--root", expected, str(root), str(error))) from error
    log.info("%s\n%s\n", paper.title, paper.claim)
    print_table(report.COLUMNS, report.rows(paper, readings))
    log.info("\n%s: %s", found["verdict"], folder / "report.md")
    return report.verdict_of(paper, readings).matches


def folder_of(name: str, root: Path) -> Path:
    """Where a paper's report and result lie."""
    return root / "_papers" / name
