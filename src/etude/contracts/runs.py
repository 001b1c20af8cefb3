"""What the other parts of a run are given and must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Model(Protocol):
    """A `torch.nn.Module` that reads what the data gives; the task says what that is.

    Args:
        vocab_size: V, the tokenizer's unless `model.vocab_size` states one.
    """

    max_length: int
    """The longest sequence that it is trained on."""

    mask: Any
    """Which keys a query may see; see `etude.contracts.parts.Mask`."""

    def __init__(self, *, vocab_size: int = 0) -> None: ...

    def forward(self, *inputs: Tensor, **more: Any) -> Tensor:
        """For a language model, token ids (B, T) to logits (B, T, V).

        Args:
            more: what the task knows of the batch besides, such as `documents` where texts are
                packed; see the `forward` of `Decoder`, `Encoder` and `EncoderDecoder`.
        """
        ...


class Head(Protocol):
    """What stands on an encoder's vectors: a `torch.nn.Module`.

    Args:
        dim: D.
        embedding: of the tokens, whose weights a head may share.
        norm: makes a norm when called with dim and bias.
        dropout: a probability.
        labels: how many the data has, unless the config states it.
    """

    gives: str
    """What its logits are over: `vocabulary`, `tags` or `classes`."""

    def __init__(
        self, *, dim: int, embedding: nn.Module, norm: Any, dropout: float, labels: int = 0
    ) -> None: ...

    def forward(self, x: Tensor, keep: Tensor | None = None, /) -> Tensor:
        """Vectors (B, T, D) to logits: (B, T, ...), or of `classes` (B, ...).

        Args:
            keep: (B, T), false where a token is padding.
        """
        ...

    def of_packed(self, x: Tensor, documents: Any, /) -> Tensor:
        """The same for packed sequences; of `classes`, (N, ...) for N documents."""
        ...


class Initialise(Protocol):
    """Fills a new model's weights."""

    def __call__(self, module: nn.Module, layers: int, /) -> None:
        """Fills the weights of a model of so many layers, in place."""
        ...


class Data(Protocol):
    """Where batches come from: an `etude.data.module.DataModule`, which has what all data has.
    `etude.data.text.TextData`, `etude.data.examples.base.ExampleData` and
    `etude.data.synthetic.base.SyntheticData` leave less to their subclasses.

    A run calls `for_task`, `check`, `fingerprint`, `prepare`, `attach`, and then the loaders.
    """

    sequence_length: int
    """Targets in the longest sequence."""

    labels: Any
    """The names of the classes or tags; empty where there are none."""

    tokenizer_: Any
    """The tokenizer; known after `prepare`."""

    meta: Any
    """What the splits hold; known after `prepare`."""

    examples_per_step: int
    """Examples in an optimizer step, over all processes."""

    tokens_per_step: float
    """Targets in an optimizer step, over all processes."""

    steps_per_epoch: float
    """Optimizer steps in which each training example is seen once."""

    section_names: Any
    """The sources of a mixture, each of which is validated apart too; usually none."""

    def misfits(self, processes: int, max_epochs: float | None = None, /) -> Any:
        """A `Problem` for each thing that does not fit how a run goes on."""
        ...

    def tokens_in(self, first: int, end: int, /) -> int:
        """Targets in the optimizer steps from `first` on, before `end`."""
        ...

    def for_task(self, objective: Any, /) -> None:
        """Says what the task makes of the data; None takes it as it is.

        Raises:
            RequestError: the task needs other data.
        """
        ...

    def check(self) -> None:
        """Looks whether everything is there and readable; writes nothing.

        Raises:
            RequestError: it isn't.
        """
        ...

    def fingerprint(self) -> str:
        """sha256 (hex) of the content: other content is another run."""
        ...

    def files_read(self) -> list[Path] | None:
        """The files that the fingerprint is of; None if it is not of files alone."""
        ...

    def origin(self) -> Mapping[str, object]:
        """Where the content comes from, for the record."""
        ...

    def prepare(self, cache_dir: Path, /) -> Any:
        """Makes what the loaders read, in `cache_dir`, or finds it there."""
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
        """Says which steps are loaded, and by which of `world` processes."""
        ...

    def train_dataloader(self) -> Any:
        """One item for each optimizer step: a list of micro-batches."""
        ...

    def val_dataloader(self) -> Any:
        """The validation split, in order."""
        ...

    def evaluated(self, split: str, /) -> Any:
        """A split as an `etude.data.evaluated.Evaluated`."""
        ...

    def evaluated_with_rows(self, asked: Any, /) -> Any:
        """What an `etude.data.evaluated.Request` asks for, likewise; of data with rows also other
        files.
        """
        ...

    def described(self, examples: int, /) -> Any:
        """What `etude data show` says of it, a line each, with so many examples."""
        ...


class Tokenizer(Protocol):
    """How a tokenizer is made of a corpus."""

    def train(self, texts: Iterable[str], /) -> Any:
        """The `etude.data.tokenizer.Tokenizer` of the texts."""
        ...


class Task(Protocol):
    """A model with its loss and metrics: a subclass of `etude.tasks.base.Task`.

    Args:
        setup: the model, the optimizer's recipe, the schedule, ...; handed to `Task`.
    """

    monitor: str
    """The validation metric that decides which checkpoint is best."""

    metric_names: Any
    """All that a validation measures; callbacks may watch these."""

    def __init__(self, *, setup: Any) -> None: ...

    def loss(self, micro: Any, /) -> Tensor:
        """The sum of the loss over a micro-batch's targets, a scalar."""
        ...

    def outputs(self, micro: Any, /) -> Any:
        """What the model says of a micro-batch, as the metrics read it."""
        ...

    def metrics(self, evaluated: Any, /) -> Any:
        """A new `etude.tasks.metrics.Metrics` for what is going to be evaluated, an
        `etude.data.evaluated.Evaluated`.
        """
        ...


class Optimizer(Protocol):
    """How an optimizer is made for a model."""

    def __call__(self, module: nn.Module, /) -> torch.optim.Optimizer:
        """The optimizer of a model's parameters."""
        ...


class Schedule(Protocol):
    """The learning rate by step."""

    def __call__(self, step: int, total: int, /) -> float:
        """What the rate is multiplied with at a step of `total`; the first is 0."""
        ...


class Logger(Protocol):
    """A view of a run: a subclass of `etude.loggers.base.Logger`, whose methods do nothing.

    Each call comes from a thread of the logger's own, one after the other.
    """

    patience: float
    """Seconds that the run waits for it at its end."""

    def start(self, run: Any, rows: Sequence[Any], /) -> None:
        """Training begins. `run` is an `etude.loggers.base.ViewedRun`; `rows` are the metrics of
        earlier starts.
        """
        ...

    def metrics(self, row: Mapping[str, Any], /) -> None:
        """A row was written to `metrics.jsonl`."""
        ...

    def text(self, name: str, text: str, step: int, /) -> None:
        """A text was written to the record, such as samples."""
        ...

    def figure(self, name: str, path: Path, step: int, /) -> None:
        """A figure was written to the record."""
        ...

    def finish(self, status: str, /) -> None:
        """Training came to an end."""
        ...

    def abandon(self) -> None:
        """Lets go of everything at once, from another thread."""
        ...


class Callback(Protocol):
    """A callback of Lightning's; see its documentation."""


class Launcher(Protocol):
    """Carries out the jobs of a sweep: one of Hydra's launchers."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Called once, before the jobs.

        Args:
            hydra_context: Hydra's; its `config_loader` composes.
            task_function: to be called with a job's config.
            config: of the sweep.
        """
        ...

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int, /
    ) -> Sequence[Any]:
        """Carries out jobs and returns a `JobReturn` for each.

        Args:
            job_overrides: of each job.
            initial_job_idx: the number of the first.
        """
        ...
