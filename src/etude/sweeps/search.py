"""Hyperparameter search with Optuna. Each trial is a run. The trials are stored in an Optuna study
in the sweep's folder.

`n_trials` is the total over all starts: a search that was killed and restarted ends with exactly
that many trials. A trial that was running resumes from its checkpoint; a failed trial is repeated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from etude.errors import Checks, InvalidArguments, Problem, RequestError, nearest
from etude.records.lock import RunLock
from etude.records.metrics_file import is_higher_better
from etude.records.opening import JOURNAL as JOURNAL_KIND
from etude.records.opening import make_subfolder, open_file, path_exists
from etude.records.record import Record
from etude.records.status import Status
from etude.sweeps.job import Job, job_key, relative_path
from etude.sweeps.space import SearchSpace

log = logging.getLogger("etude")

JOURNAL = "optuna.journal"
STUDY_NAME = "search"
SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median", "hyperband")
DIRECTIONS = ("minimize", "maximize")
_STATUS = "status"
_FINAL = (Status.DIVERGED, Status.REFUSED)
"""Failures that would recur; such trials are not repeated."""
_DUPLICATE = "twin"  # the stored value
_MAX_ATTEMPTS = 20
_REDUCTION_FACTOR = 3  # of `hyperband`: one in three trials continues


@dataclass(frozen=True)
class SearchOptions:
    """Options of a hyperparameter search.

    Args:
        n_trials: total number of trials, over all starts.
        sampler: `tpe` (tree-structured Parzen estimators, Bergstra et al. 2011) or `random`.
        pruner: `none`; `median`, which prunes a trial that is worse than the median of earlier
            trials at the same step; or `hyperband` (Li et al. 2018), which gives more steps to
            fewer and fewer trials. The run of a pruned trial is paused.
        metric: validation metric, such as `val/loss`, whose best value is the trial's objective; if
            None, the metric by which runs choose their best checkpoint.
        direction: `minimize` or `maximize`; if None, the direction in which the metric improves.
        min_steps: optimizer step before which no trial is pruned.
        startup_trials: number of random trials before `tpe` and `median` are used.
        seed: seed of the sampler.
    """

    n_trials: int = 20
    sampler: str = "tpe"
    pruner: str = "none"
    metric: str | None = None
    direction: str | None = None
    min_steps: int = 1
    startup_trials: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        checks = Checks()
        for key, choices in (
            ("sampler", SAMPLERS),
            ("pruner", PRUNERS),
            ("direction", DIRECTIONS),
        ):
            value = getattr(self, key)
            if key == "direction" and value is None:
                continue
            expected = "one of " + ", ".join(choices)
            checks.that(value in choices, key, value, expected, nearest(str(value), choices))
        for key in ("n_trials", "min_steps"):
            value = getattr(self, key)
            is_int = isinstance(value, int) and not isinstance(value, bool)
            checks.that(is_int and value > 0, key, value, "a positive whole number")
        for key in ("startup_trials", "seed"):
            value = getattr(self, key)
            checks.that(
                isinstance(value, int) and value >= 0, key, value, "a whole number of at least 0"
            )
        checks.done()


def parse_options(arguments: Mapping[str, Any]) -> SearchOptions:
    """Checks the options of a search, and returns them.

    Args:
        arguments: options by name; see `SearchOptions`.

    Raises:
        RequestError: If an option is invalid; the message names the config key.
    """
    try:
        return SearchOptions(**arguments)
    except InvalidArguments as error:
        raise RequestError(problem.under("hydra.sweeper") for problem in error.problems) from error


@dataclass
class Search:
    """Hyperparameter search that proposes trials and stores their results in an Optuna study.

    Args:
        folder: the sweep's folder.
        space: the search space.
        options: options of the search.
        monitor: metric by which runs choose their best checkpoint; used if the options name no
            metric.
        directions: two collections of names of the task's metrics, without `val/`: those for which
            higher is better, and those for which lower is better.
    """

    folder: Path
    space: SearchSpace
    options: SearchOptions
    monitor: str = "val/loss"
    directions: tuple[Collection[str], Collection[str]] = ((), ())
    study: optuna.Study = field(init=False)
    _trials: dict[str, Trial] = field(init=False, default_factory=dict)  # the running ones
    _paused: list[Trial] = field(init=False, default_factory=list)
    _failed_now: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._lock = RunLock(make_subfolder(self.folder, STUDY_NAME))

    def open(self) -> None:
        """Opens or creates the Optuna study in the sweep's folder, and locks it for other
        processes.

        Raises:
            RunHeld: If another process runs this search.
        """
        self._lock.acquire()
        self.study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=_storage(self.folder),
            pruner=_pruner(self.options),
            direction=self.direction,  # type: ignore[arg-type]
            load_if_exists=True,
        )
        self.study.set_user_attr("metric", self.options.metric or self.monitor)
        # A sampler that restarts with the same seed would repeat its proposals.
        self.study.sampler = _sampler(self.options, len(self.study.trials))

    @property
    def direction(self) -> str:
        """Direction of the search: `minimize` or `maximize`."""
        if self.options.direction is not None:
            return self.options.direction
        metric = self.options.metric or self.monitor
        if (more_is_better := is_higher_better(metric, *self.directions)) is None:
            expected = "minimize or maximize"
            hint = f"the task does not define whether a higher or a lower {metric} is better"
            raise RequestError(Problem("hydra.sweeper.direction", expected, hint=hint))
        return "maximize" if more_is_better else "minimize"

    def close(self) -> None:
        """Releases the lock of the study, so that other processes can open it."""
        self._lock.release()

    @property
    def done(self) -> int:
        """Number of trials that have ended, without failed trials that will be repeated."""
        return sum(_is_counted(trial) for trial in self.study.trials if trial.state.is_finished())

    @property
    def left(self) -> int:
        """Number of trials that have not begun yet."""
        counted = [trial for trial in self.study.trials if _is_counted(trial)]
        return max(0, self.options.n_trials - len(counted) - self._failed_now)

    def proposals(self) -> Iterator[list[str] | None]:
        """Yields the overrides of each trial to run: the fixed ones, and one for each swept key.

        Unfinished trials of earlier starts come first. The item None means that no new trial can be
        proposed until a running trial has ended.
        """
        trials = self.study.trials
        running = [t for t in trials if t.state is TrialState.RUNNING and self._fits(t)]
        for frozen in running:
            trial = Trial(self.study, frozen._trial_id)
            if frozen.user_attrs.get(_STATUS) == Status.PAUSED:
                self._paused.append(trial)
            else:
                yield self._start(trial, frozen.params)
        for frozen in _trials_to_repeat(trials):
            if self.left and self._fits(frozen):
                self.study.enqueue_trial(frozen.params)
                yield self._new_trial()
        while True:
            if (promoted := self._promote()) is not None:
                yield self._start(promoted, promoted.params)
            elif self.left:
                yield self._new_trial()
            elif self._trials:
                yield None  # their results may let a pruned trial resume
            else:
                break
        for trial in self._paused:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        self._paused.clear()

    def ended(self, job: Job) -> None:
        """Stores the result of a trial in the study.

        A trial that was interrupted, or whose run another process was using, stays unfinished; it
        is resumed at the next start.
        """
        trial = self._trials.pop(job.key, None)
        if trial is None or job.status in (Status.INTERRUPTED, Status.HELD):
            return  # it remains a running trial, and is resumed at the next start
        trial.set_user_attr(_STATUS, job.status.value)
        if job.path is not None:
            trial.set_user_attr("path", relative_path(job.path))
        value = self._value(job) if job.status.is_trained else None
        if value is not None:
            self.study.tell(trial.number, value)
        elif job.status is Status.PAUSED:
            self._paused.append(trial)  # Optuna's state stays RUNNING until the search is over
        else:
            self.study.tell(trial.number, state=TrialState.FAIL)
            self._failed_now += job.status not in _FINAL

    def decide(self, overrides: Sequence[str], step: int, metrics: Mapping[str, float]) -> bool:
        """Stores a validation of a run in the study, and returns whether to pause the run.

        A run is paused if the pruner finds its metric too bad. Returns false, and stores nothing,
        if the metrics lack the search's metric, or if this step of the trial is stored already.

        Args:
            overrides: overrides of the run.
            step: optimizer step of the validation.
            metrics: metrics of the validation.
        """
        trial = self._trials.get(job_key(overrides))
        value = metrics.get(self.options.metric or self.monitor)
        if trial is None or value is None:
            return False
        if step in self._values_by_step(trial):  # reported before the run was resumed
            return False
        trial.report(value, step)
        return step >= self.options.min_steps and trial.should_prune()

    def _promote(self) -> Trial | None:
        """Returns a pruned trial that should resume, given the results of later trials.

        None if there is no such trial.
        """
        for trial in self._paused:
            if self._should_resume(trial):
                self._paused.remove(trial)
                trial.set_user_attr(_STATUS, "promoted")
                return trial
        return None

    def _should_resume(self, trial: Trial) -> bool:
        """Returns whether a pruned trial should resume, given the results of the other trials.

        With `hyperband`, a trial resumes if it is among the best third of all trials at its last
        step (Li et al. 2020, algorithm 2). With another pruner, it resumes if the pruner would no
        longer prune it.
        """
        if self.options.pruner != "hyperband":
            return not trial.should_prune()
        own_values = self._values_by_step(trial)
        step = max(own_values)
        others = [t.intermediate_values for t in self.study.get_trials(deepcopy=False)]
        values = [values[step] for values in others if step in values]
        sign = 1 if self.direction == "minimize" else -1
        better = sum(sign * value < sign * own_values[step] for value in values)
        return better < len(values) // _REDUCTION_FACTOR

    def _values_by_step(self, trial: Trial) -> dict[int, float]:
        """Returns a dict from each validated optimizer step of a trial to the metric's value."""
        return self.study._storage.get_trial(trial._trial_id).intermediate_values

    def _new_trial(self) -> list[str] | None:
        """Asks Optuna for a new trial, and returns all its overrides, including the fixed ones.

        A proposal is rejected if a running trial has the same values. Returns None after
        `_MAX_ATTEMPTS` rejected proposals.
        """
        for _ in range(_MAX_ATTEMPTS):
            trial = self.study.ask(self.space.axes)
            if job_key(self.space.overrides(trial.params)) not in self._trials:
                return self._start(trial, trial.params)
            trial.set_user_attr(_STATUS, _DUPLICATE)
            self.study.tell(trial.number, state=TrialState.FAIL)
        return None

    def _start(self, trial: Trial, params: Mapping[str, Any]) -> list[str]:
        overrides = self.space.overrides(dict(params))
        self._trials[job_key(overrides)] = trial
        return overrides

    def _fits(self, frozen: FrozenTrial) -> bool:
        """Returns whether an earlier trial has exactly the swept keys of the current search space.

        Args:
            frozen: the earlier trial.
        """
        return set(frozen.params) == set(self.space.axes)

    def _value(self, job: Job) -> float | None:
        info = Record.read(Path(str(job.path))).info
        best, metric = info.get("best") or {}, self.options.metric
        value = best.get("value") if metric in (None, best.get("metric")) else None
        if value is None and metric is not None:
            value = info.get("final", {}).get(metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            name = metric or self.monitor
            log.warning(
                "the run %s has no finite value of %s; the search ignores this trial",
                job.path,
                name,
            )
            return None
        return float(value)


def load_study(folder: Path) -> optuna.Study:
    """Loads the Optuna study of a hyperparameter search.

    Args:
        folder: the sweep's folder, which contains the study.

    Raises:
        KeyError: If the folder contains no study.
    """
    return optuna.load_study(study_name=STUDY_NAME, storage=_storage(folder))


def _storage(folder: Path) -> JournalStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if path_exists(folder / JOURNAL):  # Optuna would follow a link
        open_file(folder / JOURNAL, JOURNAL_KIND).close()
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def _sampler(options: SearchOptions, count: int) -> optuna.samplers.BaseSampler:
    seed = options.seed + count
    if options.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=options.startup_trials,
        multivariate=True,
        constant_liar=True,  # for parallel trials
    )


def _pruner(options: SearchOptions) -> optuna.pruners.BasePruner:
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=options.startup_trials, n_warmup_steps=options.min_steps - 1
        )
    if options.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=options.min_steps, max_resource="auto", reduction_factor=_REDUCTION_FACTOR
        )
    return optuna.pruners.NopPruner()


def _is_counted(trial: FrozenTrial) -> bool:
    """Returns whether a trial counts towards `n_trials`, the total number of trials of a search.

    Waiting trials, and failed trials that will be repeated, do not count.
    """
    if trial.state is TrialState.FAIL:
        return trial.user_attrs.get(_STATUS) in _FINAL
    return trial.state is not TrialState.WAITING


def _trials_to_repeat(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the failed trials that a search should repeat, one for each combination of values.

    A failed trial is not repeated if it would fail again, or if a trial that counts towards
    `n_trials` has the same values.
    """
    counted = [trial.params for trial in trials if _is_counted(trial)]
    to_repeat: list[FrozenTrial] = []
    for trial in trials:
        repeatable = trial.state is TrialState.FAIL and not _is_counted(trial)
        repeatable = repeatable and trial.user_attrs.get(_STATUS) != _DUPLICATE
        if repeatable and trial.params not in [*counted, *(t.params for t in to_repeat)]:
            to_repeat.append(trial)
    return to_repeat
