"""The Python interface: composes configs, trains runs, and loads runs and released weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from etude.config.checks import CheckedConfig, check
from etude.config.compose import compose as compose_config
from etude.console import hide_messages, show_messages
from etude.errors import Problem, RequestError
from etude.records.config_file import read_config, to_portable
from etude.records.filters import parse_filter
from etude.records.integrity import CONFIG, METRICS, TOKENIZER, is_hashed
from etude.records.metrics_file import read_frame
from etude.records.record import Record
from etude.records.record_fields import (
    best_validation,
    check_keys_exist,
    config_values,
    field_value,
    latest_metrics,
    monitored_metric,
    order_metrics,
)
from etude.records.registry import find_record, read_records, report_damaged

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from etude.analysis.comparison import Comparison
    from etude.analysis.learning_rates import LearningRates
    from etude.analysis.run_groups import Groups
    from etude.data.evaluation_data import Evaluated, EvaluationRequest
    from etude.models.language_model import LanguageModel
    from etude.models.seq2seq import Seq2Seq
    from etude.models.text_encoder import TextEncoder
    from etude.models.wrappers import Trained
    from etude.sweeps.planning import PlannedJob
    from etude.tasks.base import Task


def compose(*overrides: str | Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """Returns the config that `etude train OVERRIDES` would run.

    Args:
        overrides: Hydra overrides, one per string, such as `"experiment=nano",
            "optimizer.lr=3e-4"`, or a list of them.
        config_dir: folder with your own configs, which is searched before Étude's own; None for
            Étude's own only.

    Raises:
        RequestError: the overrides or config files cannot be composed; the message lists all
            errors. `train` and `plan` also check each key and value.
    """
    return compose_config(_flatten(overrides), config_dir=config_dir)


def _flatten(overrides: Sequence[str | Sequence[str]]) -> list[str]:
    return [o for item in overrides for o in ([item] if isinstance(item, str) else item)]


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
    return Run(train_record(config).record, trust=list(config.extensions))


def train_record(config: DictConfig, checked: CheckedConfig | None = None) -> Any:
    """Trains a run like `train`, and returns its result as an `etude.training.state.Outcome`.

    The result contains the status, the run's folder as a `Record`, and whether a saved run was
    returned without training. Raises the same exceptions as `train`.

    Args:
        config: the composed config.
        checked: the config after it was checked; if None, this function checks `config`.
    """
    from etude.config.checks import InvalidConfig, check
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


def plan(
    *overrides: str | Sequence[str],
    multirun: bool = False,
    config_dir: str | Path | None = None,
    measure: bool = True,
) -> list[PlannedJob]:
    """Returns the jobs that `etude train` would run, each with its state and estimated cost.

    The state is, for example, new or finished; for an invalid config, it contains the errors. The
    cost is the number of parameters, the FLOPs, the memory and the time. The function trains
    nothing and writes no run.

    Args:
        overrides: as for `compose`.
        multirun: whether comma-separated values define a sweep.
        config_dir: as for `compose`.
        measure: whether to time a few training steps of a model if no earlier run has saved its
            speed. If false, the speed is estimated from the FLOPs per second of this machine.

    Raises:
        RequestError: an override is invalid in all jobs of the sweep.
    """
    from etude.sweeps.planning import plan as planned

    folder = None if config_dir is None else str(config_dir)
    return planned(_flatten(overrides), multirun=multirun, config_dir=folder, measure=measure)


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


def load_run(
    run: str | Path,
    *,
    root: str | Path = "experiments",
    trust: Sequence[str] = (),
    unfinished: bool = False,
) -> Run:
    """Loads a saved run.

    Args:
        run: path of a run's folder, first characters of a run's signature (the hash that names the
            folder), or a run name (the latest finished run with that name). A path is also valid
            after the folder was moved.
        root: folder in which names and signatures are searched.
        trust: modules that are imported if the run's config names classes in these modules. Other
            modules are never imported; by default, only Étude's own classes are built.
        unfinished: if `run` is a name and no run with this name is finished, whether to load the
            latest unfinished run.

    Raises:
        RequestError: there is no such run, several signatures begin with these characters, or the
            run's config names classes of modules that are not trusted.
    """
    loaded = Run(find_record(str(run), Path(root), unfinished=unfinished), trust=trust)
    _ = loaded.checked  # raises now instead of when a model is built
    return loaded


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
    `Seq2Seq`; BERT and RoBERTa as `TextEncoder`. No code in the files is executed.

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


def runs(root: str | Path = "experiments") -> Runs:
    """Loads all runs below a folder.

    Runs that cannot be read are skipped and listed in one line on standard error.

    Args:
        root: the folder, which contains the runs at any depth.

    Raises:
        RequestError: the folder does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise RequestError(Problem("root", "a folder of runs", str(root)))
    damaged: list[RequestError] = []
    loaded = Runs([Run(record) for record in read_records(folder, damaged)])
    report_damaged(damaged)
    return loaded


class Run:
    """A saved run: its config, metrics, checkpoints and data. `load_run` and `train` return it.

    Args:
        record: reader of the files in the run's folder.
        trust: modules outside Étude whose classes the run's config may name.

    Attributes:
        record: the argument `record`.
    """

    def __init__(self, record: Record, *, trust: Sequence[str] = ()) -> None:
        self.record = record
        self._trust = list(trust)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.record.path

    @property
    def status(self) -> str:
        """The run's status: running, finished, failed, interrupted, paused, diverged or oom.

        A paused run has reached `run.stop_at_step` or was pruned by a search. A diverged run had a
        loss, gradient norm or metric that was NaN or infinite. The status oom means out of memory.
        """
        return self.record.status

    @property
    def label(self) -> str:
        """The overrides that distinguish the run from its experiment file."""
        return self.record.label

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `run.json` in the run's folder, such as the status, the duration, and the
        best and final metrics; `docs/records.md` lists the keys.
        """
        return self.record.info

    @cached_property
    def config(self) -> DictConfig:
        """The composed config that is saved with the run.

        Raises:
            RequestError: the config or `run.json` was edited after training.
        """
        self.record.check(CONFIG)
        return read_config(self.path / "config.yaml")

    @property
    def metrics(self) -> pd.DataFrame:
        """A table of the run's metrics, one row per logged step.

        Columns, in this order: `step`, `tokens` (the number in all steps so far), `train/loss`, the
        metric that selects the best checkpoint, the other validation metrics, all other metrics,
        `lr`, `perf/...` (speed), `time` (seconds of training so far). In a step without validation,
        validation metrics are NaN.

        Raises:
            RequestError: the metrics of a finished run were edited after training.
        """
        if self.record.info.get("status") == "finished":
            self.record.check(METRICS)
        frame = read_frame(self.path / "metrics.jsonl")
        order = order_metrics(frame.columns, monitored_metric(self.record))
        return frame.reindex(columns=order)

    @cached_property
    def checked(self) -> CheckedConfig:
        """The run's config after it was checked, as an object that can build the config's classes.

        Its attribute `nodes` contains, for each top-level key that names a class, such as `model`,
        an object with this class and its arguments, whose method `build` calls the class.
        """
        return check(to_portable(self.config), trust=self._trust)

    def tokenizer(self) -> Any:
        """Loads the run's tokenizer, an `etude.data.tokenizer.Tokenizer`.

        Raises:
            RequestError: the file is missing or was edited after training.
        """
        from etude.data.tokenizer import Tokenizer

        self.record.check(TOKENIZER)
        tokenizer = Tokenizer.load(self.path / TOKENIZER, links=False)
        recorded = self.summary.get("tokenizer", {}).get("fingerprint")
        if not is_hashed(self.summary) and tokenizer.fingerprint != recorded:
            message = (
                "%s: the tokenizer's fingerprint differs from that in run.json; the file may have "
                "been edited"
            )
            logging.getLogger("etude").warning(message, self.path / TOKENIZER)
        return tokenizer

    def model(self, which: str = "best", *, merged: bool = True) -> Trained:
        """Loads the trained model in evaluation mode, with its tokenizer if it reads text.

        The result is a `LanguageModel` (decoder), `Seq2Seq` (encoder-decoder), `TextEncoder`
        (encoder) or `NumberModel` (regressor). Its attribute `module` is the `torch.nn.Module`.

        Args:
            which: the checkpoint: `best` (by validation), `last`, a step, `average` (the mean of
                the weights of all saved checkpoints) or `average:K` (the mean of the last K
                checkpoints).
            merged: whether LoRA weights are merged into the weights that they change.

        Raises:
            RequestError: the checkpoint does not exist, is damaged or was edited after training, or
                fewer than K checkpoints are saved.
        """
        from etude.models.wrappers import wrap_trained

        tokenizer = self.tokenizer()
        module = self._module(which, tokenizer.vocab_size, merged=merged)
        return wrap_trained(module.eval(), tokenizer, self.labels)

    def task(self, which: str = "best") -> Task:
        """Returns the run's task, with the trained model, for evaluation and prediction.

        Args:
            which: the checkpoint, as for `model`.

        Raises:
            RequestError: as for `model`.
        """
        from etude.tasks.base import Setup

        tokenizer = self.tokenizer()
        module = self._module(which, tokenizer.vocab_size)
        setup = Setup(module.eval(), labels=self.labels, tokenizer=tokenizer)
        task: Task = self.checked.nodes["task"].build()(setup=setup)
        return task

    @property
    def labels(self) -> list[str]:
        """The names of the run's labels or tags, by index; empty if the data has none."""
        names: list[str] = self.summary.get("data", {}).get("labels", [])
        return names

    def _module(self, which: str, vocabulary: int, *, merged: bool = True) -> Any:
        """Loads the trained model as a `torch.nn.Module`.

        Args:
            which, merged: as for `model`.
            vocabulary: vocabulary size of the model.
        """
        import torch

        from etude.training.checkpoints import load_mean
        from etude.training.memory_check import check_model_size
        from etude.training.model import build_model

        folders = self.record.chosen(which).folders
        self.record.check_weights(folders)
        weights = load_mean(folders)
        has_lora = bool(self.checked.config.init_from.lora.rank)
        elements = None if has_lora else sum(weight.numel() for weight in weights.values())
        check_model_size(self.checked, vocabulary, len(self.labels), elements)
        # Another thread may be training with torch's global generator.
        module = build_model(
            self.checked, vocabulary, len(self.labels), generator=torch.Generator()
        )
        if has_lora:  # the checkpoint has only the LoRA weights; the source model has the others
            from etude.nn.lora import merge
            from etude.training.init_from import InitFromSource

            with hide_messages():
                InitFromSource.fill(module, self.checked.config.init_from, self.path.parent.parent)
        try:
            module.load_state_dict(weights, strict=not has_lora)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise RequestError(
                Problem(str(self.path), "weights that match the run's config", hint=reason)
            ) from error
        if has_lora and merged:
            merge(module)
        return module

    def evaluate(
        self,
        split: Any = "val",
        *,
        sequence_length: int | None = None,
        stride: int | None = None,
        which: str = "best",
    ) -> dict[str, float]:
        """Computes the metrics of a checkpoint on a split of the run's data, as a dict by name.

        The names, such as `loss` or `accuracy`, have no prefix `val/`.

        Args:
            split: `val`, `train`, or `test` if the data has one.
            sequence_length: for language models, window length in tokens; None is the length of
                training.
            stride: for language models, distance in tokens between the starts of overlapping
                windows. In the first window, all tokens are scored; in each later window, only the
                last `stride` tokens, so that they have a long context. None is no overlap.
            which: the checkpoint, as for `model`.

        Raises:
            RequestError: the data is missing or differs from that of training, or `sequence_length`
                exceeds the model's positions.
        """
        from etude.analysis.scoring import evaluation_options, write_evaluation
        from etude.data.evaluation_data import EvaluationRequest

        data = self.data()
        options = evaluation_options(
            self, data, {"sequence_length": sequence_length, "stride": stride}
        )
        request = EvaluationRequest(split)
        evaluated = self.evaluated(data, request)
        if evaluated.rows:  # predictions of rows are saved in the run's folder
            return dict(write_evaluation(self, evaluated, request, options, which)["metrics"])
        return self.task(which).evaluate(evaluated, options).metrics

    def predict(
        self,
        texts: Sequence[str],
        *,
        pair: str | None = None,
        which: str = "best",
        beams: int | None = None,
        length_penalty: float | None = None,
    ) -> list[dict[str, Any]]:
        """Returns a prediction for each text, as a dict, in the order of the texts.

        The keys of the dict depend on the task, for example `label` and `probabilities`
        (classification), `words` and `tags` (tagging) or `target` (translation).

        Args:
            texts: the texts.
            pair: for a run trained on pairs of texts, one second text, which is combined with each
                of `texts`; None for all other runs.
            which: the checkpoint, as for `model`.
            beams: for translation, number of beams; None means 4.
            length_penalty: for translation, length penalty of beam search; None means 1.

        Raises:
            RequestError: there are no texts, a text is empty, the run's task does not predict on
                texts, or `pair` is None for a run on pairs or given for another run.
        """
        from etude.analysis.predicting import Predictor

        predictor = Predictor(self, which, beams=beams, length_penalty=length_penalty)
        return list(predictor(texts, pair))

    def scores(self, split: str = "val", *, which: str = "best") -> list[float]:
        """Returns a score for each example of a split, in order.

        For a language model, the score is the loss of a window in nats per token (lower is better).
        For other tasks, higher is better: 1 for a correct label and 0 for a wrong one, the fraction
        of correct tags, chrF of a translation from 0 to 1, the F1 score of an answer from 0 to 1,
        or the negative squared error. Scores are saved in the run's folder, in `predictions/`, and
        reused.

        Args:
            split, which: as for `evaluate`.

        Raises:
            RequestError: as for `evaluate`, or the run's task gives examples no scores.
        """
        from etude.analysis.scoring import example_scores

        return example_scores(self, split, which)

    def batch(self, step: int) -> dict[str, Any]:
        """Returns the batch of an optimizer step, over all processes, as tensors by name.

        The names depend on the task. For a language model, they include `tokens` and `targets`,
        both of shape (examples, length).

        Args:
            step: optimizer step, as in the metrics; the first is 1.

        Raises:
            RequestError: the run has no such step, or its data is missing or differs from that of
                training.
        """
        from etude.analysis.data_trace import batch_of

        return batch_of(self, step)

    def places(self, step: int) -> pd.DataFrame:
        """Returns a table of the documents or data rows in the examples of an optimizer step.

        The table has one row for each document or data row in each example. Columns: `example`
        (number in the step, from 1), `document` (index of the document or data row in the training
        split, from 0), `source` (text that states where it comes from) and, for continuous text,
        `first` and `end`: the example contains the document's tokens `first` to `end` - 1.

        Args:
            step: optimizer step, as in the metrics; the first is 1.

        Raises:
            RequestError: as for `batch`.
        """
        import pandas as pd

        from etude.analysis.data_trace import example_sources

        return pd.DataFrame(example_sources(self, step))

    def readings(self, text: str) -> pd.DataFrame:
        """Returns a table of the optimizer steps in which the run used a text.

        The table has one row for each example of a step that contains the text or, if an example
        begins or ends within the text, a part of it.
        Columns: `step` (optimizer step), all columns of `places`, and `whole`, which states whether
        the example contains the complete text.

        Args:
            text: the text to find; upper and lower case and spaces must match.

        Raises:
            RequestError: the training split does not contain the text, or as for `batch`.
        """
        import pandas as pd

        from etude.analysis.data_trace import steps_of_text

        rows = steps_of_text(self, text)
        columns = ["step", "example", "document", "source", "whole"]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)

    def data(self) -> Any:
        """Returns a new data module of the run, an `etude.data.module.DataModule`.

        The data is not prepared; its files may be missing. `data.prepare(folder)` prepares it in a
        folder for prepared data.
        """
        from etude.training.model import configured_vocabulary

        data = self.checked.nodes["data"].build()
        data.model_vocabulary = configured_vocabulary(self.checked) or 0
        task: Any = self.checked.nodes["task"].build()
        data.for_task(task.constructor.objective(**task.arguments))
        return data

    def evaluated(self, data: Any, asked: EvaluationRequest) -> Evaluated:
        """Returns the examples to evaluate, from the run's data or from other files.

        Args:
            data: the run's data module; this method prepares the data unless other files are
                requested.
            asked: the requested split or files.

        Raises:
            RequestError: the data is missing, differs from that of training, or lacks the requested
                split.
        """
        if asked.files is None:
            self.prepare(data)
        asked = replace(asked, tokenizer=self.tokenizer(), labels=self.labels)
        evaluated: Evaluated = data.evaluated_with_rows(asked)
        return evaluated

    def prepare(self, data: Any) -> None:
        """Checks that the data of the data module `data` is the run's training data; prepares it.

        The prepared data is written to the cache folder: `run.cache` of the config or, if it is not
        set, `$ETUDE_CACHE` or `~/.cache/etude`.

        Raises:
            RequestError: the data is missing or differs from that of training.
        """
        from etude.training.run_folder import cache_folder

        with hide_messages():
            data.check()
        fingerprint, recorded = data.fingerprint(), self.summary["data"]["fingerprint"]
        if fingerprint != recorded:
            expected = f"the fingerprint of the training data, {recorded}"
            hint = (
                "the data has changed since the run was trained; restore it, or pass other data to "
            )
            hint += "evaluate"
            raise RequestError(Problem("the run's data", expected, fingerprint, hint))
        with hide_messages():
            data.prepare(cache_folder(self.checked))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status}, {self.label!r})"


class Runs(Sequence[Run]):
    """Sequence of runs, with tables and comparisons of them. `runs` returns it.

    Args:
        runs: the runs, in the order of the sequence.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)

    def __getitem__(self, index: Any) -> Any:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def filter(self, *conditions: str) -> Runs:
        """Returns the runs that match all filters.

        A filter is a key of the config or the record, an operator and a value, as for `etude runs
        list`. The operators are `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` (contains) and `!~` (does not
        contain). A run without the key, or with the value None, matches `=null`, `!~`, and `!=`
        with any value but `null`. The result is empty if no run matches.

        Example:
            runs("experiments/nano").filter("optimizer.lr>1e-3", "model.position=rotary")

        Raises:
            RequestError: a filter is invalid, or no run has the key of a filter.
        """
        filters = [parse_filter(condition) for condition in conditions]
        records = [run.record for run in self._runs]
        check_keys_exist([(each.key, "condition") for each in filters], records)
        return Runs(
            [run for run in self._runs if all(each.matches(run.record) for each in filters)]
        )

    def frame(self) -> pd.DataFrame:
        """Returns a table with one row per run: name, status, config values and latest metrics.

        The first columns are `name`, `signature`, `status`, `label`, `parameters` (their number)
        and `step`. There is a column for each key of the runs' configs, such as `optimizer.lr`, and
        for the latest value of each metric, such as `val/loss`. The column `best/<metric>` contains
        the best value of the metric that selects the best checkpoint. Values that a run lacks are
        NaN.
        """
        import pandas as pd

        return pd.DataFrame([_row(run.record) for run in self._runs])

    def compare(self, *metrics: str, x: str = "step", log: str = "") -> Comparison:
        """Returns a comparison of the configs, results and curves of the runs.

        In a notebook, it is shown as tables and a figure.

        Args:
            metrics: metrics to plot, one panel each; by default the metric that selects the best
                checkpoint.
            x: quantity of the x-axis: `step`, `tokens` or `time`.
            log: axes with a logarithmic scale: `x`, `y` or `xy`.

        Raises:
            RequestError: there are no runs, or one of the metrics was logged by none of the runs.
        """
        from etude.analysis.comparison import Comparison

        return Comparison([run.record for run in self._runs], metrics=metrics, x=x, log=log)

    def group(self, metric: str | None = None, *, by: Sequence[str] = ()) -> Groups:
        """Groups the finished runs; by default, runs that differ only in the seed are a group.

        The result has the mean, the standard deviation and the mean curve of a metric per group:
        its method `frame` returns a table with one row per group, `plot` plots the mean curves.

        Args:
            metric: the metric: its final value (such as `val/loss`) or its best value (such as
                `best/val/loss`). None is the best value of the metric that selects the best
                checkpoint.
            by: config keys; runs with the same values of these keys are a group. If empty, the
                whole config without the seed defines the group.

        Raises:
            RequestError: no run is finished, or no finished run has the metric.
        """
        from etude.analysis.run_groups import Groups

        finished = [run.record for run in self._runs if run.status == "finished"]
        return Groups(finished, metric=metric, by=by)

    def significance(self, split: str = "val") -> pd.DataFrame:
        """Tests whether the other runs differ from the first run, by the score of each example.

        The first run is the first item of this sequence. `runs` sorts its result by folder. Each
        run's best checkpoint is compared.

        Args:
            split: `val`, `test` or `train`.

        Returns:
            A table with one row for each run but the first: the label `run`, the folder `path`, the
            number of `examples`, `mean` (its mean loss or score), `difference` (`mean` minus that
            of the first run), the 95 % confidence interval of the difference (`low` to `high`), the
            p-values `permutation` and `bootstrap`, `holm` (`permutation` corrected for the number
            of runs by Holm's method), and `mcnemar` (the p-value of McNemar's exact test) if each
            score is 0 or 1.

        Raises:
            RequestError: there are fewer than two runs, the runs have different data or windows, or
                as for `scores`.
        """
        from etude.analysis.significance import significance_table

        return significance_table(self._runs, split)

    def __repr__(self) -> str:
        return (
            f"Runs({len(self._runs)}: " + ", ".join(run.path.name for run in self._runs[:5]) + ")"
        )


def _row(record: Record) -> dict[str, Any]:
    head = {
        key: field_value(record, key)
        for key in ("name", "signature", "status", "label", "parameters", "step")
    }
    config = {key: value for key, value in config_values(record).items() if key not in head}
    best_value = best_validation(record)
    scores = {f"best/{best_value['metric']}": best_value["value"]} if best_value else {}
    return head | config | latest_metrics(record) | scores
