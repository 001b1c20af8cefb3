"""A saved run, with its trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from etude.api.run_data import RunData
from etude.arguments import as_list, check_arguments
from etude.console import hide_messages
from etude.errors import Problem, RequestError

if TYPE_CHECKING:
    import pandas as pd

    from etude.models.wrappers import Trained
    from etude.tasks.base import Task


class Run(RunData):
    """A saved run: its config, metrics, checkpoints and data. `load_run` and `train` return it.

    Args:
        record: reader of the files in the run's folder.
        trust: modules outside Étude whose classes the run's config may name.

    Attributes:
        record: the argument `record`.
    """

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
        computed again if the function, what it reads, its arguments or the weights have changed.
        The values of a function that uses local variables, classes of your own or other objects
        without a hash are not stored.

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
