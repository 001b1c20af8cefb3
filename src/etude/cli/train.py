"""`etude train`: one run, or a sweep."""

from __future__ import annotations

import logging
from typing import Any

from etude.cli.words import DONE, FAILED, WRONG

log = logging.getLogger("etude")


def train(arguments: list[str]) -> int:
    from etude.config.request import answer, parse

    request = parse(arguments)
    if request.question:
        return answer(request)
    if request.multirun:
        return _train_sweep(request.overrides, request.config_dir)
    from etude.api import train_record
    from etude.config.compose import compose

    config = compose(request.overrides, config_dir=request.config_dir)
    outcome = train_record(config)
    _tell_outcome(outcome.record, reused=outcome.reused)
    return DONE


def _train_sweep(overrides: list[str], config_dir: str | None) -> int:
    from etude.api import train_record
    from etude.sweeps.multirun import multirun

    jobs = multirun(overrides, train_record, config_dir)
    bad = [job for job in jobs if job.status in ("failed", "refused", "held")]
    counts = {
        status: sum(job.status == status for job in jobs)
        for status in dict.fromkeys(job.status for job in jobs)
    }
    log.info("\n%d jobs: %s", len(jobs), ", ".join(f"{n} {status}" for status, n in counts.items()))
    for job in bad:
        log.info("  %s  %s: %s", job.status, job.label, job.message)
    if bad and len(bad) == len(jobs) and all(job.status == "refused" for job in bad):
        return WRONG
    return FAILED if bad else DONE


def _tell_outcome(record: Any, *, reused: bool) -> None:
    info = record.info
    if info.get("status") == "paused":
        return
    name = record.path
    log.info("%s", "" if reused else "\n" + _summary_line(info))
    log.info("  record      %s", name)
    log.info("  loss curve  %s", name / "figures" / "loss.png")
    log.info("  more text   etude generate %s --prompt 'To be'", name)
    log.info("  all runs    etude runs list")


def _summary_line(info: dict[str, Any]) -> str:
    best = info.get("best") or {}
    final = info.get("final", {})
    told = [f"finished: {info['step']} steps, {info['seconds']:.0f} s"]
    told += [f"{key} {value:.4f}" for key, value in final.items() if key.startswith("val/")]
    if best:
        told.append(f"best at step {best['step']}")
    return ", ".join(told)
