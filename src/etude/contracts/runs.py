"""Protocols of a run's components: the constructor arguments and methods that Étude uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Model(Protocol):
    """Model: a `torch.nn.Module`. Its inputs are the batches that the task makes from the data.

    Args:
        vocab_size: V, the vocabulary size: that of the tokenizer, unless the config sets
            `model.vocab_size`.
    """

    max_length: int
    """Length of the longest training sequence."""

    mask: Any
    """The mask of the attention; see `etude.contracts.parts.Mask`."""

    def __init__(self, *, vocab_size: int = 0) -> None: ...

    def forward(self, *inputs: Tensor, **more: Any) -> Tensor:
        """Returns the model's outputs for a batch.

        A language model maps token ids, of shape (B, T), to logits of shape (B, T, V).

        Args:
            inputs: tensors from the batch, such as token ids, of shape (B, T). An encoder-decoder
                gets the ids of the source and those of the target.
            more: further arguments from the batch, such as `documents` for packed texts; see the
                method `forward` of `Decoder`, `Encoder` and `EncoderDecoder`.
        """
        ...


class Head(Protocol):
    """Head: a `torch.nn.Module`, the output layer of a model with an encoder.

    Args:
        dim: D, the width of the vectors.
        embedding: token embedding, whose weights a head may share.
        norm: function that returns a norm (a `torch.nn.Module`); the head calls it with the
            arguments `dim` and `bias` of `etude.contracts.parts.Norm`.
        dropout: dropout probability.
        labels: number of labels: that of the data, unless the config sets it.
    """

    gives: str
    """Kind of the logits: `vocabulary` (of the tokens of the vocabulary, at each position), `tags`
    (of the labels, at each position) or `classes` (of the labels, once per sequence).
    """

    def __init__(
        self, *, dim: int, embedding: nn.Module, norm: Any, dropout: float, labels: int = 0
    ) -> None: ...

    def forward(self, x: Tensor, keep: Tensor | None = None, /) -> Tensor:
        """Maps the vectors of B sequences, of shape (B, T, D), to logits.

        Logits of a head with one result per position have the shape (B, T, ...). Logits of a head
        with one result per sequence (the attribute `gives` is `classes`) have the shape (B, ...).

        Args:
            keep: mask of shape (B, T), false where a token is padding; None means no padding.
        """
        ...

    def of_packed(self, x: Tensor, documents: Any, /) -> Tensor:
        """Maps the vectors (B, T, D) of packed sequences to logits.

        In a packed sequence, several texts ("documents") follow each other. A head with one result
        per position returns logits of shape (B, T, ...); a head with one result per text (the
        attribute `gives` is `classes`) returns (N, ...) for N documents in all.

        Args:
            documents: the document to which each position belongs, as an
                `etude.nn.documents.Documents`.
        """
        ...


class Initialise(Protocol):
    """Initialisation of a new model's weights."""

    def __call__(self, module: nn.Module, layers: int, /) -> None:
        """Fills the weights of a model with `layers` layers, in place."""
        ...


class Data(Protocol):
    """Data: a subclass of `etude.data.module.DataModule`, which returns batches.

    Subclasses of `etude.data.text.TextData`, `etude.data.examples.base.ExampleData` and
    `etude.data.synthetic.base.SyntheticData` need to define fewer methods. A run calls `for_task`,
    `check`, `fingerprint`, `prepare`, `attach`, and then the loaders.
    """

    sequence_length: int
    """Number of targets in the longest sequence."""

    labels: Any
    """Names of the classes or tags; empty if there are none."""

    tokenizer_: Any
    """The tokenizer; available after `prepare`."""

    meta: Any
    """Metadata of the splits; available after `prepare`."""

    examples_per_step: int
    """Number of examples in an optimizer step, over all processes."""

    tokens_per_step: float
    """Number of targets in an optimizer step, over all processes."""

    steps_per_epoch: float
    """Number of optimizer steps that use each training example once."""

    section_names: Any
    """Names of a mixture's sources, each of which is also validated separately; usually empty."""

    def misfits(self, processes: int, max_epochs: float | None = None, /) -> Any:
        """Yields a `Problem` for each setting of the trainer that does not fit the data.

        Args:
            processes: number of processes that share the examples of each optimizer step.
            max_epochs: length of the run in epochs; None if the config sets the length otherwise.
        """
        ...

    def tokens_in(self, first: int, end: int, /) -> int:
        """Returns the number of targets (predictions that count in the loss) in the optimizer steps
        `first` to `end` - 1; the first step of the run is 0.
        """
        ...

    def for_task(self, objective: Any, /) -> None:
        """Sets the objective of a task, which makes model inputs and targets from the data.

        If `objective` is None, the inputs are tokens, and each target is the next token.

        Raises:
            RequestError: the data does not fit the task.
        """
        ...

    def check(self) -> None:
        """Checks that all files and data sets exist and are readable; writes nothing.

        Raises:
            RequestError: a file or data set is missing or unreadable.
        """
        ...

    def fingerprint(self) -> str:
        """Returns the SHA-256 hash of the data's content, in hexadecimal.

        Two runs of the same config are different runs if the hashes of their data differ.
        """
        ...

    def files_read(self) -> list[Path] | None:
        """Returns the files from which `fingerprint` computes its result.

        None means that the fingerprint also depends on other content, such as a data set on the
        Hugging Face Hub.
        """
        ...

    def origin(self) -> Mapping[str, object]:
        """Returns a description of where the data comes from, which is saved in the run folder.

        The keys are chosen by the class, such as `repository` and `commit`; the values can be
        written as JSON. The dict is empty if the config already contains the path of the data.
        """
        ...

    def prepare(self, cache_dir: Path, /) -> Any:
        """Writes the prepared data to the folder `cache_dir`, or reads it if it exists there.

        A run does not use the result.
        """
        ...

    def attach(
        self,
        *,
        seed: int,
        micro_batch: int | None,
        total_steps: int,
        start_step: int,
        rank: int,
        world: int,
    ) -> None:
        """Sets the optimizer steps that the loaders load, and the part that this process gets.

        Args:
            seed: the run's seed.
            micro_batch: maximum number of examples in a micro-batch; None for no limit.
            total_steps: number of optimizer steps in the whole run.
            start_step: number of steps that are already done.
            rank, world: index of the process, from 0, and number of processes.
        """
        ...

    def train_dataloader(self) -> Any:
        """Returns a loader with one item per optimizer step: a list of micro-batches."""
        ...

    def val_dataloader(self) -> Any:
        """Returns a loader of the validation split, in order."""
        ...

    def evaluated(self, split: str, /) -> Any:
        """Returns a split for evaluation, as an `etude.data.evaluation_data.Evaluated`."""
        ...

    def evaluated_with_rows(self, asked: Any, /) -> Any:
        """Returns the examples of a split or of other files, with the data rows they come from.

        The result is an `etude.data.evaluation_data.Evaluated`.

        Args:
            asked: the requested split or files, an `etude.data.evaluation_data.EvaluationRequest`.
        """
        ...

    def described(self, examples: int, /) -> Any:
        """Returns the lines that the command `etude data show` prints, as an iterable of strings.

        Args:
            examples: number of examples to show in these lines.
        """
        ...


class Tokenizer(Protocol):
    """Recipe of a tokenizer: an object that trains a tokenizer on texts."""

    def train(self, texts: Iterable[str], /) -> Any:
        """Trains the `etude.data.tokenizer.Tokenizer` on texts, and returns it."""
        ...


class Task(Protocol):
    """Task: a model with its loss and metrics; a subclass of `etude.tasks.base.Task`.

    Args:
        setup: an `etude.tasks.base.Setup`: object with all arguments that the run passes, such as
            the model, the optimizer recipe and the schedule. A subclass passes this object to the
            constructor of `etude.tasks.base.Task`.
    """

    monitor: str
    """The validation metric that selects the best checkpoint."""

    metric_names: Any
    """Names of all validation metrics; callbacks may monitor these."""

    def __init__(self, *, setup: Any) -> None: ...

    def loss(self, micro: Any, /) -> Tensor:
        """Returns a scalar tensor: the sum of the losses of all targets in a micro-batch."""
        ...

    def outputs(self, micro: Any, /) -> Any:
        """Returns the model's output for a micro-batch, in the form that the metrics need."""
        ...

    def metrics(self, evaluated: Any, /) -> Any:
        """Returns a new `etude.tasks.metrics.Metrics` object, for the metrics of a split.

        Args:
            evaluated: the examples of the split, an `etude.data.evaluation_data.Evaluated`.
        """
        ...


class Optimizer(Protocol):
    """Recipe of an optimizer: an object that builds the optimizer of a model."""

    def __call__(self, module: nn.Module, /) -> torch.optim.Optimizer:
        """Returns an optimizer for the parameters of a model."""
        ...


class Schedule(Protocol):
    """Learning-rate schedule: a function from an optimizer step to a learning-rate factor."""

    def __call__(self, step: int, total: int, /) -> float:
        """Returns the learning-rate factor of an optimizer step.

        The learning rate of the step is the optimizer's learning rate times this factor.

        Args:
            step: the step; the first is 0.
            total: the number of steps in the run.
        """
        ...


class Logger(Protocol):
    """Logger of a run's metrics, texts and figures: a subclass of `etude.loggers.base.Logger`.

    The methods of the base class do nothing.

    Except for `abandon`, all methods are called in a separate thread, one call at a time.
    """

    patience: float
    """Longest time, in seconds, that the run waits for the logger after training."""

    def start(self, run: Any, rows: Sequence[Any], /) -> None:
        """Called when training begins.

        Args:
            run: description of the run, an `etude.loggers.base.RunInfo`.
            rows: the rows in `metrics.jsonl` so far; empty unless the run is resumed.
        """
        ...

    def metrics(self, row: Mapping[str, Any], /) -> None:
        """Called when a row of metrics was written to `metrics.jsonl`.

        Args:
            row: dict from names, such as `step` and `train/loss`, to values.
        """
        ...

    def text(self, name: str, text: str, step: int, /) -> None:
        """Called when a text, such as generated samples, was saved in the run folder.

        Args:
            name: name of the text.
            text: the text.
            step: optimizer step at which the text was saved.
        """
        ...

    def figure(self, name: str, path: Path, step: int, /) -> None:
        """Called when a figure was saved in the run folder."""
        ...

    def finish(self, status: str, /) -> None:
        """Called when training has ended."""
        ...

    def abandon(self) -> None:
        """Releases all resources immediately.

        Called from another thread when the logger failed or did not finish in time.
        """
        ...


class Callback(Protocol):
    """A Lightning callback; see Lightning's documentation."""


class Launcher(Protocol):
    """Runner of a sweep's jobs: a Hydra launcher."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Called once, before the jobs of a sweep are run.

        Args:
            hydra_context: Hydra's context; its `config_loader` composes configs.
            task_function: function that runs a job; called with the job's config.
            config: config of the sweep.
        """
        ...

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int, /
    ) -> Sequence[Any]:
        """Runs jobs of a sweep, and returns a `hydra.core.utils.JobReturn` for each job.

        Args:
            job_overrides: for each job, its Hydra overrides.
            initial_job_idx: index in the sweep of the first of these jobs; the sweep's first job
                has the index 0.
        """
        ...
