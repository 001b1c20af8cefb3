"""Searching by Optuna: each trial is a run, and the study lies in the sweep's record.

`n_trials` is a total: a search that was killed and started again ends with exactly that many. A
trial that was running goes on from its checkpoint; one that failed is tried again.
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
from etude.records.metrics import rises
from etude.records.opening import JOURNAL as JOURNAL_KIND
from etude.records.opening import folder_in, is_there, opened
from etude.records.record import Record
from etude.records.status import Status
from etude.sweeps.job import Job, key_of, place_of
from etude.sweeps.space import Space

log = logging.getLogger("etude")

JOURNAL = "optuna.journal"
NAME = "search"
SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median", "hyperband")
DIRECTIONS = ("minimize", "maximize")
_STATUS = "status"
_FINAL = (Status.DIVERGED, Status.REFUSED)
"""Failures that would come again."""
_TWIN = "twin"
_TRIES = 20
_REDUCTION = 3  # of `hyperband`: one in three goes on


@dataclass(frozen=True)
class Options:
    """How to search.

    Args:
        n_trials: in all, over all starts.
        sampler: `tpe` (tree-structured Parzen estimators, Bergstra et al. 2011) or `random`.
        pruner: `none`; `median` pauses a run that is worse than the median of the others at the
            same step; `hyperband` (Li et al. 2018) lets ever fewer reach ever more steps.
        metric: of the validation; its best value is what a trial is worth. None is that by which
            the runs choose their best.
        direction: `minimize` or `maximize`; None is what makes the metric better.
        min_steps: no run is paused before this optimizer step.
        startup_trials: drawn at random before `tpe` and `median` have something to go by.
        seed: of the sampler.
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
            whole = isinstance(value, int) and not isinstance(value, bool)
            checks.that(whole and value > 0, key, value, "a positive whole number")
        for key in ("startup_trials", "seed"):
            value = getattr(self, key)
            checks.that(isinstance(value, int) and value >= 0, key, value, "a whole number from 0")
        checks.done()


def options_of(given: Mapping[str, Any]) -> Options:
    """Checked options.

    Raises:
        RequestError: one is wrong; names its key.
    """
    try:
        return Options(**given)
    except InvalidArguments as error:
        raise RequestError(problem.under("hydra.sweeper") for problem in error.problems) from error


@dataclass
class Search:
    """A study that is carried on.

    Args:
        folder: the sweep's record.
        space: what is searched.
        options: how.
        monitor: the metric by which the runs choose their best.
        directions: the metrics of which the task says that more, or less, is better.
    """

    folder: Path
    space: Space
    options: Options
    monitor: str = "val/loss"
    directions: tuple[Collection[str], Collection[str]] = ((), ())
    study: optuna.Study = field(init=False)
    _trials: dict[str, Trial] = field(init=False, default_factory=dict)  # that run now
    _paused: list[Trial] = field(init=False, default_factory=list)
    _failed_now: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._lock = RunLock(folder_in(self.folder, NAME))

    def open(self) -> None:
        """Takes the study up; what was running when its process ended is noted to go on.

        Raises:
            RunHeld: another process carries on this very search.
        """
        self._lock.acquire()
        self.study = optuna.create_study(
            study_name=NAME,
            storage=_storage(self.folder),
            pruner=_pruner(self.options),
            direction=self.direction,  # type: ignore[arg-type]
            load_if_exists=True,
        )
        # one that starts anew with the same seed would propose the same again
        self.study.sampler = _sampler(self.options, len(self.study.trials))

    @property
    def direction(self) -> str:
        """`minimize` or `maximize`."""
        if self.options.direction is not None:
            return self.options.direction
        metric = self.options.metric or self.monitor
        if (found := rises(metric, *self.directions)) is None:
            expected = "minimize or maximize: it is not known which is better"
            raise RequestError(Problem("hydra.sweeper.direction", expected, hint=metric))
        return "maximize" if found else "minimize"

    def close(self) -> None:
        """Lets another process take the study."""
        self._lock.release()

    @property
    def done(self) -> int:
        """Trials that came to an end before this start."""
        return sum(_counts(trial) for trial in self.study.trials if trial.state.is_finished())

    @property
    def left(self) -> int:
        """Trials that are still to begin."""
        counted = [trial for trial in self.study.trials if _counts(trial)]
        return max(0, self.options.n_trials - len(counted) - self._failed_now)

    def proposals(self) -> Iterator[list[str] | None]:
        """The overrides of each trial that is to run, the unfinished ones first.

        None where all that is proposed runs already: ask again when something has ended.
        """
        trials = self.study.trials
        running = [t for t in trials if t.state is TrialState.RUNNING and self._fits(t)]
        for frozen in running:
            trial = Trial(self.study, frozen._trial_id)
            if frozen.user_attrs.get(_STATUS) == Status.PAUSED:
                self._paused.append(trial)
            else:
                yield self._take(trial, frozen.params)
        for frozen in _to_repeat(trials):
            if self.left and self._fits(frozen):
                self.study.enqueue_trial(frozen.params)
                yield self._asked()
        while True:
            if (promoted := self._promoted()) is not None:
                yield self._take(promoted, promoted.params)
            elif self.left:
                yield self._asked()
            elif self._trials:
                yield None  # what they come to may let a paused one go on
            else:
                break
        for trial in self._paused:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        self._paused.clear()

    def ended(self, job: Job) -> None:
        """Tells the study what a trial came to."""
        trial = self._trials.pop(job.key, None)
        if trial is None or job.status in (Status.INTERRUPTED, Status.HELD):
            return  # it stays a running one, and goes on another time
        trial.set_user_attr(_STATUS, job.status.value)
        if job.path is not None:
            trial.set_user_attr("path", place_of(job.path))
        value = self._value(job) if job.status.trained else None
        if value is not None:
            self.study.tell(trial.number, value)
        elif job.status is Status.PAUSED:
            self._paused.append(trial)  # a running one to Optuna, until the search is over
        else:
            self.study.tell(trial.number, state=TrialState.FAIL)
            self._failed_now += job.status not in _FINAL

    def decide(self, overrides: Sequence[str], step: int, metrics: Mapping[str, float]) -> bool:
        """Whether the run with these overrides should be paused, after a validation."""
        trial = self._trials.get(key_of(overrides))
        value = metrics.get(self.options.metric or self.monitor)
        if trial is None or value is None:
            return False
        if step in self._told(trial):  # a run that went on has told this before
            return False
        trial.report(value, step)
        return step >= self.options.min_steps and trial.should_prune()

    def _promoted(self) -> Trial | None:
        """A paused trial that, seeing what came after it, would now be let go on."""
        for trial in self._paused:
            if self._is_good_by_now(trial):
                self._paused.remove(trial)
                trial.set_user_attr(_STATUS, "promoted")
                return trial
        return None

    def _is_good_by_now(self, trial: Trial) -> bool:
        """Of `hyperband`: among the best third at its step (Li et al. 2020, algorithm 2)."""
        if self.options.pruner != "hyperband":
            return not trial.should_prune()
        mine = self._told(trial)
        step = max(mine)
        others = [t.intermediate_values for t in self.study.get_trials(deepcopy=False)]
        values = [values[step] for values in others if step in values]
        sign = 1 if self.direction == "minimize" else -1
        better = sum(sign * value < sign * mine[step] for value in values)
        return better < len(values) // _REDUCTION

    def _told(self, trial: Trial) -> dict[int, float]:
        """What its validations came to, by their steps."""
        return self.study._storage.get_trial(trial._trial_id).intermediate_values

    def _asked(self) -> list[str] | None:
        """A new trial, and not the twin of one that runs just now: that is the very same run."""
        for _ in range(_TRIES):
            trial = self.study.ask(self.space.axes)
            if key_of(self.space.overrides(trial.params)) not in self._trials:
                return self._take(trial, trial.params)
            trial.set_user_attr(_STATUS, _TWIN)
            self.study.tell(trial.number, state=TrialState.FAIL)
        return None

    def _take(self, trial: Trial, params: Mapping[str, Any]) -> list[str]:
        overrides = self.space.overrides(dict(params))
        self._trials[key_of(overrides)] = trial
        return overrides

    def _fits(self, frozen: FrozenTrial) -> bool:
        """Whether an earlier trial is one of today's space."""
        return set(frozen.params) == set(self.space.axes)

    def _value(self, job: Job) -> float | None:
        info = Record.read(Path(str(job.path))).info
        best, metric = info.get("best") or {}, self.options.metric
        value = best.get("value") if metric in (None, best.get("metric")) else None
        if value is None and metric is not None:
            value = info.get("final", {}).get(metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            log.warning("%s has no %s: the search learns nothing from it", job.path, metric)
            return None
        return float(value)


def load_study(folder: Path) -> optuna.Study:
    """The study in a sweep's record, to be read."""
    return optuna.load_study(study_name=NAME, storage=_storage(folder))


def _storage(folder: Path) -> JournalStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if is_there(folder / JOURNAL):  # Optuna follows links
        opened(folder / JOURNAL, JOURNAL_KIND).close()
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def _sampler(options: Options, count: int) -> optuna.samplers.BaseSampler:
    seed = options.seed + count
    if options.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=options.startup_trials,
        multivariate=True,
        constant_liar=True,  # for trials that run at once
    )


def _pruner(options: Options) -> optuna.pruners.BasePruner:
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=options.startup_trials, n_warmup_steps=options.min_steps - 1
        )
    if options.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=options.min_steps, max_resource="auto", reduction_factor=_REDUCTION
        )
    return optuna.pruners.NopPruner()


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of `n_trials`: what failed by accident will be tried again."""
    if trial.state is TrialState.FAIL:
        return trial.user_attrs.get(_STATUS) in _FINAL
    return trial.state is not TrialState.WAITING


def _to_repeat(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that failed by accident and were not tried since."""
    counted = [trial.params for trial in trials if _counts(trial)]
    found: list[FrozenTrial] = []
    for trial in trials:
        accident = trial.state is TrialState.FAIL and not _counts(trial)
        accident = accident and trial.user_attrs.get(_STATUS) != _TWIN
        if accident and trial.params not in [*counted, *(other.params for other in found)]:
            found.append(trial)
    return found
