"""A saved run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from etude.arguments import as_list, check_arguments
from etude.config.checks import CheckedConfig, check
from etude.config.composed import as_composed
from etude.console import hide_messages
from etude.errors import Problem, RequestError
from etude.records.config_file import read_config, to_portable
from etude.records.integrity import CONFIG, METRICS, TOKENIZER, is_hashed
from etude.records.metrics_file import read_frame
from etude.records.record import Record
from etude.records.record_fields import (
    monitored_metric,
    order_metrics,
)
from etude.records.registry import find_record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from etude.data.evaluation_data import Evaluated, EvaluationRequest
    from etude.models.wrappers import Trained
    from etude.tasks.base import Task


class Run:
    """A saved run: its config, metrics, checkpoints and data. `load_run` and `train` return it.

    Args:
        record: reader of the files in the run's folder.
        trust: modules outside Étude whose classes the run's config may name.

    Attributes:
        record: the argument `record`.
    """

    @check_arguments(RequestError)
    def __init__(self, record: Record, *, trust: str | Sequence[str] = ()) -> None:
        self.record = record
        self._trust = as_list(trust)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.record.path

    @property
    def _root(self) -> Path:
        """The folder of all runs, `experiments` by default."""
        return self.path.parent.parent

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
        best and final metrics. The page Records lists the keys.
        """
        return self.record.info

    @cached_property
    def config(self) -> DictConfig:
        """The composed config that is saved with the run.

        Raises:
            RequestError: the config or `run.json` was edited after training.
        """
        self.record.check(CONFIG)
        return as_composed(read_config(self.path / "config.yaml"))

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

    @check_arguments(RequestError)
    def model(self, which: str | int = "best", *, merged: bool = True) -> Trained:
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

    @check_arguments(RequestError)
    def task(self, which: str | int = "best") -> Task:
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

    def _module(self, which: str | int, vocabulary: int, *, merged: bool = True) -> Any:
        """Loads the trained model as a `torch.nn.Module`.

        Args:
            which, merged: as for `model`.
            vocabulary: vocabulary size of the model.
        """
        import torch

        from etude.training.checkpoints import load_mean
        from etude.training.memory_check import check_model_size
        from etude.training.model import build_model
        from etude.training.start_reports import report_source_of_weights

        report_source_of_weights(self.record)
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
                InitFromSource.fill(module, self.checked.config.init_from, self._root)
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

    @check_arguments(RequestError)
    def evaluate(
        self,
        split: str = "val",
        *,
        sequence_length: int | None = None,
        stride: int | None = None,
        which: str | int = "best",
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

    @check_arguments(RequestError)
    def generate(
        self, prompt: str | Sequence[str] = "", *, which: str | int = "best", **options: Any
    ) -> str | list[str]:
        """Returns texts that the run's model generates.

        Example:
            run.generate("To be, or", samples=3, max_new_tokens=50, temperature=0.8, seed=0)

        Args:
            prompt: one prompt or several; the empty prompt starts a new document.
            which: the checkpoint, as for `model`.
            options: further arguments of the method `generate` of the model, such as `samples`,
                `temperature` and `beams`; see `TextGenerator`.

        Returns:
            A string for one prompt and one sample; otherwise a list, ordered by prompt.

        Raises:
            RequestError: the run's model does not generate text, or as for `model`.
            InvalidArguments: the options are invalid.
        """
        model: Any = self.model(which)
        if not model.writes:
            expected = "a run whose model generates text"
            hint = f"its model is a {type(model).__name__}; use its method predict"
            raise RequestError(Problem(str(self.path), expected, hint=hint))
        texts: str | list[str] = model.generate(prompt, **options)
        return texts

    @check_arguments(RequestError)
    def diff(self, other: str | Path | Run) -> pd.DataFrame:
        """Returns a table of the config values in which another run differs from this run.

        Args:
            other: the other run, as for `load_run`.

        Returns:
            A data frame with a row per config key, and a column per run. A missing value is NaN.

        Raises:
            RequestError: there is no such run.
        """
        from etude.analysis.comparison import Comparison

        record = other.record if isinstance(other, Run) else find_record(str(other), self._root)
        return Comparison([self.record, record]).config.T

    @check_arguments(RequestError)
    def plot(self, *metrics: str, x: str = "step", log: str = "") -> Figure:
        """Plots metrics of the run; a notebook shows the figure.

        Args:
            metrics: metrics to plot, one panel each; by default the metric that selects the best
                checkpoint.
            x: quantity of the x-axis: `step`, `tokens` or `time`.
            log: axes with a logarithmic scale: `x`, `y` or `xy`.

        Raises:
            RequestError: one of the metrics was not logged.
        """
        from etude.analysis.comparison import Comparison

        return Comparison([self.record], metrics=metrics, x=x, log=log).figure()

    @check_arguments(RequestError)
    def predict(
        self,
        texts: str | Sequence[str | Sequence[str]],
        *,
        pair: str | None = None,
        which: str | int = "best",
        beams: int | None = None,
        length_penalty: float | None = None,
    ) -> list[dict[str, Any]]:
        """Returns a prediction for each text, as a dict, in the order of the texts.

        The keys of the dict depend on the task, for example `label` and `probabilities`
        (classification), `words` and `tags` (tagging) or `target` (translation).

        Args:
            texts: one or more texts. For a tagging run, a text can be a list of words.
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
        items: Any = as_list(texts)
        return list(predictor(items, pair))

    @check_arguments(RequestError)
    def scores(self, split: str = "val", *, which: str | int = "best") -> list[float]:
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

    @property
    def checkpoints(self) -> list[int]:
        """The steps of the saved checkpoints, in ascending order."""
        return [step for step, _ in self.record.checkpoints()]

    @check_arguments(RequestError)
    def over_steps(
        self,
        measure: Callable[..., Any],
        *args: Any,
        steps: Sequence[int] | None = None,
        **more: Any,
    ) -> pd.Series:
        """Returns the values of a measure for the models of the saved checkpoints.

        Values are stored in the run's folder, in `measures/`, and reused by later calls. They are
        computed again if the function's module, its arguments or the weights have changed. The
        values of a function that uses local variables, or of arguments without a hash, are not
        stored.

        Example:
            run.over_steps(etude.interpret.induction_scores, length=30).unstack("step")

        Args:
            measure: function of a model, as `model` returns it, which returns a `pandas.Series` or
                a number, such as those in `etude.interpret`.
            args, more: further arguments of the function.
            steps: steps of the checkpoints; None for all.

        Returns:
            The values, with `step` as the first level of the index.

        Raises:
            RequestError: the run has no checkpoint of a step, or the measure returns something
                else.
        """
        from etude.analysis.measures import measure_steps

        return measure_steps(self, measure, args, more, steps)

    @check_arguments(RequestError)
    def batch(self, step: int) -> dict[str, Any]:
        """Returns the batch of an optimizer step, over all processes, as tensors by name.

        The names depend on the task. For a language model, they include `tokens` and `targets`,
        both of shape (examples, length). A notebook shows the first examples as text.

        Args:
            step: optimizer step, as in the metrics; the first is 1.

        Raises:
            RequestError: the run has no such step, or its data is missing or differs from that of
                training.
        """
        from etude.analysis.data_trace import batch_of

        return batch_of(self, step)

    @check_arguments(RequestError)
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

    @check_arguments(RequestError)
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

    @check_arguments(RequestError)
    def data(self, split: str | None = None) -> Any:
        """Returns the batches of a split of the run's data, or its data module.

        Example:
            for batch in run.data("val"):
                logits = model(batch["tokens"])

        Args:
            split: `val`, `train`, or `test` if the data has one; None for the data module, an
                `etude.data.module.DataModule`. The data module is not prepared, and its files may
                be missing; `data.prepare(folder)` prepares it in a folder for prepared data.

        Returns:
            For a split, an iterable of its batches, in which each example occurs once. A batch is a
            dict from names, such as `tokens`, to tensors.

        Raises:
            RequestError: the data has no such split, is missing or differs from that of training.
        """
        from etude.data.evaluation_data import EvaluationRequest
        from etude.training.model import configured_vocabulary

        if split is not None:
            return self.evaluated(self.data(), EvaluationRequest(split)).batches()
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

    def _repr_html_(self) -> str:
        from etude.analysis.run_display import run_html

        return run_html(self.record)
