"""`etude train`: trains a run or a sweep."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.cli.common import DONE, FAILED, HELD, WRONG
from etude.counts import counted
from etude.errors import Problem, RequestError

log = logging.getLogger("etude")

_MAX_DUPLICATES = 8
"""Maximum number of duplicate jobs that are listed after a sweep."""

USAGE = """\
usage: etude train [OVERRIDES] [-m] [--config-dir DIR] [--cfg job] [--debug]

Train the run that the config describes. An interrupted run continues; a finished run is reused.

Overrides:
  GROUP=FILE  choose a config file of a group
  KEY=VALUE   set a value; with -m, comma-separated values define a sweep

Examples:
  etude train experiment=debug
  etude train experiment=debug model/position=rotary,alibi seed=0,1 -m
  etude train experiment=debug --cfg job

Options:
  -m, --multirun    train a sweep
  --config-dir DIR  folder with your own configs
  --cfg job         show the composed config, without training
  --debug           show the traceback of an error

Groups and their files:
"""


def train(arguments: list[str]) -> int:
    """Runs `etude train` with its command-line arguments and returns the exit code."""
    from etude.config.request import answer, parse

    request = parse(arguments)
    if request.question in ("--help", "-h"):
        print(_help(request.config_dir))
        return DONE
    if request.question:
        return answer(request)
    if request.multirun:
        return _train_sweep(request.overrides, request.config_dir)
    from omegaconf import OmegaConf

    from etude.api import train_record
    from etude.config.compose import compose
    from etude.records.storage import check_new

    config = compose(request.overrides, config_dir=request.config_dir)
    preset = config.run.choices.get("sweep")
    if preset not in (None, "none"):
        hint = "a sweep file defines several runs; to train them, add -m"
        raise RequestError(Problem("sweep", "the option -m", preset, hint))
    if not OmegaConf.is_missing(config, "name"):  # otherwise an error below, with all others
        check_new(Path(config.run.root), config.name, unsafe=config.run.unsafe_storage)
    outcome = train_record(config)
    _log_outcome(outcome.record, reused=outcome.reused)
    return DONE


def _help(config_dir: str | None) -> str:
    """Returns the help text of `etude train`, with a list of the files of all config groups.

    The groups `paper` and `hydra`, which are not part of a run's config, are left out.
    `config_dir` is a folder with the user's configs, whose files are listed too; None lists only
    Étude's own.
    """
    from etude.config.paths import conf_dir, groups

    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    lines = [f"{group}: {', '.join(files)}" for group, files in groups(*folders).items()]
    return "\n".join([USAGE, *lines])


def _train_sweep(overrides: list[str], config_dir: str | None) -> int:
    from etude.analysis.searches import draw_search
    from etude.analysis.sweep_figure import draw_curves
    from etude.api import train_record
    from etude.sweeps.job import count_by_status, sweep_exit_code
    from etude.sweeps.multirun import multirun

    swept = multirun(overrides, train_record, config_dir)
    jobs = swept.jobs
    log.info("\n%s", count_by_status(jobs))
    _log_results(jobs)
    if (figure := draw_curves(swept.folder, jobs)) is not None:
        log.info("  curves  %s", figure)
    for figure in draw_search(swept.folder):
        log.info("  search  %s", figure)
    if any(job.path for job in jobs):
        log.info("  table   %s", swept.folder / "results.csv")
    if has_several_seeds(jobs):
        log.info("  groups  etude runs group %s", _quote(swept.folder))
    _log_duplicates(jobs)
    for job in jobs:
        if job.same_as is None and not job.status.is_successful:
            log.info("  %s  %s: %s", job.status, job.label, job.message or "not started")
    return sweep_exit_code(jobs, done=DONE, failed=FAILED, wrong=WRONG, held=HELD)


def has_several_seeds(jobs: Sequence[Any]) -> bool:
    """Returns whether the trained jobs of a sweep set different seeds."""
    seeds = {
        override
        for job in jobs
        if job.status.is_trained
        for override in job.overrides
        if override.startswith("seed=")
    }
    return len(seeds) > 1


def _log_duplicates(jobs: Sequence[Any]) -> None:
    """Logs a line for each job of a sweep that has the same config as an earlier job."""
    numbers: dict[str, int] = {}
    duplicates = []
    for number, job in enumerate(jobs, start=1):
        if job.same_as is None:
            numbers[job.key] = number
        else:
            first = numbers[job.same_as]
            duplicates.append(
                f"  duplicate  job {number} is the same run as job {first}  {job.label}"
            )
    for line in duplicates[:_MAX_DUPLICATES]:
        log.info("%s", line)
    if len(duplicates) > _MAX_DUPLICATES:
        log.info("  duplicate  and %d more", len(duplicates) - _MAX_DUPLICATES)


def _log_results(jobs: Sequence[Any]) -> None:
    """Logs the final value of the monitored metric of each trained job, best first."""
    from etude.records.metrics_file import is_higher_better
    from etude.records.record import Record

    rows: list[tuple[str, float, Any]] = []
    for job in jobs:
        if job.path and job.status.is_trained and job.same_as is None:
            info = Record.read(Path(job.path)).info
            metric = str((info.get("best") or {}).get("metric"))
            value = (info.get("final") or {}).get(metric)
            if value is not None:
                rows.append((metric, value, job))
    sign = -1 if rows and is_higher_better(rows[0][0]) else 1
    for metric, value, job in sorted(rows, key=lambda row: sign * row[1]):
        log.info("  %s %.4f  %s  %s", metric, value, job.label, job.path)


_GENERATING_TASKS = ("CausalLM", "Instruction", "SpanDenoising")
"""Tasks for whose runs `etude generate` is suggested."""
_PREDICTING_TASKS = (
    "Classification", "Tagging", "Translation", "TextRegression", "TokenRegression",
    "QuestionAnswering",
)  # fmt: skip
"""Tasks for whose runs `etude predict` is suggested."""


def _log_outcome(record: Any, *, reused: bool) -> None:
    info = record.info
    if info.get("status") == "paused":
        return
    path = record.path
    log.info("%s", "" if reused else "\n" + _summary(record))
    log.info("  run folder  %s", path)
    log.info("  loss curve  %s", path / "figures" / "loss.png")
    tasks = _class_names(str(record.config.get("task._target_", "")))
    modules = record.config.get("extensions") or []  # loading a record does not trust them
    trust = "".join([" --trust", *(f" {shlex.quote(each)}" for each in modules)] if modules else [])
    if not tasks.isdisjoint(_PREDICTING_TASKS):
        second = "QuestionAnswering" in tasks or record.config.get("data.pair") is not None
        pair = " --pair '...'" if second else ""
        log.info("  predict     etude predict %s --text '...'%s%s", _quote(path), pair, trust)
    elif not tasks.isdisjoint(_GENERATING_TASKS):
        log.info("  generate    etude generate %s --prompt 'To be'%s", _quote(path), trust)
    log.info("  evaluate    etude evaluate %s%s", _quote(path), trust)
    root = path.parent.parent  # experiments/NAME/SIGNATURE
    elsewhere = root.resolve() != Path("experiments").resolve()
    option = f" --root {_quote(root)}" if elsewhere else ""
    log.info("  list runs   etude runs list%s", option)


def _class_names(target: str) -> set[str]:
    """Returns the name of a class and, if its module is imported, the names of its base classes.

    The module of a custom class is always imported, because its arguments are checked.

    Args:
        target: the dotted path of the class.
    """
    module, _, name = target.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    return {name, *(base.__name__ for base in getattr(kind, "__mro__", ()))}


def _quote(path: Path) -> str:
    """Quotes a path as one shell argument that is not parsed as an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _summary(record: Any) -> str:
    """Returns lines with a run's steps and duration, its best validation, and its final metrics.

    Args:
        record: the folder of the finished run, as a `Record`.
    """
    from etude.records.record_fields import monitored_metric, order_metrics, positive_class_note
    from etude.records.text_tables import format_best, format_metric, metric_grid
    from etude.records.times import format_duration

    info = record.info
    head = f"finished: {counted(info['step'], 'step')} in {format_duration(info['seconds'])}"
    if best := info.get("best"):
        head += f", {format_best(best)}"
    final = {key: value for key, value in info.get("final", {}).items() if value is not None}
    keys = order_metrics((key for key in final if key.startswith("val/")), monitored_metric(record))
    metrics = [(key, format_metric(final[key])) for key in keys]
    lines = [head]
    if metrics and best and best["step"] != info["step"]:
        lines.append(f"  metrics at step {info['step']}:")
    width = shutil.get_terminal_size().columns - 2
    lines += [f"  {line}" for line in metric_grid(metrics, width)]
    if note := positive_class_note(record.config, final):
        lines.append(f"  {note}")
    return "\n".join(lines)
