"""What every task shares: one optimizer step over the micro-batches of one batch.

Lightning runs the task with manual optimisation, and one of its batches is one whole optimizer
step. So steps are counted once, saves fall between steps, and the loss is scaled in one place:
the gradient is that of (sum over all targets) / (number of targets), whatever the split into
micro-batches and ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.data.evaluated import Evaluated
from etude.data.objective import Objective
from etude.errors import Checks, Problem, RequestError, nearest
from etude.generation.decoding import evaluating
from etude.models.textual import writer
from etude.nn.lora import adapted
from etude.optim.schedules import Schedule
from etude.records.metrics import rises
from etude.tasks.averaging import Average, Averaged, OptimizersAverage
from etude.tasks.metrics import Evaluation, Metrics, merged, of_all_ranks
from etude.tasks.options import EvaluationOptions
from etude.tasks.samples import answers
from etude.tasks.seeding import seed_for, seed_generators

MicroBatch = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """What a run gives its task; a config states what else the task takes.

    A task that only evaluates needs no optimizer, schedule and steps.

    Attributes:
        model: the module under training; checkpoints hold its weights.
        optimizer: a recipe, called once with the model.
        schedule: the learning-rate factor by step.
        total_steps: optimizer steps of the whole run.
        seed: the run's seed, from which every micro-batch's is derived.
        gradient_clip_val: the largest global gradient norm; None does not clip.
        ema_decay: of a running average of the weights; None is no average.
        labels: the names of the data's labels or tags, by number.
        tokenizer: the data's.
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
    """What a model is told of a micro-batch whose sequences are packed of several texts."""
    return {"documents": micro["documents"]} if "documents" in micro else {}


class Task(pl.LightningModule):
    """A model with its loss and its optimizer.

    Args:
        setup: what the run gives.

    Attributes:
        monitor: the validation metric that decides which checkpoint is best; of some more is
            better, see `etude.records.metrics.better`.
        more_is_better, less_is_better: names of metrics, without `val/`, of which that is so; those
            that begin as the shipped ones do (`etude.records.metrics.RISING`, `FALLING`) are known.
        loss_unit: of the loss, for figures.
        scores_are: what `scores` gives, for tables.
        metric_names: all that a validation measures; callbacks may watch these. A task that does
            not say has its callbacks' monitors checked by Lightning, after the first validation.
        needs_causal_model: the model must not see what follows a token, or it sees its target.
        models: the kinds of models that fit; none says nothing of it.
        head: what an encoder's head must give; see `etude.models.heads.Head`.
        transformers_ending: of the class of `transformers` that a run is written as, where several
            have the same head, such as `ForQuestionAnswering`.
        transformers_fields: of its `config.json`, besides those of the model.
        validation_metrics: of the latest validation, in double precision, by full name; the same
            on every rank.
    """

    monitor = "val/loss"
    loss_unit: ClassVar[str] = "nats per token"
    scores_are: ClassVar[str] = "scores, more is better"
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
        self.average: Averaged | None = None  # begins when training does, after the weights
        self._ema_decay = setup.ema_decay
        self._averaged_before: dict[str, Tensor] | None = None
        self._grad_norm: Tensor | None = None
        self.validation_metrics: dict[str, float] = {}
        self._validated: dict[tuple[str, int], Metrics] = {}

    @classmethod
    def objective(cls, **arguments: Any) -> Objective | None:
        """What the task with these arguments makes of the data; None takes windows as they are.

        Args:
            arguments: those that the config states.

        Raises:
            InvalidArguments: they cannot work.
        """
        return None

    @classmethod
    def misfits(cls, model: Any, data: Any) -> Iterator[Problem]:
        """What of a model and of data does not fit together for this task, before anything is
        prepared.

        Args:
            model: of one layer, or one of each kind, without memory.
            data: that takes the task's objective.
        """
        yield from ()

    def stand_in(self, batch: int, length: int, vocabulary: int, labels: int) -> MicroBatch:
        """A micro-batch without meaning, to try out how long one takes.

        Args:
            labels: how many there are, for a task that has some.
        """
        tokens, targets = (torch.randint(vocabulary, (batch, length)) for _ in range(2))
        return {"tokens": tokens, "targets": targets, "step_targets": targets.numel()}

    def loss(self, micro: MicroBatch) -> Tensor:
        """The sum of the loss over the micro-batch's targets, a scalar."""
        raise NotImplementedError

    def outputs(self, micro: MicroBatch) -> Any:
        """What the model says of a micro-batch; here of its `tokens`."""
        return self.model(micro["tokens"], **packing(micro))

    def metrics(self, evaluated: Evaluated) -> Metrics:
        """A new accumulator of what is measured.

        Args:
            evaluated: what it will be given.
        """
        raise NotImplementedError

    @classmethod
    def evaluation_options(cls, data: Any, **given: Any) -> EvaluationOptions:
        """How an evaluation or prediction is made; a task without options refuses all.

        Args:
            data: the run's.
            given: by name; None is as usual.

        Raises:
            RequestError: an option that the task does not have, or a wrong value.
        """
        return EvaluationOptions.checked(cls.__name__, **given)

    @torch.inference_mode()
    def measured(self, evaluated: Evaluated) -> Metrics:
        """The metrics of a whole split, or of rows, outside any training."""
        metrics = self.metrics(evaluated)
        with evaluating(self.model):
            for batch in self.batches_of(evaluated):
                metrics.update(batch, self.outputs(batch))
        return metrics

    def batches_of(self, evaluated: Evaluated) -> Iterator[MicroBatch]:
        """Batches on the model's device."""
        for batch in evaluated.batches():
            yield self.transfer_batch_to_device(batch, self.device_of_model, 0)

    @property
    def device_of_model(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def evaluate(self, evaluated: Evaluated, options: EvaluationOptions) -> Evaluation:
        """Scores the model.

        Args:
            options: those of `evaluation_options`.
        """
        return self.measured(evaluated).evaluation(evaluated)

    def scores(self, evaluated: Evaluated) -> list[float]:
        """How well each example is done, in their order, for comparing runs: the `score` of each
        row of an evaluation as usual, unless a task says it of something else.

        Raises:
            RequestError: it says it of nothing.
        """
        found = self.evaluate(evaluated, self.evaluation_options(evaluated.data)).predictions
        if not found:
            raise RequestError(
                Problem("RUN", "a run whose task scores examples", type(self).__name__)
            )
        return [float(each["score"]) for each in found]

    @classmethod
    def says_scores(cls) -> bool:
        """Whether the task defines `scores`."""
        return cls.scores is not Task.scores

    def predict(self, evaluated: Evaluated, options: EvaluationOptions) -> Iterator[dict[str, Any]]:
        """What the model says of each row, in their order; what the rows state as their label or
        target stands in for none. A task without this method makes no predictions.
        """
        raise NotImplementedError

    def line(self, found: Mapping[str, Any]) -> str:
        """What `predict` says of a row, on one line, the text last; here as JSON."""
        said = {key: value for key, value in found.items() if key != "text"}
        return f"{json.dumps(said, ensure_ascii=False)}\t{shortened(str(found.get('text', '')))}"

    def samples(self, data: Any, options: Any) -> list[str]:
        """What the model writes, for people to look at once a run is finished; nothing here.

        Args:
            data: prepared.
            options: `samples`, how many; `sample_tokens`, the most in one; `sample_prompt`.
        """
        return []

    def answered(self, data: Any, options: Any, *, whole: bool = False) -> list[str]:
        """The samples of a task whose `labels` a model can write; see
        `etude.tasks.samples.answers`.
        """
        model = writer(self.model, self.tokenizer)
        if model is None:
            return []
        longest = min(options.sample_tokens, data.sequence_length)
        examples = data.evaluated("val").examples()
        return answers(model, examples, options.samples, longest, whole=whole)

    @property
    def predicts(self) -> bool:
        """Whether the task defines `predict`."""
        return type(self).predict is not Task.predict

    @classmethod
    def no_predictions(cls, run: str) -> Problem:
        """Says that the task makes no predictions of texts, and what does instead.

        Args:
            run: where the run is.
        """
        expected = "a run of a task that makes predictions of texts, such as classification"
        return Problem("RUN", expected, cls.__name__)

    def watch(self, monitor: str) -> None:
        """Says which metric decides; for a constructor whose config may.

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
        """Whether more is better of a metric; None if that is not known."""
        return rises(metric, cls.more_is_better, cls.less_is_better)

    @property
    def section_names(self) -> Sequence[str]:
        """The sources of a mixture, each of which is validated apart too."""
        found: Sequence[str] = self._data.section_names
        return found

    def on_fit_start(self) -> None:
        """The average begins at the first weights, or where a checkpoint left it."""
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
        """Adds a batch to the metrics of its part of the validation, and of its section."""
        if not self.is_mine(batch_idx):
            return
        where = (batch.get("part", "val"), batch.get("section", 0))
        if where not in self._validated:
            self._validated[where] = self.metrics(self._data.evaluated("val"))
        self._validated[where].update(batch, self.outputs(batch))

    def on_validation_epoch_end(self) -> None:
        """Sets `validation_metrics`: of each part, and the loss of each section."""
        ranks = of_all_ranks(self._validated, self.trainer.world_size)
        places = sorted({where for some in ranks for where in some}, key=_in_order)
        evaluated = self._data.evaluated("val")
        found = {
            where: merged(self.metrics(evaluated), [some[where] for some in ranks if where in some])
            for where in places
        }
        metrics: dict[str, float] = {}
        names = self.section_names
        for (part, section), each in found.items():
            if names:
                metrics[f"{part}/{names[section]}/loss"] = each.compute()["loss"]
        for part in dict.fromkeys(part for part, _ in places):
            sections = [each for (where, _), each in found.items() if where == part]
            whole = merged(self.metrics(evaluated), sections)
            computed = {f"{part}/{name}": value for name, value in whole.compute().items()}
            metrics = computed | metrics
        self.validation_metrics = metrics
        self.log_dict(metrics)  # for callbacks such as EarlyStopping

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def for_use(self) -> AbstractContextManager[None]:
        """Within, the model has the weights that it will be used with: averaged ones if any."""
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def strict_loading(self) -> bool:
        """Whether a checkpoint holds all weights: beside low-rank changes the source does."""
        return not adapted(self.model)

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        pass  # Lightning asks for what is known

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out what low-rank changes leave as it is: the source has it. With an average the
        weights are the averaged ones; those in training go into the rest of the state.
        """
        if not self.strict_loading:
            kept = {f"model.{n}" for n, p in self.model.named_parameters() if p.requires_grad}
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: x for n, x in state.items() if n in kept}
        if self.average is not None:
            mine = {name: p.detach() for name, p in self.model.named_parameters()}
            averaged = {name: x.to(mine[name].dtype) for name, x in self.average.weights.items()}
            checkpoint["in_training"] = {name: mine[name] for name in averaged}
            checkpoint["averaged"] = self.average.state_dict()
            named = self._under_each_name(averaged)
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **named}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the weights in training, and the average, from where they were put."""
        if "in_training" in checkpoint:
            checkpoint["state_dict"] |= self._under_each_name(checkpoint["in_training"])
            self._averaged_before = checkpoint["averaged"]

    def _under_each_name(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameters by the task's names; of a shared one all of them."""
        first = {id(p): name for name, p in self.model.named_parameters()}
        every = self.model.named_parameters(remove_duplicate=False)
        names = [(name, first[id(p)]) for name, p in every]
        return {f"model.{name}": weights[one] for name, one in names if one in weights}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Builds the optimizer, each group remembering its base rate."""
        assert self._optimizer_recipe is not None
        optimizer = self._optimizer_recipe(self.model)
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        return optimizer

    def training_step(self, batch: list[MicroBatch], batch_idx: int) -> dict[str, Tensor]:
        """One optimizer step; returns the mean loss over its targets, not yet on the host."""
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
                    # Lightning's autocast lasts for the whole step; the backward pass has its own
                    # precisions, and would only pay for the look-ups.
                    with torch.autocast(self.device.type, enabled=False):
                        # data-parallel strategies average over ranks; the sum is what is wanted
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
        """Batches are made on the CPU: there is nothing to look through if that is the device."""
        if device.type == "cpu":
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def set_learning_rate(self, optimizer: Any, step: int) -> float:
        """Sets every group's rate for `step` and returns the schedule's factor."""
        assert self.schedule is not None
        scale = self.schedule(step, self.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        return scale

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips, after mixed precision has unscaled the gradients."""
        if self.clip is not None:
            self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """The sum of what each rank holds, on every rank; `value` is changed in place."""
        if self.trainer.world_size > 1:
            dist.all_reduce(value)
        return value

    def is_mine(self, batch_idx: int) -> bool:
        """Whether this rank validates a batch; each batch is one rank's."""
        return batch_idx % self.trainer.world_size == self.global_rank

    def _no_sync_before(self, last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients at the last micro-batch only."""
        if last or self.trainer.world_size == 1:
            return nullcontext()
        return self.trainer.strategy.block_backward_sync()  # type: ignore[attr-defined]


def shortened(text: str) -> str:
    """A text on one line, of at most 60 characters."""
    plain = " ".join(text.split())
    return plain if len(plain) <= 60 else plain[:57] + "..."


def _in_order(where: tuple[str, int]) -> tuple[bool, str, int]:
    """What is held out comes before what is trained on."""
    return (where[0] != "val", *where)
