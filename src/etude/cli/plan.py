"""`etude plan`: what `etude train` with the same words would do."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from etude.cli.words import DONE, WRONG
from etude.config.request import parse
from etude.console import rich_console, start_live
from etude.errors import Problem, RequestError
from etude.records.tables import print_columns, size_of

if TYPE_CHECKING:
    from etude.sweeps.plan import PlannedJob, Told

HELP = """\
usage: etude plan [OVERRIDES] [-m] [--config-dir DIR] [--signature] [--json] [--no-measure]

What `etude train` with the same words would do: which runs are new, done, or would go on, and
what they take. Trains nothing and writes nothing.

  etude plan experiment=nano
  etude plan experiment=nano model/position=rotary,alibi seed=0,1 -m
  etude plan experiment=nano --signature

  -m, --multirun   a sweep: one row a job, then the totals of what is left
  --signature      what enters the signature, and the signature and the group
  --json           all of it as JSON
  --no-measure     take the time from earlier runs or the machine's peak; else, where there are no
                   earlier runs, a few steps of each model are tried, about a second

FLOPs are those of the matrix products. Memory is that of a training step in one process: weights,
gradients, the optimizer's state, and the most that a micro-batch needs beside them.
"""

_OURS = ("--signature", "--json", "--no-measure")


def plan(arguments: list[str]) -> int:
    ours = {word for word in arguments if word in _OURS}
    request = parse([word for word in arguments if word not in ours], "plan", _OURS)
    if request.question in ("-h", "--help"):
        print(HELP, end="")
        return DONE
    if "--json" in ours:  # nothing but that
        logging.getLogger("etude").setLevel(logging.ERROR)
    if request.question:
        hint = "`etude train` answers it"
        raise RequestError(Problem("option", "one of `etude plan`", request.question, hint))
    from etude.sweeps.plan import plan as planned

    with _progress(request.multirun) as told:
        jobs = planned(
            request.overrides,
            multirun=request.multirun,
            config_dir=request.config_dir,
            measure="--no-measure" not in ours and "--signature" not in ours,
            told=told,
        )
    wrong = any(job.state.kind == "refused" for job in jobs)
    if "--json" in ours:
        found = [_as_json(job, identity="--signature" in ours) for job in jobs]
        print(json.dumps(found if request.multirun else found[0], indent=2, ensure_ascii=False))
    elif "--signature" in ours:
        print("\n---\n".join(map(_identity, jobs)))
    elif request.multirun:
        _print_jobs(jobs)
    else:
        print("\n".join(_report(jobs[0])))
    return WRONG if wrong else DONE


@contextmanager
def _progress(multirun: bool) -> Iterator[Told | None]:
    """A bar on a terminal for as long as jobs are planned, out of the way of what is printed."""
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
    sizes = ["parameters", "tokens", "FLOPs", "memory", "time left"]
    columns = ["", "label", "signature", "state", *sizes]
    print_columns(columns, [_row(number, job) for number, job in enumerate(jobs, start=1)])
    print()
    for line in [*_totals(jobs), *_notes(jobs)]:
        print(line)


def _row(number: int, job: PlannedJob) -> list[str]:
    state = job.state.said.splitlines()[0]
    if job.same_as is not None:
        state = f"same as job {job.same_as}"
    size = job.size
    cells = ["", "", "", "", ""]
    if size is not None:
        memory = None if size.cost is None else size.cost.step_bytes
        left = size.seconds_left if job.state.works and job.same_as is None else None
        cells = [
            _parameters(job),
            _count(size.tokens),
            _count(size.flops),
            _bytes(memory),
            _duration(left),
        ]
    return [str(number), job.label, job.signature, state, *cells]


def _totals(jobs: Sequence[PlannedJob]) -> Iterator[str]:
    """How many of each state, and what is left to do."""
    distinct = [job for job in jobs if job.same_as is None]
    counts: dict[str, int] = {}
    for job in distinct:
        kind = {"continues": "to continue", "diverged": "diverged before"}.get(
            job.state.kind, job.state.kind
        )
        counts[kind] = counts.get(kind, 0) + 1
    if len(distinct) < len(jobs):
        counts["the same as another"] = len(jobs) - len(distinct)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    yield f"{len(jobs)} jobs: {told}"
    left = [job.size for job in distinct if job.size is not None and job.state.works]
    if not left:
        return
    flops = [size.flops_left for size in left if size.flops_left is not None]
    seconds = [size.seconds_left for size in left if size.seconds_left is not None]
    unknown = len(left) - len(seconds)
    more = f", and {unknown} of unknown length" if unknown else ""
    yield (
        f"left: {_count(math.fsum(flops))} FLOPs, about {_duration(math.fsum(seconds))}"
        f" one after another{more}"
    )


def _notes(jobs: Sequence[PlannedJob]) -> Iterator[str]:
    """What the sizes rest on, each said once."""
    sizes = [job.size for job in jobs if job.size is not None]
    sources = dict.fromkeys(size.speed.source for size in sizes if size.speed is not None)
    shown = list(sources)[:4]
    if len(sources) > len(shown):
        shown.append(f"{len(sources) - len(shown)} others")
    if shown:
        yield "speed: " + "; ".join(shown)
    yield from _notes_of_jobs(jobs)
    if any(size.about for size in sizes):
        yield "~: the tokenizer's vocabulary is known after preparation"


def _notes_of_jobs(jobs: Sequence[PlannedJob]) -> Iterator[str]:
    """Each note once, after the numbers of its jobs unless it is about all of them."""
    numbers: dict[str, list[str]] = {}
    sized = 0
    for number, job in enumerate(jobs, start=1):
        if job.size is not None:
            sized += 1
            for note in dict.fromkeys(job.size.notes):
                numbers.setdefault(note, []).append(str(number))
    for note, of in numbers.items():
        if len(of) == sized:
            yield note
            continue
        shown = of if len(of) <= 6 else [*of[:5], f"{len(of) - 5} more"]
        yield f"{'job' if len(of) == 1 else 'jobs'} {', '.join(shown)}: {note}"


def _report(job: PlannedJob) -> Iterator[str]:
    """One job, a line a fact."""
    yield f"{job.name or '(no name)'}  {job.label}".rstrip()
    yield from (f"  {key:<12}{value}" for key, value in _facts(job))


def _facts(job: PlannedJob) -> Iterator[tuple[str, str]]:
    state, size = job.state, job.size
    if len(state.problems) > 1:
        yield "state", f"refused, {len(state.problems)} mistakes:"
        yield from (("", str(problem)) for problem in state.problems)
    else:
        yield "state", state.said
    if job.signature:
        yield "signature", f"{job.signature}, group {job.group}"
    if state.path is not None:
        yield "record", str(state.path)
    if size is None:
        return
    if size.parameters is not None:
        about = "about " if size.about else ""
        words = f" with a vocabulary of {size.vocabulary:,}" if size.vocabulary else ""
        yield "parameters", f"{about}{size.parameters:,}{words}"
        if size.about:
            yield "", "this vocabulary is assumed; it is known after preparation"
    if size.steps is not None:
        most = "up to " if size.tokens != size.steps * size.tokens_per_step else ""
        step = f"{size.steps:,} steps of {most}{size.tokens_per_step:,}"
        yield "tokens", f"{_count(size.tokens)}, {step}"
    if size.flops is not None:
        rest = "" if size.flops_left in (0, size.flops) else f", {_count(size.flops_left)} left"
        yield "FLOPs", f"{_count(size.flops)}{rest}"
    if size.cost is not None:
        cost = size.cost
        parts = {
            "weights": cost.weight_bytes,
            "gradients": cost.gradient_bytes,
            "optimizer": cost.optimizer_bytes,
            f"a micro-batch of {size.micro_batch}": cost.activation_bytes,
        }
        told = ", ".join(f"{name} {_bytes(count)}" for name, count in parts.items())
        yield "memory", f"{_bytes(cost.step_bytes)}: {told}"
    if size.speed is not None:
        rate = f"{_count(size.speed.tokens_per_second)} tokens/s"
        yield "time left", f"about {_duration(size.seconds_left)}, at {rate}"
        yield "speed", size.speed.source
    for note in size.notes:
        yield "note", note


def _identity(job: PlannedJob) -> str:
    """What is hashed, as YAML, and the hashes."""
    import yaml

    if not job.identity:
        return f"# {job.state.said}"
    head = f"# signature {job.signature}\n# group {job.group} (the same without the seed)\n"
    return head + yaml.safe_dump(job.identity, sort_keys=True, allow_unicode=True).rstrip()


def _as_json(job: PlannedJob, *, identity: bool) -> dict[str, Any]:
    size = job.size
    found: dict[str, Any] = {
        "label": job.label,
        "name": job.name,
        "overrides": job.overrides,
        "signature": job.signature,
        "group": job.group,
        "state": job.state.kind,
        "said": job.state.said,
        "path": None if job.state.path is None else str(job.state.path),
        "step": job.state.step,
        "same_as": job.same_as,
    }
    if size is not None:
        found |= {
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
        found["memory"] = {
            "weights": cost.weight_bytes,
            "gradients": cost.gradient_bytes,
            "optimizer": cost.optimizer_bytes,
            "activations": cost.activation_bytes,
            "all": cost.step_bytes,
        }
    if size is not None and size.speed is not None:
        found["tokens_per_second"] = size.speed.tokens_per_second
        found["speed_source"] = size.speed.source
    return found | ({"identity": job.identity} if identity else {})


def _parameters(job: PlannedJob) -> str:
    if job.size is None or job.size.parameters is None:
        return ""
    return ("~" if job.size.about else "") + f"{job.size.parameters:,}"


def _count(value: float | None) -> str:
    """Three digits: `1.92 M`, and `3.14e+23` for what no letter stands for."""
    if value is None:
        return ""
    for size, letter in ((1e15, None), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value:.2e}" if letter is None else f"{_three(value / size)} {letter}"
    return f"{value:.3g}"


def _bytes(count: int | None) -> str:
    return "" if count is None else size_of(count)


def _three(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def _duration(seconds: float | None) -> str:
    """`45 s`, `2:40 min`, `5.1 h`, `12 days`, `340 years`."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 5400:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02d} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    days = seconds / 86400
    return f"{days:,.1f} days" if days < 700 else f"{days / 365.25:,.0f} years"
