"""`etude train`: one run, or a sweep."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.cli.words import DONE, FAILED, HELD, WRONG
from etude.errors import Problem, RequestError

log = logging.getLogger("etude")

_SHOWN = 8
"""Jobs that are the same run as another, listed at the end."""

USAGE = """\
usage: etude train [OVERRIDES] [-m] [--config-dir DIR] [--cfg job] [--debug]

Trains the run that the config describes, what is left of it, or nothing if it is done.
GROUP=FILE chooses a file, KEY=VALUE sets a value; with -m, commas sweep.

  etude train experiment=debug
  etude train experiment=debug model/position=rotary,alibi seed=0,1 -m
  etude train --cfg job experiment=debug      the config, without running it

Groups and their files:
"""


def train(arguments: list[str]) -> int:
    from etude.config.request import answer, parse

    request = parse(arguments)
    if request.question in ("--help", "-h"):
        print(_help(request.config_dir))
        return DONE
    if request.question:
        return answer(request)
    if request.multirun:
        return _train_sweep(request.overrides, request.config_dir)
    from etude.api import train_record
    from etude.config.compose import compose
    from etude.records.storage import check_new

    config = compose(request.overrides, config_dir=request.config_dir)
    preset = config.run.choices.get("sweep")
    if preset not in (None, "none"):
        raise RequestError(Problem("sweep", "-m beside it, as it stands for several runs", preset))
    check_new(Path(config.run.root), config.name, unsafe=config.run.unsafe_storage)
    outcome = train_record(config)
    _tell_outcome(outcome.record, reused=outcome.reused)
    return DONE


def _help(config_dir: str | None) -> str:
    """What the command does, and the files to choose from."""
    from etude.config.paths import conf_dir, groups

    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    lines = [f"{group}: {', '.join(files)}" for group, files in groups(*folders).items()]
    return "\n".join([USAGE, *lines])


def _train_sweep(overrides: list[str], config_dir: str | None) -> int:
    from etude.analysis.searches import draw_search
    from etude.analysis.studies import draw_curves
    from etude.api import train_record
    from etude.sweeps.job import counted, exit_code_of
    from etude.sweeps.multirun import multirun

    swept = multirun(overrides, train_record, config_dir)
    jobs = swept.jobs
    log.info("\n%s", counted(jobs))
    _tell_results(jobs)
    if (figure := draw_curves(swept.folder, jobs)) is not None:
        log.info("  curves  %s", figure)
    for figure in draw_search(swept.folder):
        log.info("  search  %s", figure)
    if any(job.path for job in jobs):
        log.info("  table   %s", swept.folder / "results.csv")
    _tell_the_same(jobs)
    for job in jobs:
        if job.same_as is None and not job.status.good:
            log.info("  %s  %s: %s", job.status, job.label, job.message or "not begun")
    return exit_code_of(jobs, done=DONE, failed=FAILED, wrong=WRONG, held=HELD)


def _tell_the_same(jobs: Sequence[Any]) -> None:
    """Which jobs asked for a run that an earlier one had asked for."""
    numbers: dict[str, int] = {}
    same = []
    for number, job in enumerate(jobs, start=1):
        if job.same_as is None:
            numbers[job.key] = number
        else:
            same.append(f"  same    job {number} as job {numbers[job.same_as]}  {job.label}")
    for line in same[:_SHOWN]:
        log.info("%s", line)
    if len(same) > _SHOWN:
        log.info("  same    and %d more", len(same) - _SHOWN)


def _tell_results(jobs: Sequence[Any]) -> None:
    """What the finished jobs came to at their end, by the metric that decides, the best first."""
    from etude.records.metrics import rises
    from etude.records.record import Record

    rows: list[tuple[str, float, Any]] = []
    for job in jobs:
        if job.path and job.status.trained and job.same_as is None:
            info = Record.read(Path(job.path)).info
            metric = str((info.get("best") or {}).get("metric"))
            value = (info.get("final") or {}).get(metric)
            if value is not None:
                rows.append((metric, value, job))
    sign = -1 if rows and rises(rows[0][0]) else 1
    for metric, value, job in sorted(rows, key=lambda row: sign * row[1]):
        log.info("  %s %.4f  %s  %s", metric, value, job.label, job.path)


_WRITES = ("CausalLM", "Instruction", "SpanDenoising")
_SAYS = (
    "Classification", "Tagging", "Translation", "TextRegression", "TokenRegression",
    "QuestionAnswering",
)  # fmt: skip
"""Tasks whose runs continue a text, and whose say something of one."""


def _tell_outcome(record: Any, *, reused: bool) -> None:
    info = record.info
    if info.get("status") == "paused":
        return
    name = record.path
    log.info("%s", "" if reused else "\n" + _summary_line(info))
    log.info("  record      %s", name)
    log.info("  loss curve  %s", name / "figures" / "loss.png")
    task = str(record.config.get("task._target_", "")).rpartition(".")[2]
    modules = record.config.get("extensions") or []  # the user's own, which a record names in vain
    trust = "".join([" --trust", *(f" {shlex.quote(each)}" for each in modules)] if modules else [])
    if task in _SAYS:
        log.info("  new texts   etude predict %s --text '...'%s", _typed(name), trust)
    elif task in _WRITES:
        log.info("  more text   etude generate %s --prompt 'To be'%s", _typed(name), trust)
    log.info("  scores      etude evaluate %s%s", _typed(name), trust)
    root = name.parent.parent  # experiments/NAME/SIGNATURE
    elsewhere = root.resolve() != Path("experiments").resolve()
    listed = f" --root {_typed(root)}" if elsewhere else ""
    log.info("  all runs    etude runs list%s", listed)


def _typed(path: Path) -> str:
    """The path as a word of a command that a shell understands."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _summary_line(info: dict[str, Any]) -> str:
    best = info.get("best") or {}
    final = info.get("final", {})
    told = [f"finished: {info['step']} steps, {info['seconds']:.0f} s"]
    told += [f"{key} {value:.4f}" for key, value in final.items() if key.startswith("val/")]
    if best:
        told.append(f"best at step {best['step']}")
    return ", ".join(told)
