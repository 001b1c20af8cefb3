"""Planning of jobs: the run folder, state and size of each job, without training or writing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from omegaconf import DictConfig

from etude.config.checks import CheckedConfig, check
from etude.config.compose import compose_in_search, search_configs
from etude.config.replacements import report_replaced
from etude.console import hide_messages
from etude.errors import EtudeError, Problem, RequestError
from etude.exclusivity import reserve_process
from etude.records.record import build_label
from etude.records.signature import DIGITS, group, sha256_of, signature
from etude.records.storage import check_root
from etude.secrets import mask_record
from etude.sweeps.estimate import Estimator, RunSize
from etude.sweeps.expand import Sweep, expand, sweep_error
from etude.training.build import Parts, build_parts
from etude.training.memory_check import check_memory
from etude.training.process import fresh_settings
from etude.training.state import RunState, determine_state, refusal, request_key

PlanProgress = Callable[[int, int], None]
"""Progress callback, which receives two numbers: of the finished plans and of all jobs."""


@dataclass
class PlannedJob:
    """Plan of one job of a sweep, or of a single run.

    Attributes:
        label: short text of the job's overrides, such as `position=rotary lr=1e-3`.
        overrides: overrides of the job.
        name: name of the run.
        signature: first 12 hex digits of the run's signature; empty if the config is invalid.
        group: 12 hex digits that are the same for runs that differ only in their seed; empty if the
            config is invalid.
        identity: the keys and values of the config that the signature is a hash of.
        state: what `etude train` would do with the run, such as start or continue it.
        size: parameters, FLOP, memory and time of the run; None if the config is invalid.
        request: key that is equal for jobs that request the same run; None if the config is
            invalid.
        same_as: number, from 1, of an earlier job that requests the same run; None without such a
            job.
    """

    label: str
    overrides: list[str]
    name: str
    signature: str
    group: str
    identity: dict[str, Any]
    state: RunState
    size: RunSize | None = None
    request: tuple[Path, str] | None = None
    same_as: int | None = None

    def __repr__(self) -> str:
        state = self.state.description.splitlines()[0]
        named = " ".join(filter(None, [self.name, self.signature, self.label]))
        return f"PlannedJob({named}: {state})"


def plan(
    overrides: Sequence[str],
    *,
    multirun: bool = False,
    config_dir: str | None = None,
    measure: bool = True,
    progress: PlanProgress | None = None,
) -> list[PlannedJob]:
    """Returns what `etude train OVERRIDES` would do, as one plan per job, without training.

    Args:
        overrides: overrides in Hydra's grammar.
        multirun: whether `key=a,b` sweeps, as with `etude train -m`.
        config_dir: folder of custom configs.
        measure: whether to time a few training steps if no earlier run has recorded their speed.
            Takes about a second for each model.
        progress: function that is called with the number of planned jobs and the number of all
            jobs.

    Raises:
        RequestError: If the overrides of a job cannot be composed, so that no job would run, or if
            this process is training. Other errors in a config are reported in the job's state.
    """
    planner = _Planner(measure)
    jobs: list[PlannedJob] = []
    with reserve_process("etude.plan"), search_configs(config_dir) as hydra:
        sweep = _expand(overrides, hydra) if multirun else None
        requests = [list(overrides)] if sweep is None else sweep.jobs or []
        for number, items in enumerate(requests, start=1):
            try:
                config = compose_in_search([item.lstrip("+") for item in items] if sweep else items)
            except RequestError as error:
                raise sweep_error(sweep, error) if sweep else error from error
            if sweep is None:  # for a sweep, `expand` has reported it
                report_replaced(overrides)
            with hide_messages():
                jobs.append(planner.job(config))
            if progress is not None:
                progress(number, len(requests))
    first: dict[tuple[Path, str], int] = {}
    for number, job in enumerate(jobs, start=1):
        if job.request is not None and first.setdefault(job.request, number) != number:
            job.same_as = first[job.request]
    return jobs


def _expand(overrides: Sequence[str], hydra: Hydra) -> Sweep:
    sweep = expand(overrides, hydra)
    if sweep.jobs is None:
        hint = (
            "this sweeper chooses each job from the results of earlier jobs, so the jobs are not "
            "known in advance; to plan a single run, omit multirun=True and the swept values"
        )
        raise RequestError(Problem("hydra/sweeper", "basic", sweep.sweeper, hint))
    return sweep


class _Planner:
    """Planner of jobs, which builds data modules and sizes that several jobs share only once."""

    def __init__(self, measure: bool) -> None:
        self._estimator = Estimator(measure=measure)
        self._data: dict[str, Any] = {}
        self._fingerprints: dict[str, str] = {}

    def job(self, config: DictConfig) -> PlannedJob:
        """Returns the plan of one job.

        Args:
            config: the composed config of the job.
        """
        typed = mask_record(list(config.run.overrides))
        name = str(config.get("name") or "")  # unchecked
        job = PlannedJob(build_label(typed), typed, name, "", "", {}, RunState("new", "new"))
        try:
            with fresh_settings():
                self._plan_checked(job, check(config))
        except RequestError as error:
            job.state = refusal(error.problems, job.state.path)
        except EtudeError as error:
            job.state = RunState("refused", f"refused: {error}", path=job.state.path)
        return job

    def _plan_checked(self, job: PlannedJob, checked: CheckedConfig) -> None:
        full_signature = signature(checked.identity)
        job.name, job.identity, job.request = checked.name, checked.identity, request_key(checked)
        job.signature, job.group = full_signature[:DIGITS], group(checked.identity)
        parts = build_parts(checked)
        key = sha256_of([checked.nodes["data"].canonical(), list(checked.config.extensions)])
        self._share_data(key, parts)

        def fingerprint() -> str:
            if key not in self._fingerprints:
                self._fingerprints[key] = parts.data.fingerprint()
            return self._fingerprints[key]

        def check_start(folder: Path) -> None:
            parts.trainer.check_machine()
            check_root(folder, unsafe=checked.run.unsafe_storage)

        job.state = determine_state(checked, fingerprint, check_start)
        if job.state.kind != "refused":
            job.size = self._estimator.size(checked, parts, job.state, job.group)
            if job.state.works:
                job.size.notes += _room_notes(checked, parts, job.size.vocabulary)

    def _share_data(self, key: str, parts: Parts) -> None:
        """Replaces a job's data module by that of an earlier job with the same data, if any.

        The data files are therefore read only once.

        Args:
            key: string that is equal for jobs with the same data.
            parts: objects built from the job's config; the attribute `data` is replaced.
        """
        if key not in self._data:
            parts.data.check()
            self._data[key] = parts.data
        parts.data = self._data[key]


def _room_notes(checked: CheckedConfig, parts: Parts, vocabulary: int) -> list[str]:
    """Returns the reasons for which `etude train` would refuse a run for lack of memory.

    The reasons are notes of the plan and not errors, because the plan may be for another machine.
    The list is empty if there is enough memory. `vocabulary` is the vocabulary size of the model.
    """
    try:
        check_memory(checked, parts, vocabulary or None)
    except RequestError as error:
        return [
            f"`etude train` would refuse this run on this machine: {problem}"
            for problem in error.problems
        ]
    return []
