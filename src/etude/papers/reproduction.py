"""Implementation of `etude reproduce`, which lists all papers, or measures the values of one paper
again and compares them with the paper.
"""

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
from etude.records.files import atomic_folder, read_json, write_json, write_text
from etude.records.opening import REPORT, RESULT, make_subfolder, path_exists
from etude.records.text_tables import print_table

log = logging.getLogger("etude")


def print_papers(root: Path, config_dir: Path | None = None) -> None:
    """Prints a table of all papers: the claim, the cost, and the verdicts of the last measurement.

    Args:
        root: root folder of the runs.
        config_dir: folder of custom configs, whose papers are listed, too; None if there is none.

    Raises:
        RequestError: If the root is not a folder. After the table was printed: if a paper's file
            has errors or an earlier result is damaged.
    """
    if root.exists() and not root.is_dir():
        raise RequestError(Problem("--root", "a folder", str(root)))
    lines = []
    papers, problems = claims.readable_papers(config_dir)
    for name, paper in papers.items():
        try:
            settings = claims.measurement_node(name, paper).canonical()
        except RequestError as error:
            problems += error.problems
            continue
        path = folder_of(name, root) / "result.json"
        try:
            verdicts = [
                str(verdict or "") for verdict in report.read_verdicts(path, paper, settings)
            ]
        except RequestError as error:
            verdicts = ["damaged", ""]
            problems += error.problems
        lines.append([name, paper.claim, f"{paper.cost} ({paper.tier})", *verdicts])
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
    """Measures the values of a paper's table, prints them and writes `<root>/_papers/<paper>/`.

    First trains the runs that are not yet finished, each in its own process. The written folder
    contains `report.md`, `report.html`, `result.json` and `figures/`; an earlier folder is replaced
    once the new folder is complete.

    Args:
        name: name of the paper.
        root: root folder of the runs.
        jobs: number of runs to train in parallel; `auto` is one run on each GPU, or one run
            without GPUs.
        check: whether to compare without training. For a paper with runs, only finished runs are
            read; if there are none, no file is written. For a paper without runs, only an earlier
            measurement is used, and no file is written.
        files: folder of the files that the user provides.
        config_dir: folder of custom configs, searched before Étude's own configs.

    Returns:
        Whether every value of the paper's table was measured and matches. With `check`, False if
        there are no finished runs or no earlier measurement to compare.

    Raises:
        RequestError: If there is no such paper, its file has errors, the root is not writable, or a
            file that the user provides is missing or doesn't have the SHA-256 in the paper file.
        Interrupted: If a signal was received; the same command resumes the runs.
    """
    paper = claims.load(name, config_dir)
    command = report.command(name, config_dir)
    settings = claims.measurement_node(name, paper).canonical()
    measurement = claims.build_measurement(name, paper)
    folder = folder_of(name, root)
    paper_runs = runs.paper_runs(name, paper, root, files=files)
    if check and not paper.runs:
        return _judge_earlier(name, paper, settings, folder / "result.json")
    if check and all(run.finished() is None for run in paper_runs):
        log.info("%s: no run is finished; run `%s` to train the paper's runs", name, command)
        return False
    try:
        make_subfolder(root, "_papers")
        if not check:
            runs.train_missing(paper_runs, make_subfolder(root, "_papers", "_logs") / name, jobs)
        finished = runs.finished_runs(paper_runs, paper.extensions)
        with atomic_folder(folder) as new:
            figures = new / "figures"
            figures.mkdir()
            try:
                if paper.runs:
                    readings = measurement.read(finished, figures)
                else:
                    readings = measurement.measure(paper.seeds, figures)
            except SystemExit as error:
                kind = paper.measure["_target_"]
                expected, hint = f"measured values from {kind}", "the class raised SystemExit"
                raise RequestError(Problem("measure", expected, hint=hint)) from error
            complete = sum(map(len, finished.values())) == len(paper_runs)
            claims.check_readings(name, paper, readings, complete=complete)
            result = report.result(name, paper, settings, readings, finished)
            figure_names = sorted(path.name for path in figures.iterdir())
            text = report.markdown(name, paper, result, figure_names)
            write_text(new / "report.md", text, REPORT)
            write_text(new / "report.html", page.html(paper.title, text, new), REPORT)
            write_json(new / "result.json", result, RESULT)
    except OSError as error:
        expected = "a writable folder"
        raise RequestError(Problem("--root", expected, str(root), str(error))) from error
    _print_result(paper, readings)
    log.info("%s", folder / "report.md")
    if sum(map(len, finished.values())) < len(paper_runs):
        count = sum(run.finished() is not None for run in paper_runs)  # with incomplete seeds
        message = "%d of %d runs are finished; run `%s` to train the others"
        log.info(message, count, len(paper_runs), command)
    return report.verdict_of(paper, readings).matches


def _judge_earlier(name: str, paper: Paper, settings: Mapping[str, Any], path: Path) -> bool:
    """Compares an earlier measurement with the values in the current paper file, and prints it.

    Used for papers without runs.

    Args:
        name: name of the paper.
        paper: the paper.
        settings: settings of the measurement in the current paper file: the class and arguments in
            `measure`.
        path: path of the earlier `result.json`, which may not exist.

    Returns:
        Whether every measured value matches its value in the paper's table. False if there is no
        earlier measurement with these settings.
    """
    readings: Mapping[str, Reading] | Verdict = Verdict("not run")
    if path_exists(path):
        readings = report.readings_in(read_json(path, RESULT), str(path), paper, settings)
    if isinstance(readings, Verdict):
        command = report.command(name, paper.config_dir)
        log.info("%s: %s; run `%s` to measure this paper", name, readings, command)
        return False
    _print_result(paper, readings)
    return report.verdict_of(paper, readings).matches


def _print_result(paper: Paper, readings: Mapping[str, Reading]) -> None:
    log.info("%s\n%s\n", paper.title, paper.claim)
    print_table(report.COLUMNS, report.rows(paper, readings))
    verdict = report.verdict_of(paper, readings)
    protocol = report.protocol_verdict_of(paper, readings)
    note = f"\n{report.OTHERS}: {protocol}" if protocol else ""
    log.info("\nComparison with the paper: %s%s", verdict, note)


def smoke(
    name: str, root: Path, *, jobs: int | str = "auto", config_dir: Path | None = None
) -> bool:
    """Runs the smoke test of a paper: trains shortened runs and measures the values with them.

    The values are not compared with the paper, and no report is written. See `reproduce` for the
    arguments.

    Returns:
        Whether each run finished and each value of the paper's table was measured.
    """
    paper = claims.load(name, config_dir)
    measurement = claims.build_measurement(name, paper)
    base = make_subfolder(root, "_papers", "_smoke")
    paper_runs = runs.paper_runs(name, paper, base, smoke=True)
    runs.train_missing(paper_runs, make_subfolder(base, "_logs") / name, jobs)
    finished = runs.finished_runs(paper_runs, paper.extensions)
    with TemporaryDirectory() as figures:
        if paper.runs:
            readings = measurement.read(finished, Path(figures))
        else:
            if hasattr(measurement, "short"):  # the full measurement is slow or needs a network
                measurement = measurement.short(base / "_toys")
            readings = measurement.measure(paper.seeds[:1], Path(figures))
    count = sum(map(len, finished.values()))
    missing = [cell.key for cell in paper.cells if cell.key not in readings]
    note = f"; no measured value for {', '.join(missing)}" if missing else ""
    message = "%s: smoke test, %d of %d short runs finished%s; no comparison with the paper"
    log.info(message, name, count, len(paper_runs), note)
    return count == len(paper_runs) and not missing


def folder_of(name: str, root: Path) -> Path:
    """Returns the folder of a paper's report and result."""
    return root / "_papers" / name
