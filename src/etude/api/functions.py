"""Functions of the Python interface: compose configs, train, and load runs and weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from etude.api.run import Run
from etude.api.run_sequence import Runs
from etude.arguments import check_arguments
from etude.config.checks import CheckedConfig, check
from etude.config.compose import compose as compose_config
from etude.config.composed import as_composed
from etude.config.override_values import Overrides, as_overrides
from etude.config.paths import conf_dir, groups
from etude.console import show_messages
from etude.errors import Problem, RequestError, nearest
from etude.interrupts import interruptible
from etude.records.record import Record
from etude.records.registry import find_record, read_records, report_damaged
from etude.records.status import Status

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from etude.analysis.learning_rates import LearningRates
    from etude.models.language_model import LanguageModel
    from etude.models.seq2seq import Seq2Seq
    from etude.models.text_encoder import TextEncoder
    from etude.sweeps.plan_table import PlannedJobs


log = logging.getLogger("etude")


@check_arguments(RequestError)
def compose(*overrides: Overrides, config_dir: str | Path | None = None) -> DictConfig:
    """Returns the config that `etude train OVERRIDES` would run.

    A notebook shows it as a tree, in which values that differ from the experiment are marked.

    Example:
        compose("experiment=nano", "optimizer.lr=3e-4")
        compose({"experiment": "nano", "optimizer.lr": 3e-4, "model": {"layers": 4}})

    Args:
        overrides: Hydra overrides: strings, lists of strings, or dicts from keys to values. A
            nested dict sets the keys below its key.
        config_dir: folder with your own configs, which is searched before Étude's own; None for
            Étude's own only.

    Raises:
        RequestError: the overrides or config files cannot be composed; the message lists all
            errors. `train` and `plan` also check each key and value.
    """
    config = compose_config(as_overrides(overrides), config_dir=config_dir)
    return as_composed(config, config_dir)


@check_arguments(RequestError)
def choices(group: str, *, config_dir: str | Path | None = None) -> list[str]:
    """Returns the names of the config files of a group, in alphabetical order.

    Example:
        >>> choices("model/feedforward")
        ['geglu', ...]

    Args:
        group: a config group, such as `model/position`.
        config_dir: as for `compose`.

    Raises:
        RequestError: there is no such group.
    """
    folders = [conf_dir(), *([] if config_dir is None else [Path(config_dir)])]
    if not folders[-1].is_dir():
        expected = "an existing folder with config files"
        raise RequestError(Problem("config_dir", expected, str(config_dir)))
    files = groups(*folders)
    if group not in files:
        hint = nearest(group, files)
        raise RequestError(Problem("group", "a config group", group, hint))
    return files[group]


@check_arguments(RequestError)
def train(config: DictConfig) -> Run:
    """Trains the run that `config` describes, and returns it.

    If a run of the same config is saved, `run.on_existing` states what to do. With the default,
    `continue`, a finished run is returned without training; an interrupted, paused or failed run
    continues from its last checkpoint; for a run that diverged, `RunFailed` is raised.

    The returned run can import the modules in the config's `extensions` and build the classes in
    these modules.

    Args:
        config: result of `compose`.

    Raises:
        RequestError: the config or the data is invalid.
        RunHeld: another process trains the run.
        RunFailed: training failed or diverged.
        Interrupted: a signal stopped the run; the same call continues it.
    """
    show_messages()
    with interruptible():
        return Run(train_record(config).record, trust=list(config.extensions))


def train_record(config: DictConfig, checked: CheckedConfig | None = None) -> Any:
    """Trains a run like `train`, and returns its result as an `etude.training.state.Outcome`.

    The result contains the status, the run's folder as a `Record`, and whether a saved run was
    returned without training. Raises the same exceptions as `train`.

    Args:
        config: the composed config.
        checked: the config after it was checked; if None, this function checks `config`.
    """
    from etude.config.checks import InvalidConfig
    from etude.training.state import reuse_finished

    try:
        checked = checked or check(config)
        outcome = reuse_finished(checked)
        if outcome is not None:
            return outcome
    except InvalidConfig:
        pass  # `train_run` adds the errors of the values and of the data's files
    from etude.analysis.run_outputs import write_outputs
    from etude.training.run import train as train_run

    return train_run(config, partial(write_outputs, options=config.run), checked)


@check_arguments(RequestError)
def sweep(*overrides: Overrides, config_dir: str | Path | None = None) -> Runs:
    """Trains the runs of a sweep like `etude train OVERRIDES -m`, and returns them in order.

    Finished runs are reused, interrupted runs continue. A job that fails does not end the sweep: a
    line of the log states its error, and its run, if it has one, has another status than finished.

    Example:
        sweep("experiment=debug", "model/position=rotary,alibi", "seed=0,1,2")
        sweep("experiment=debug", {"model/position": ["rotary", "alibi"], "seed": range(3)})

    Args:
        overrides: as for `compose`; comma-separated values define a sweep. In a dict, so does a
            list of values; a value that is itself a list is in another list, such as
            `{"optimizer.betas": [[0.9, 0.95]]}`.
        config_dir: as for `compose`.

    Returns:
        The runs of all jobs that have one. Jobs with the same config have one run.

    Raises:
        RequestError: an override or a swept value is invalid, or all jobs are; none was started.
        Interrupted: a signal ended the sweep; the same call continues it.
    """
    from etude.sweeps.job import count_by_status

    show_messages()
    folder = None if config_dir is None else str(config_dir)
    typed = as_overrides(overrides, sweep=True)
    with interruptible():
        from etude.sweeps.multirun import multirun

        jobs = multirun(typed, train_record, folder).jobs
    log.info("%s", count_by_status(jobs))
    for job in jobs:
        if job.same_as is None and not job.status.is_successful:
            log.info("  %s  %s: %s", job.status, job.label, job.message or "not started")
    if jobs and all(job.status is Status.REFUSED for job in jobs):
        hint = jobs[0].message or ""
        expected = "values with which at least one job can be trained"
        raise RequestError(Problem("overrides", expected, hint=hint))
    trained = [
        Run(Record.read(Path(path))) for path in dict.fromkeys(job.path for job in jobs) if path
    ]
    return Runs([Run(run.record, trust=list(run.config.extensions)) for run in trained])


@check_arguments(RequestError)
def plan(
    *overrides: Overrides,
    multirun: bool = False,
    config_dir: str | Path | None = None,
    measure: bool = True,
) -> PlannedJobs:
    """Returns the jobs that `etude train` would run, each with its state and estimated cost.

    The state is, for example, new or finished; for an invalid config, it contains the errors. The
    cost is the number of parameters, the FLOPs, the memory and the time. The function trains
    nothing and writes no run. A notebook shows the list as a table.

    Args:
        overrides: as for `compose`; with `multirun`, as for `sweep`.
        multirun: whether comma-separated values, and lists in a dict, define a sweep.
        config_dir: as for `compose`.
        measure: whether to time a few training steps of a model if no earlier run has saved its
            speed. If false, the speed is estimated from the FLOPs per second of this machine.

    Raises:
        RequestError: an override is invalid in all jobs of the sweep.
    """
    from etude.sweeps.plan_table import PlannedJobs
    from etude.sweeps.planning import plan as planned

    folder = None if config_dir is None else str(config_dir)
    typed = as_overrides(overrides, sweep=multirun)
    return PlannedJobs(planned(typed, multirun=multirun, config_dir=folder, measure=measure))


@check_arguments(RequestError)
def find_learning_rate(
    config: DictConfig, *, lowest: float = 1e-6, highest: float = 1.0, steps: int = 100
) -> LearningRates:
    """Runs a learning rate range test (Smith 2015): trains with a rising learning rate.

    The trained model is discarded, and no run is saved. The result has these attributes:
    `steepest`, also `suggestion`, is the learning rate at which the loss falls fastest;
    `tenth_of_minimum` is a tenth of the learning rate at which the loss is smallest; `notes` is a
    list of remarks. Both learning rates are None if the loss falls less than its noise. A figure of
    the loss against the learning rate and the plotted numbers are saved in the folder `folder`,
    which is `<run.root>/_lr/<signature>` with the first 12 digits of the config's hash.

    Args:
        config: the config of a run, as for `train`.
        lowest: `optimizer.lr` of the first step. Other learning rates of the optimizer are scaled
            in proportion.
        highest: `optimizer.lr` of the last step.
        steps: maximum number of steps; the test ends early where the loss exceeds 4 times its
            minimum or is not finite.

    Raises:
        InvalidArguments: `lowest`, `highest` and `steps` are not a valid range.
        RequestError, Interrupted: as for `train`.
        EtudeError: the loss is NaN or infinite from the first step on.
    """
    from etude.analysis.learning_rates import suggest_rates, write_range_test
    from etude.training.build import check_all
    from etude.training.range_test import range_test

    show_messages()
    checked = check_all(config)
    sweep = range_test(checked, lowest=lowest, highest=highest, steps=steps)
    rates = suggest_rates(sweep, steps)
    write_range_test(rates, {"name": checked.name, "overrides": checked.shown["run"]["overrides"]})
    return rates


@check_arguments(RequestError)
def coordinate_check(
    config: DictConfig,
    widths: Sequence[int],
    *,
    steps: int = 4,
    seeds: Sequence[int] = (0,),
    beside_standard: bool = False,
    figure: str | Path | None = None,
) -> pd.DataFrame:
    """Measures how activation sizes scale with the width over a few training steps.

    This is the coordinate check of muP (Yang et al. 2022): in a correct implementation of muP, the
    sizes of activations don't depend on the width. No run is saved.

    Example:
        cfg = etude.compose("experiment=nano", "model.mup_base_dim=64")
        etude.coordinate_check(cfg, [64, 128, 256, 512], figure="check.png")

    Args:
        config, widths, steps, seeds, beside_standard, figure: see
            `etude.analysis.coordinates.coordinate_check`.

    Returns:
        A data frame with a row for each `parametrisation`, `width`, `seed`, `step` (0 is before
        training) and `quantity` (an activation, such as `logits`). The columns `value` and `change`
        contain the quantity's mean absolute value, and its mean absolute change since step 0.
        `etude.analysis.coordinates.slopes` computes from it the exponents with which the sizes of
        activations scale with the width.

    Raises:
        RequestError: fewer than two widths, no step, no seed, `beside_standard` without
            `model.mup_base_dim`, or a config that cannot run at a width.
    """
    from etude.analysis import coordinates

    return coordinates.coordinate_check(
        config, widths, steps=steps, seeds=seeds, beside_standard=beside_standard, figure=figure
    )


@check_arguments(RequestError)
def load_run(
    run: str | Path | Run,
    *,
    root: str | Path = "experiments",
    trust: str | Sequence[str] = (),
    unfinished: bool = False,
) -> Run:
    """Loads a saved run.

    Args:
        run: path of a run's folder, first characters of a run's signature (the hash that names the
            folder), or a run name (the latest finished run with that name). A path is also valid
            after the folder was moved. A `Run` is loaded again only if `trust` is set.
        root: folder in which names and signatures are searched.
        trust: one or more modules that are imported if the run's config names classes in these
            modules. Other modules are never imported; by default, only Étude's own classes are
            built.
        unfinished: if `run` is a name and no run with this name is finished, whether to load the
            latest unfinished run.

    Raises:
        RequestError: there is no such run, several signatures begin with these characters, or the
            run's config names classes of modules that are not trusted.
    """
    if isinstance(run, Run) and not trust:
        return run
    found = run.path if isinstance(run, Run) else run
    loaded = Run(find_record(str(found), Path(root), unfinished=unfinished), trust=trust)
    _ = loaded.checked  # raises now instead of when a model is built
    return loaded


@check_arguments(RequestError)
def load_pretrained(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    adapter: str | Path | None = None,
) -> LanguageModel | Seq2Seq | TextEncoder:
    """Loads released weights into Étude's modules, with their tokenizer.

    GPT-2, GPT-NeoX, Llama, Qwen3 and Gemma 3 are loaded as `LanguageModel`; T5 and Marian as
    `Seq2Seq`; BERT and RoBERTa as `TextEncoder`. No code in the files is executed. If the tokenizer
    is missing or cannot be read, a warning states the reason, and the model accepts only token ids:
    `model(ids)` and, for models that generate text, `model.generate_ids(ids)`.

    Args:
        source: a folder with `config.json`, a `.safetensors` file next to a `config.json`, a
            `.gguf` file, or an id on the Hugging Face Hub (`gpt2`, `owner/name`,
            `owner/name/file.gguf`), which is downloaded once.
        dtype: data type of the weights, such as `"bfloat16"`; None uses that of the files.
        device: device of the weights, such as `"cuda"`.
        revision: branch, tag or commit on the Hugging Face Hub; None for the default branch.
        adapter: folder with a LoRA adapter for these weights, in the format of `peft`; it is merged
            into the weights.

    Raises:
        RequestError: the source cannot be read, or its architecture is not supported.
    """
    from etude.interop.released_model import load_released, text_model

    released = load_released(source, dtype=dtype, device=device, revision=revision)
    if adapter is not None:
        import torch

        from etude.interop.adapter import merge_adapter
        from etude.nn.drawing import DrawingFrom

        # The adapter's initial weights are random and replaced; the global generator stays as it is
        with DrawingFrom(torch.Generator()):
            merge_adapter(released.loaded, Path(adapter))
    return text_model(released)


@check_arguments(RequestError)
def runs(root: str | Path = "experiments", *, trust: str | Sequence[str] = ()) -> Runs:
    """Loads all runs below a folder.

    Runs that cannot be read are skipped and listed in one line on standard error.

    Args:
        root: the folder, which contains the runs at any depth.
        trust: as for `load_run`.

    Raises:
        RequestError: the folder does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        usual = Path("experiments") / root
        hint = f"did you mean runs({str(usual)!r})?" if usual.is_dir() else None
        raise RequestError(Problem("root", "a folder of runs", str(root), hint))
    damaged: list[RequestError] = []
    loaded = Runs([Run(record, trust=trust) for record in read_records(folder, damaged)])
    report_damaged(damaged)
    return loaded
