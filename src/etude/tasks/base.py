"""Base class of all tasks: a model with its loss, optimizer and metrics.

Lightning runs the task with manual optimisation. One Lightning batch is the list of all
micro-batches of one optimizer step. So steps are counted once, checkpoints are saved between steps,
and the loss is scaled in one place: for any split into micro-batches and ranks, the gradient is
that of (sum of the loss over all targets) / (number of targets).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.data.evaluation_data import Evaluated
from etude.data.objective import Objective
from etude.errors import Checks, Problem, RequestError, nearest
from etude.generation.model_modes import evaluation_mode
from etude.models.wrappers import writer
from etude.nn.lora import adapted
from etude.optim.schedules import Schedule
from etude.records.metrics_file import is_higher_better
from etude.tasks.averaging import Average, Averaged, OptimizersAverage
from etude.tasks.metrics import Evaluation, Metrics, gather_ranks, merged
from etude.tasks.options import EvaluationOptions
from etude.tasks.samples import answers
from etude.tasks.seeding import seed_for, seed_generators

MicroBatch = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Arguments that a run passes to its task; the config sets the task's other arguments.

    A task that only evaluates needs no optimizer, schedule or number of steps.

    Attributes:
        model: the module to train; checkpoints contain its weights.
        optimizer: function that builds the optimizer; called once, with the model.
        schedule: function that returns the learning-rate factor of a step, given the step's index
            from 0 and `total_steps`.
        total_steps: number of optimizer steps of the whole run.
        seed: the run's seed, from which the seed of every micro-batch is derived.
        gradient_clip_val: largest global gradient norm; None disables clipping.
        ema_decay: decay of the exponential moving average of the weights; None disables it.
        labels: names of the data's labels or tags, by index; empty if the data has none.
        tokenizer: the data's tokenizer; None if the task makes no texts, for example if it is built
            only to measure the time of a step.
    """

    model: nn.Module
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    schedule: Schedule | None = None
    total_steps: int = 0
    seed: int = 0
    gradient_clip_val: float | None = None
    ema_decay: float | None = None
    labels: Sequence[str] = ()
    tokenizer: Any = None


def packing(micro: MicroBatch) -> dict[str, Any]:
    """Returns the model's extra keyword arguments for a micro-batch of packed sequences.

    The dict contains `documents`, the boundaries of the packed documents as an
    `etude.nn.documents.Documents`; it is empty if the micro-batch is not packed.
    """
    return {"documents": micro["documents"]} if "documents" in micro else {}


class Task(pl.LightningModule):
    """Base class of tasks: a model with its loss, its optimizer and its metrics.

    Args:
        setup: model, optimizer and other arguments from the run; see `etude.tasks.base.Setup`.

    Attributes:
        monitor: the validation metric that selects the best checkpoint; see
            `etude.records.metrics_file.better` for its direction.
        more_is_better, less_is_better: names, without `val/`, of the task's metrics for which
            higher, or lower, values are better. Étude's own metrics need no entry: their prefixes
            are listed in `metrics_file.HIGHER_IS_BETTER` and `FALLING`.
        loss_unit: unit of the loss, for figures.
        scores_are: description of the result of `scores`, for tables.
        metric_names: names of all validation metrics; callbacks may monitor these. If empty,
            Lightning checks the callbacks' monitors, after the first validation.
        needs_causal_model: whether the model must hide the tokens after a position, because they
            include the position's target.
        models: supported classes of models; if empty, any class.
        head: value that the attribute `gives` of an encoder's head must have; see
            `etude.models.heads.Head`.
        transformers_ending: suffix of the `transformers` class for export, where several classes
            have the same head, such as `ForQuestionAnswering`.
        transformers_fields: extra fields of the exported `config.json`.
        validation_metrics: metrics of the latest validation, in double precision, by full name; the
            same on every rank.
    """

    monitor = "val/loss"
    loss_unit: ClassVar[str] = "nats per token"
    scores_are: ClassVar[str] = "scores, higher is better"
    metric_names: tuple[str, ...] = ()
    more_is_better: ClassVar[tuple[str, ...]] = ()
    less_is_better: ClassVar[tuple[str, ...]] = ()
    needs_causal_model = False
    models: ClassVar[tuple[type[nn.Module], ...]] = ()
    head: ClassVar[str | None] = None
    transformers_ending: ClassVar[str] = ""
    transformers_fields: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = setup.model
        self.schedule = setup.schedule
        self.total_steps = setup.total_steps
        self.seed = setup.seed
        self.clip = setup.gradient_clip_val
        self.labels = list(setup.labels)
        self.tokenizer = setup.tokenizer
        self._optimizer_recipe = setup.optimizer
        self.average: Averaged | None = None  # set when training starts, once the weights are final
        self._ema_decay = setup.ema_decay
        self._averaged_before: dict[str, Tensor] | None = None
        self._grad_norm: Tensor | None = None
        self.validation_metrics: dict[str, float] = {}
        self._validated: dict[tuple[str, int], Metrics] = {}

    @classmethod
    def objective(cls, **arguments: Any) -> Objective | None:
        """Returns the task's objective, an object that builds the model's inputs and targets from
        the data.

        Returns None if the task reads windows of text without changes.

        Args:
            arguments: the task's arguments in the config.

        Raises:
            InvalidArguments: the arguments are invalid.
        """
        return None

    @classmethod
    def misfits(cls, model: Any, data: Any) -> Iterator[Problem]:
        """Yields a problem for each reason why the model cannot be trained on the data; called
        before the data is prepared.

        Args:
            model: the model on the meta device, with one layer or, if different layers follow a
                repeating pattern (`etude.models.kinds`), with one repetition of the pattern.
            data: the run's data, to which the task's objective is already attached.
        """
        yield from ()

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> MicroBatch:
        """Returns a micro-batch of random values, for measuring the time of an optimizer step.

        Args:
            batch: number of examples.
            length: number of tokens in an example.
            vocabulary: vocabulary size.
            labels: number of labels, for a task that has labels.
        """
        tokens, targets = (torch.randint(vocabulary, (batch, length)) for _ in range(2))
        return {"tokens": tokens, "targets": targets, "step_targets": targets.numel()}

    def loss(self, micro: MicroBatch) -> Tensor:
        """Returns the sum of the loss over the micro-batch's targets, a scalar."""
        raise NotImplementedError

    def outputs(self, micro: MicroBatch) -> Any:
        """Returns the model's output for a micro-batch; by default, the output for its entry
        `tokens`.
        """
        return self.model(micro["tokens"], **packing(micro))

    def metrics(self, evaluated: Evaluated) -> Metrics:
        """Returns a new, empty accumulator of the task's metrics.

        Args:
            evaluated: the split or rows whose batches will be added to the accumulator.
        """
        raise NotImplementedError

    @classmethod
    def evaluation_options(cls, data: Any, **options: Any) -> EvaluationOptions:
        """Returns validated options of an evaluation or a prediction. By default, a task has no
        options.

        Args:
            data: the run's data.
            options: options by name; None selects the default.

        Raises:
            RequestError: an option that the task does not have, or an invalid value.
        """
        return EvaluationOptions.checked(cls.__name__, **options)

    @torch.inference_mode()
    def measured(self, evaluated: Evaluated) -> Metrics:
        """Runs the model on a whole split, or on rows, and returns the accumulated metrics.

        For evaluation outside training.
        """
        metrics = self.metrics(evaluated)
        with evaluation_mode(self.model):
            for batch in self.batches_of(evaluated):
                metrics.update(batch, self.outputs(batch))
        return metrics

    def batches_of(self, evaluated: Evaluated) -> Iterator[MicroBatch]:
        """Yields the batches of the split or the rows `evaluated`, moved to the model's device."""
        for batch in evaluated.batches():
            yield self.transfer_batch_to_device(batch, self.device_of_model, 0)

    @property
    def device_of_model(self) -> torch.device:
        """The device of the model's parameters."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def evaluate(self, evaluated: Evaluated, options: EvaluationOptions) -> Evaluation:
        """Returns the result of evaluating the model on a split or on rows.

        Args:
            evaluated: the split or rows.
            options: the result of `evaluation_options`.
        """
        return self.measured(evaluated).evaluation(evaluated)

    def scores(self, evaluated: Evaluated) -> list[float]:
        """Returns a score for each row or window, in order, for comparing runs: by default, the
        `score` of each row of an evaluation with default options.

        Higher scores are better, unless the attribute `scores_are` says otherwise.

        Raises:
            RequestError: the task does not give each row a score.
        """
        rows = self.evaluate(evaluated, self.evaluation_options(evaluated.data)).predictions
        if not rows:
            raise RequestError(
                Problem(
                    "run",
                    "a run whose task gives each example a score, such as classification",
                    type(self).__name__,
                )
            )
        return [float(each["score"]) for each in rows]

    @classmethod
    def has_scores(cls) -> bool:
        """Returns whether the task overrides the method `scores`."""
        return cls.scores is not Task.scores

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        """Yields a prediction for each row, in order. Rows need no labels or targets.

        A prediction is a dict of JSON values. Its keys depend on the task: for classification, they
        include `text` (the row's text) and `label` (the predicted label).

        Raises:
            NotImplementedError: the task makes no predictions; `predicts` is false.
        """
        raise NotImplementedError

    def line(self, prediction: Mapping[str, Any]) -> str:
        """Returns a prediction (a dict from `predict`) as one line, which ends with the
        prediction's entry `text`.

        By default, the other entries come first, as JSON, and the text is shortened to 60
        characters.
        """
        fields = {key: value for key, value in prediction.items() if key != "text"}
        text = shortened(str(prediction.get("text", "")))
        return f"{json.dumps(fields, ensure_ascii=False)}\t{text}"

    def samples(self, data: Any, options: Any) -> list[str]:
        """Returns samples of the model's output for the finished run; by default, none.

        Args:
            data: the prepared data.
            options: object with the attributes `samples`, the number of samples; `sample_tokens`,
                the largest number of tokens in a sample; `sample_prompt`, the text that samples
                continue.
        """
        return []

    def answered(self, data: Any, options: Any, *, whole: bool = False) -> list[str]:
        """Returns the model's answers to validation examples, for a task whose `labels` are tokens.

        The list is empty if the model cannot generate text. For the form of the texts, see
        `etude.tasks.samples.answers`.

        Args:
            data, options: see `samples`.
            whole: whether to generate as many tokens as the target has.
        """
        model = writer(self.model, self.tokenizer)
        if model is None:
            return []
        longest = min(options.sample_tokens, data.sequence_length)
        examples = data.evaluated("val").examples()
        return answers(model, examples, options.samples, longest, whole=whole)

    @property
    def predicts(self) -> bool:
        """Whether the task overrides the method `predict`, and thus makes predictions."""
        return type(self).predict is not Task.predict

    @classmethod
    def no_predictions(cls, run: str) -> Problem:
        """Returns the `Problem` that reports that the task cannot predict on texts.

        Args:
            run: path of the run.
        """
        expected = "a run whose task makes predictions for texts, such as classification"
        return Problem("run", expected, cls.__name__)

    @classmethod
    def monitor_key(cls) -> str:
        """Returns the config key that sets `monitor` or, without such an argument, the class's
        attribute.
        """
        is_argument = "monitor" in inspect.signature(cls).parameters
        return "task.monitor" if is_argument else f"{cls.__name__}.monitor"

    def watch(self, monitor: str) -> None:
        """Sets the attribute `monitor`, the metric that selects the best checkpoint.

        Called by constructors with an argument `monitor`.

        Raises:
            InvalidArguments: the task has no such metric.
        """
        checks = Checks()
        hint = nearest(monitor, self.metric_names)
        known = monitor.startswith(tuple(f"{name}/" for name in self.metric_names))
        known = known or monitor in self.metric_names
        checks.that(known, "monitor", monitor, "a metric of the task", hint)
        checks.done()
        self.monitor = monitor

    @classmethod
    def rises(cls, metric: str) -> bool | None:
        """Returns whether larger values of the metric with the given name are better; None if this
        is unknown.
        """
        return is_higher_better(metric, cls.more_is_better, cls.less_is_better)

    @property
    def section_names(self) -> Sequence[str]:
        """Names of the sources of the data; empty if the data is not a mixture of several sources.
        Each source is also validated separately.
        """
        names: Sequence[str] = self._data.section_names
        return names

    def on_fit_start(self) -> None:
        """Creates the weight average, if the config sets one. If the run continues, restores the
        average from the checkpoint.
        """
        if getattr(self._optimizer_recipe, "averages", False):
            self.average = OptimizersAverage(self.model, self.trainer.optimizers[0])
        elif self._ema_decay is not None:
            self.average = Average(self.model, self._ema_decay)
        if self.average is not None:
            self.average.load_state_dict(self._averaged_before or {})
        self._averaged_before = None

    def on_validation_epoch_start(self) -> None:
        self._validated = {}

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        """Adds a validation batch to the metrics of its split. If the data is a mixture of several
        sources, each source has its own metrics.
        """
        if not self.is_mine(batch_idx):
            return
        key = (batch.get("part", "val"), batch.get("section", 0))
        if key not in self._validated:
            self._validated[key] = self.metrics(self._data.evaluated("val"))
        self._validated[key].update(batch, self.outputs(batch))

    def on_validation_epoch_end(self) -> None:
        """Sets `validation_metrics` to all metrics of each validated split, over all ranks. The
        names begin with the name of the split, as in `val/loss`.

        If the data is a mixture of several sources, the loss of each source is included, such as
        `val/SOURCE/loss`.
        """
        ranks = gather_ranks(self._validated, self.trainer.world_size)
        keys = sorted({key for rank in ranks for key in rank}, key=_validation_first)
        evaluated = self._data.evaluated("val")
        by_key = {
            key: merged(
                self.metrics(evaluated),
                [rank[key] for rank in ranks if key in rank],
            )
            for key in keys
        }
        metrics: dict[str, float] = {}
        names = self.section_names
        for (part, section), each in by_key.items():
            if names:
                metrics[f"{part}/{names[section]}/loss"] = each.compute()["loss"]
        for part in dict.fromkeys(part for part, _ in keys):
            sections = [each for (key, _), each in by_key.items() if key == part]
            whole = merged(self.metrics(evaluated), sections)
            computed = {f"{part}/{name}": value for name, value in whole.compute().items()}
            metrics = computed | metrics
        self.validation_metrics = metrics
        self.log_dict(metrics)  # for callbacks such as EarlyStopping

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def for_use(self) -> AbstractContextManager[None]:
        """Context manager that gives the model its final weights: the average, if there is one.
        On exit, the model has its training weights again.
        """
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def strict_loading(self) -> bool:
        """Whether a checkpoint contains all weights; with LoRA, it omits the frozen weights."""
        return not adapted(self.model)

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        pass  # Lightning sets it; the model determines the value

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Changes a checkpoint in place before it is saved, if the run uses LoRA or a weight
        average.

        With LoRA, the checkpoint omits the frozen weights, which are those of the model that the
        run started from. With an average, the checkpoint's weights are the averaged ones, and the
        training weights are in its entry `in_training`.
        """
        if not self.strict_loading:
            trainable = {f"model.{n}" for n, p in self.model.named_parameters() if p.requires_grad}
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: x for n, x in state.items() if n in trainable}
        if self.average is not None:
            weights = {name: p.detach() for name, p in self.model.named_parameters()}
            averaged = {name: x.to(weights[name].dtype) for name, x in self.average.weights.items()}
            checkpoint["in_training"] = {name: weights[name] for name in averaged}
            checkpoint["averaged"] = self.average.state_dict()
            named = self._under_each_name(averaged)
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **named}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the training weights and the average from a checkpoint."""
        if "in_training" in checkpoint:
            checkpoint["state_dict"] |= self._under_each_name(checkpoint["in_training"])
            self._averaged_before = checkpoint["averaged"]

    def _under_each_name(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a dict from the task's parameter names, which begin with `model.`, to weights.

        A weight that several parameters share is in the dict under each of their names.

        Args:
            weights: dict from the model's parameter names to weights, with each shared weight only
                once.
        """
        first = {id(p): name for name, p in self.model.named_parameters()}
        every = self.model.named_parameters(remove_duplicate=False)
        names = [(name, first[id(p)]) for name, p in every]
        return {f"model.{name}": weights[one] for name, one in names if one in weights}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Builds the optimizer, and stores the base learning rate in each parameter group."""
        assert self._optimizer_recipe is not None
        optimizer = self._optimizer_recipe(self.model)
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        return optimizer

    def training_step(self, batch: list[MicroBatch], batch_idx: int) -> dict[str, Tensor]:
        """Runs one optimizer step on the micro-batches in `batch`, without waiting for the device.

        Returns a dict with the mean loss over the step's targets on all ranks (`loss`) and, if
        gradients are clipped, their norm before clipping (`grad_norm`).
        """
        step = self.trainer.global_step
        optimizer: Any = self.optimizers()
        self.set_learning_rate(optimizer, step)
        losses: list[Tensor] = []

        def forward_and_backward() -> Tensor:
            optimizer.zero_grad()
            losses.clear()
            for index, micro in enumerate(batch):
                seed_generators(seed_for(self.seed, step, index, self.global_rank), self.device)
                with self._no_sync_before(index == len(batch) - 1):
                    loss = self.loss(micro) / micro["step_targets"]
                    # Lightning's autocast covers the whole step; the backward pass does not need
                    # it, and each operation would pay for the look-up.
                    with torch.autocast(self.device.type, enabled=False):
                        # data-parallel strategies average over ranks; the sum is needed
                        self.manual_backward(loss * self.trainer.world_size)
                losses.append(loss.detach())
            return losses[-1]

        optimizer.step(closure=forward_and_backward)
        if self.average is not None:
            self.average.update(step)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        outputs = {"loss": self.sum_over_ranks(loss)}
        if self._grad_norm is not None:
            outputs["grad_norm"] = self._grad_norm
        return outputs

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Moves a batch to a device; on the CPU, where batches are created, changes nothing."""
        if device.type == "cpu":
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def set_learning_rate(self, optimizer: Any, step: int) -> float:
        """Sets the learning rate of each parameter group for step `step` to its base learning rate
        times the schedule's factor, and returns this factor.
        """
        assert self.schedule is not None
        scale = self.schedule(step, self.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        return scale

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips the gradients, after mixed precision has unscaled them."""
        if self.clip is not None:
            self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Returns the sum of a tensor over all ranks, on every rank; changes `value` in place."""
        if self.trainer.world_size > 1:
            dist.all_reduce(value)
        return value

    def is_mine(self, batch_idx: int) -> bool:
        """Returns whether this rank validates a batch; each batch belongs to one rank."""
        return batch_idx % self.trainer.world_size == self.global_rank

    def _no_sync_before(self, last: bool) -> AbstractContextManager[None]:
        """Returns a context manager for the backward pass of a micro-batch.

        Gradients are exchanged between ranks only in the backward pass of the last micro-batch.

        Args:
            last: whether the micro-batch is the last of its optimizer step.
        """
        if last or self.trainer.world_size == 1:
            return nullcontext()
        return self.trainer.strategy.block_backward_sync()  # type: ignore[attr-defined]


def shortened(text: str) -> str:
    """Returns a text on one line, shortened to at most 60 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def _validation_first(key: tuple[str, int]) -> tuple[bool, str, int]:
    """Returns a sort key that puts the validation split before training examples.

    Args:
        key: name of the validated part of the data, such as `val`, and index of a source.
    """
    return (key[0] != "val", *key)
