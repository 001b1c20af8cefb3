"""`etude plan`: shows what `etude train` would do with the same arguments."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from etude.cli.common import DONE, WRONG
from etude.config.request import parse
from etude.console import rich_console, start_live
from etude.counts import counted
from etude.errors import Problem, RequestError
from etude.records.text_tables import print_columns
from etude.sweeps.plan_table import (
    COLUMNS,
    plan_row,
    plan_totals,
    rough_duration,
    short_bytes,
    short_count,
)

if TYPE_CHECKING:
    from etude.sweeps.planning import PlannedJob, PlanProgress

HELP = """\
usage: etude plan [OVERRIDES] [-m] [--config-dir DIR] [--signature] [--json] [--no-measure]

Show what `etude train` would do with the same arguments: which runs are new, finished or would
continue, and their parameters, FLOPs, memory and time. Trains nothing and writes no run.

Examples:
  etude plan experiment=nano
  etude plan experiment=nano model/position=rotary,alibi seed=0,1 -m
  etude plan experiment=nano --signature

Options:
  -m, --multirun    plan a sweep: one row per job, then the totals of the remaining work
  --config-dir DIR  folder with your own configs
  --signature       show the config values that are hashed into the signature, and the signature
  --json            print JSON
  --no-measure      estimate the time only from earlier runs or, if there are none, from the
                    machine's peak FLOP/s. Without this option, if there are no earlier runs, a
                    few steps of each model are timed, which takes about a second

FLOPs are those of the matrix products. Memory is that of one training step in one process:
weights, gradients, optimizer state, and the activations of a micro-batch at their peak.
"""

_PLAN_OPTIONS = ("--signature", "--json", "--no-measure")


def plan(arguments: list[str]) -> int:
    """Runs `etude plan` with its command-line arguments and returns the exit code."""
    plan_options = {word for word in arguments if word in _PLAN_OPTIONS}
    others = [word for word in arguments if word not in plan_options]
    request = parse(others, "plan", _PLAN_OPTIONS)
    if request.question in ("-h", "--help"):
        print(HELP, end="")
        return DONE
    if "--json" in plan_options:  # standard output holds JSON only
        logging.getLogger("etude").setLevel(logging.ERROR)
    if request.question:
        hint = f"to use this option, run `etude train {request.question}`"
        raise RequestError(Problem("option", "an option of `etude plan`", request.question, hint))
    from etude.sweeps.planning import plan as planned

    with _progress(request.multirun) as report:
        jobs = planned(
            request.overrides,
            multirun=request.multirun,
            config_dir=request.config_dir,
            measure="--no-measure" not in plan_options and "--signature" not in plan_options,
            progress=report,
        )
    any_refused = any(job.state.kind == "refused" for job in jobs)
    if "--json" in plan_options:
        entries = [_as_json(job, identity="--signature" in plan_options) for job in jobs]
        output = entries if request.multirun else entries[0]
        print(json.dumps(output, indent=2, ensure_ascii=False))
    elif "--signature" in plan_options:
        print("\n---\n".join(map(_format_identity, jobs)))
    elif request.multirun:
        _print_jobs(jobs)
    else:
        print("\n".join(_format_job(jobs[0])))
    return WRONG if any_refused else DONE


@contextmanager
def _progress(multirun: bool) -> Iterator[PlanProgress | None]:
    """Context manager that shows a progress bar on a terminal while a sweep is planned.

    Yields the function that updates the bar. The function gets the number of planned jobs and the
    number of all jobs. Yields None, and shows no bar, if standard error is not a terminal or if
    `multirun` is false, which means that a single run is planned.
    """
    if not (multirun and sys.stderr.isatty()):
        yield None
        return
    from rich.progress import Progress

    bar = Progress(console=rich_console(stderr=True), transient=True)
    start_live(bar)
    try:
        task = bar.add_task("planning", total=None)
        yield lambda number, total: bar.update(task, completed=number, total=total)
    finally:
        bar.stop()


def _print_jobs(jobs: Sequence[PlannedJob]) -> None:
    print_columns(COLUMNS, [plan_row(number, job) for number, job in enumerate(jobs, start=1)])
    print()
    for line in [*plan_totals(jobs), *_notes(jobs)]:
        print(line)


def _notes(jobs: Sequence[PlannedJob]) -> Iterator[str]:
    """Yields the lines that `etude plan` prints below its table of jobs.

    The lines state how the training speeds were measured or estimated, contain notes on jobs, and
    explain `~`, which marks estimated numbers in the table.
    """
    sizes = [job.size for job in jobs if job.size is not None]
    sources = dict.fromkeys(size.speed.source for size in sizes if size.speed is not None)
    shown = list(sources)[:4]
    if len(sources) > len(shown):
        shown.append(f"{len(sources) - len(shown)} other origins of speeds")
    if shown:
        yield "speed: " + "; ".join(shown)
    yield from _notes_of_jobs(jobs)
    if any(size.about for size in sizes):
        yield "~: estimated, because the vocabulary size is unknown until the data is prepared"


def _notes_of_jobs(jobs: Sequence[PlannedJob]) -> Iterator[str]:
    """Yields one line for each different note on the sizes of jobs, which many jobs may share.

    A note states, for example, why a size is unknown. A line begins with the numbers of the jobs
    that have the note, unless all jobs have it.
    """
    numbers: dict[str, list[str]] = {}
    sized = 0
    for number, job in enumerate(jobs, start=1):
        if job.size is not None:
            sized += 1
            for note in dict.fromkeys(job.size.notes):
                numbers.setdefault(note, []).append(str(number))
    for note, jobs_with_note in numbers.items():
        count = len(jobs_with_note)
        if count == sized:
            yield note
            continue
        shown = jobs_with_note if count <= 6 else [*jobs_with_note[:5], f"{count - 5} more"]
        yield f"{'job' if count == 1 else 'jobs'} {', '.join(shown)}: {note}"


def _format_job(job: PlannedJob) -> Iterator[str]:
    """Yields the lines of `etude plan` that describe one job."""
    yield f"{job.name or '(no name)'}  {job.label}".rstrip()
    yield from (f"  {key:<12}{value}" for key, value in _fields(job))


def _fields(job: PlannedJob) -> Iterator[tuple[str, str]]:
    state, size = job.state, job.size
    if len(state.problems) > 1:
        yield "state", f"refused, {len(state.problems)} errors:"
        yield from (("", str(problem)) for problem in state.problems)
    else:
        yield "state", state.description
    if job.signature:
        yield "signature", f"{job.signature} (without the seed: {job.group})"
    if state.path is not None:
        yield "run folder", str(state.path)
    if size is None:
        return
    if size.parameters is not None:
        about = "about " if size.about else ""
        vocabulary = f" with {size.vocabulary:,} vocabulary entries" if size.vocabulary else ""
        yield "parameters", f"{about}{size.parameters:,}{vocabulary}"
        if size.about:
            message = (
                "the vocabulary size is estimated; it is known only after the data is prepared"
            )
            yield "", message
    if size.steps is not None:
        up_to = "up to " if size.tokens != size.steps * size.tokens_per_step else ""
        steps = f"{counted(size.steps, 'step')} of {up_to}{counted(size.tokens_per_step, 'token')}"
        yield "tokens", f"{short_count(size.tokens)}, {steps}"
    if size.flops is not None:
        rest = (
            "" if size.flops_left in (0, size.flops) else f", {short_count(size.flops_left)} left"
        )
        yield "FLOPs", f"{short_count(size.flops)}{rest}"
    if size.cost is not None:
        cost = size.cost
        parts = {
            "weights": cost.weight_bytes,
            "gradients": cost.gradient_bytes,
            "optimizer": cost.optimizer_bytes,
            f"activations (micro-batch of {size.micro_batch})": cost.activation_bytes,
        }
        listed = ", ".join(f"{name} {short_bytes(count)}" for name, count in parts.items())
        yield "memory", f"{short_bytes(cost.step_bytes)}: {listed}"
    if size.speed is not None:
        rate = f"{short_count(size.speed.tokens_per_second)} tokens/s"
        yield "time left", f"about {rough_duration(size.seconds_left)}, at {rate}"
        yield "speed", size.speed.source
    for note in size.notes:
        yield "note", note


def _format_identity(job: PlannedJob) -> str:
    """Returns the part of a job's config that is hashed into its signature, as YAML.

    Comments before it contain the signature and the group (the signature without the seed). If the
    config is invalid, the result is a comment with the description of the job's state.
    """
    import yaml

    if not job.identity:
        return f"# {job.state.description}"
    head = f"# signature {job.signature}\n# group {job.group} (the signature without the seed)\n"
    return head + yaml.safe_dump(job.identity, sort_keys=True, allow_unicode=True).rstrip()


def _as_json(job: PlannedJob, *, identity: bool) -> dict[str, Any]:
    size = job.size
    entry: dict[str, Any] = {
        "label": job.label,
        "name": job.name,
        "overrides": job.overrides,
        "signature": job.signature,
        "group": job.group,
        "state": job.state.kind,
        "said": job.state.description,
        "path": None if job.state.path is None else str(job.state.path),
        "step": job.state.step,
        "same_as": job.same_as,
    }
    if size is not None:
        entry |= {
            "parameters": size.parameters,
            "vocabulary": size.vocabulary,
            "about": size.about,
            "steps": size.steps,
            "tokens": size.tokens,
            "flops": size.flops,
            "flops_left": size.flops_left,
            "micro_batch": size.micro_batch,
            "seconds_left": size.seconds_left,
            "notes": size.notes,
        }
    if size is not None and size.cost is not None:
        cost = size.cost
        entry["memory"] = {
            "weights": cost.weight_bytes,
            "gradients": cost.gradient_bytes,
            "optimizer": cost.optimizer_bytes,
            "activations": cost.activation_bytes,
            "all": cost.step_bytes,
        }
    if size is not None and size.speed is not None:
        entry["tokens_per_second"] = size.speed.tokens_per_second
        entry["speed_source"] = size.speed.source
    return entry | ({"identity": job.identity} if identity else {})
