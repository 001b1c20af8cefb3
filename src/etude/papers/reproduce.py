"""`etude reproduce`: which papers are ready, and one of them measured here."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etude.errors import Problem, RequestError
from etude.papers import claims, page, report, runs
from etude.records.files import whole_folder, write_json, write_text
from etude.records.tables import print_table

log = logging.getLogger("etude")


def print_papers(root: Path) -> None:
    """A table of the papers that are ready: what is claimed, what it costs, how it stands here.

    Raises:
        RequestError: a paper's file or an earlier result is damaged.
    """
    lines = []
    for name, paper in claims.all_papers().items():
        settings = claims.measurement(name, paper).canonical()
        path = folder_of(name, root) / "result.json"
        ours, protocol = report.read_verdicts(path, paper, settings)
        cost = f"{paper.cost} ({paper.tier})"
        lines.append([name, paper.claim, cost, str(ours), str(protocol or "")])
    print_table(("paper", "claim", "cost", "matches the paper", "the protocol"), lines)


def reproduce(
    name: str,
    root: Path,
    *,
    jobs: int | str = "auto",
    check: bool = False,
    files: Path = Path(),
) -> bool:
    """Measures a paper's cells, prints its table and writes `<root>/_papers/<paper>/`.

    Runs that are finished are read, the others are trained first, each in a process of its own. The
    folder holds `report.md`, `report.html`, `result.json` and `figures/`; an earlier one is
    replaced when the new one is whole.

    Args:
        jobs: runs to train at once, or `auto`.
        check: train nothing; cells whose runs are missing are not run.
        files: the folder of what the paper's runs need of the user's.

    Returns:
        Whether every cell matches.

    Raises:
        RequestError: no such paper, a mistake in its file, a root that cannot be written, or files
            that are missing or are others.
        Interrupted: a signal came; the same command goes on.
    """
    paper = claims.load(name)
    node = claims.measurement(name, paper)
    measurement: Any = claims.built(name, node)
    folder = folder_of(name, root)
    arms = runs.arms_of(name, paper, root, files=files)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not check:
            runs.train_missing(arms, root / "_papers" / "_logs" / name, jobs)
        found = runs.runs_of(arms)
        with whole_folder(folder) as new:
            figures = new / "figures"
            figures.mkdir()
            if paper.runs:
                readings = measurement.read(found, figures)
            else:
                readings = measurement.measure(paper.seeds, figures)
            told = report.result(name, paper, node.canonical(), readings, found)
            drawn = sorted(path.name for path in figures.iterdir())
            text = report.markdown(name, paper, told, drawn)
            write_text(new / "report.md", text)
            write_text(new / "report.html", page.html(paper.title, text, new))
            write_json(new / "result.json", told)
    except OSError as error:
        expected = "a folder that can be written"
        raise RequestError(Problem("--root", expected, str(root), str(error))) from error
    log.info("%s\n%s\n", paper.title, paper.claim)
    print_table(report.COLUMNS, report.rows(paper, readings))
    protocol = f"; the protocol: {told['protocol']}" if told["protocol"] else ""
    log.info("\nthe paper: %s%s\n%s", told["verdict"], protocol, folder / "report.md")
    return report.verdict_of(paper, readings).matches


def smoke(name: str, root: Path, *, jobs: int | str = "auto") -> bool:
    """Whether all parts of a paper fit together: its runs, as short as can be, and their readings.

    Nothing is said of the claim, and nothing of this enters the report.

    Returns:
        Whether each run ended well and each cell could be read.
    """
    paper = claims.load(name)
    measurement: Any = claims.built(name, claims.measurement(name, paper))
    base = root / "_papers" / "_smoke"
    arms = runs.arms_of(name, paper, base, smoke=True)
    base.mkdir(parents=True, exist_ok=True)
    runs.train_missing(arms, base / "_logs" / name, jobs)
    found = runs.runs_of(arms)
    with TemporaryDirectory() as figures:
        if paper.runs:
            readings = measurement.read(found, Path(figures))
        else:
            if hasattr(measurement, "short"):  # one that takes long, or needs a network
                measurement = measurement.short(base / "_toys")
            readings = measurement.measure(paper.seeds[:1], Path(figures))
    ended = sum(map(len, found.values()))
    missing = [cell.key for cell in paper.cells if cell.key not in readings]
    told = f"; nothing was read for {', '.join(missing)}" if missing else ""
    log.info("%s: %d of %d short runs ended%s; nothing is claimed", name, ended, len(arms), told)
    return ended == len(arms) and not missing


def folder_of(name: str, root: Path) -> Path:
    """Where a paper's report and result lie."""
    return root / "_papers" / name
