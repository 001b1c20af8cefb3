"""`etude reproduce`: which papers are ready, and one of them measured here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etude.errors import Problem, RequestError
from etude.papers import claims, page, report, runs
from etude.papers.claims import Paper, Reading
from etude.papers.verdict import Verdict
from etude.records.files import read_json, whole_folder, write_json, write_text
from etude.records.opening import REPORT, RESULT, folder_in, is_there
from etude.records.tables import print_table

log = logging.getLogger("etude")


def print_papers(root: Path, config_dir: Path | None = None) -> None:
    """A table of the papers that are ready: what is claimed, what it costs, how it stands here.

    Args:
        config_dir: a folder of one's own configs, whose papers are listed too.

    Raises:
        RequestError: the root is no folder; after the table, a paper's file has mistakes, or an
            earlier result is damaged.
    """
    if root.exists() and not root.is_dir():
        raise RequestError(Problem("--root", "a folder", str(root)))
    lines = []
    papers, problems = claims.readable_papers(config_dir)
    for name, paper in papers.items():
        try:
            settings = claims.measurement(name, paper).canonical()
        except RequestError as error:
            problems += error.problems
            continue
        path = folder_of(name, root) / "result.json"
        try:
            told = [str(verdict or "") for verdict in report.read_verdicts(path, paper, settings)]
        except RequestError as error:
            told = ["damaged", ""]
            problems += error.problems
        lines.append([name, paper.claim, f"{paper.cost} ({paper.tier})", *told])
    print_table(("paper", "claim", "cost", "matches the paper", "the protocol"), lines)
    if problems:
        raise RequestError(problems)


def reproduce(
    name: str,
    root: Path,
    *,
    jobs: int | str = "auto",
    check: bool = False,
    files: Path = Path(),
    config_dir: Path | None = None,
) -> bool:
    """Measures a paper's cells, prints its table and writes `<root>/_papers/<paper>/`.

    Runs that are finished are read, the others are trained first, each in a process of its own. The
    folder holds `report.md`, `report.html`, `result.json` and `figures/`; an earlier one is
    replaced when the new one is whole.

    Args:
        jobs: runs to train at once, or `auto`.
        check: train and measure nothing: judge the runs that are there, or what was measured
            before. Where there is nothing, nothing is written.
        files: the folder of what the paper's runs need of the user's.
        config_dir: a folder of one's own configs, searched before the shipped ones.

    Returns:
        Whether every cell matches.

    Raises:
        RequestError: no such paper, a mistake in its file, a root that cannot be written, or files
            that are missing or are others.
        Interrupted: a signal came; the same command goes on.
    """
    paper = claims.load(name, config_dir)
    again = report.command(name, config_dir)
    settings = claims.measurement(name, paper).canonical()
    measurement = claims.built(name, paper)
    folder = folder_of(name, root)
    arms = runs.arms_of(name, paper, root, files=files)
    if check and not paper.runs:
        return _judge_kept(name, paper, settings, folder / "result.json")
    if check and all(arm.finished() is None for arm in arms):
        log.info("%s: none of its runs is there; %s trains them", name, again)
        return False
    try:
        folder_in(root, "_papers")
        if not check:
            runs.train_missing(arms, folder_in(root, "_papers", "_logs") / name, jobs)
        found = runs.runs_of(arms, paper.extensions)
        with whole_folder(folder) as new:
            figures = new / "figures"
            figures.mkdir()
            try:
                if paper.runs:
                    readings = measurement.read(found, figures)
                else:
                    readings = measurement.measure(paper.seeds, figures)
            except SystemExit as error:
                kind = paper.measure["_target_"]
                problem = Problem("measure", f"readings from {kind}", "it ended the process")
                raise RequestError(problem) from error
            complete = sum(map(len, found.values())) == len(arms)
            claims.check_readings(name, paper, readings, complete=complete)
            told = report.result(name, paper, settings, readings, found)
            drawn = sorted(path.name for path in figures.iterdir())
            text = report.markdown(name, paper, told, drawn)
            write_text(new / "report.md", text, REPORT)
            write_text(new / "report.html", page.html(paper.title, text, new), REPORT)
            write_json(new / "result.json", told, RESULT)
    except OSError as error:
        expected = "a folder that can be written"
        raise RequestError(Problem("--root", expected, str(root), str(error))) from error
    _tell(paper, readings)
    log.info("%s", folder / "report.md")
    if sum(map(len, found.values())) < len(arms):
        there = sum(arm.finished() is not None for arm in arms)  # also those of seeds left out
        message = "%d of %d runs are there: %s trains the others"
        log.info(message, there, len(arms), again)
    return report.verdict_of(paper, readings).matches


def _judge_kept(name: str, paper: Paper, settings: Mapping[str, Any], path: Path) -> bool:
    """Of a paper that trains nothing: what was measured before, by the cells as they are today."""
    readings: Mapping[str, Reading] | Verdict = Verdict("not run")
    if is_there(path):
        readings = report.readings_in(read_json(path, RESULT), str(path), paper, settings)
    if isinstance(readings, Verdict):
        log.info("%s: %s; %s measures it", name, readings, report.command(name, paper.config_dir))
        return False
    _tell(paper, readings)
    return report.verdict_of(paper, readings).matches


def _tell(paper: Paper, readings: Mapping[str, Reading]) -> None:
    log.info("%s\n%s\n", paper.title, paper.claim)
    print_table(report.COLUMNS, report.rows(paper, readings))
    verdict = report.verdict_of(paper, readings)
    protocol = report.protocol_verdict_of(paper, readings)
    log.info("\nthe paper: %s%s", verdict, f"; the protocol: {protocol}" if protocol else "")


def smoke(
    name: str, root: Path, *, jobs: int | str = "auto", config_dir: Path | None = None
) -> bool:
    """Whether all parts of a paper fit together: its runs, as short as can be, and their readings.

    Nothing is said of the claim, and nothing of this enters the report.

    Returns:
        Whether each run ended well and each cell could be read.
    """
    paper = claims.load(name, config_dir)
    measurement = claims.built(name, paper)
    base = folder_in(root, "_papers", "_smoke")
    arms = runs.arms_of(name, paper, base, smoke=True)
    runs.train_missing(arms, folder_in(base, "_logs") / name, jobs)
    found = runs.runs_of(arms, paper.extensions)
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
