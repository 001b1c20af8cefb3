"""Schema of the config: the root keys, their types, and which of them are part of the signature.

Hydra merges each config file into `Config`, so keys that are not defined here are refused in all
files and overrides. Keys of the nodes `model`, `data`, ... are checked against the constructor that
`_target_` names (see `checks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING

ON_EXISTING = ("continue", "again", "error")
ON_ERROR = ("continue", "stop")
HEADS = ("keep", "new")


@dataclass
class Run:
    """Options for executing and saving a run; they do not change its result.

    Attributes:
        root: folder in which all runs are saved.
        on_existing: what to do if the run exists: `continue` reuses a finished run and continues an
            interrupted run, `again` trains again in a new folder, `error` refuses.
        wait: whether to wait for another process that uses this run, instead of ending with exit
            code 3.
        force: whether to take over a run from a process on another host that did not release it.
        unsafe_storage: whether to train on a file system that has no locks or cannot flush a
            folder; see `etude.records.storage` for the risks.
        exportable: whether to refuse models that `etude convert` cannot convert, before training.
        on_error: what to do if a job of a sweep fails: `continue` with the others, or `stop`.
        stop_at_step: optimizer step after which the run pauses; the same command without this
            option continues the run.
        save_every: optimizer steps between checkpoints; null saves at validations and at the end.
        keep_every: number of optimizer steps; checkpoints at its multiples are never removed.
        keep_last: number of latest checkpoints to keep in addition to the best one, not counting
            those saved when a run was stopped; null keeps two.
        cache: folder of prepared data; null is `$ETUDE_CACHE` or `~/.cache/etude`.
        samples: number of sample texts to write at the end.
        sample_prompt: start of the sample texts.
        sample_tokens: length of the sample texts in tokens.
        tags: tags, for filters.
        notes: a free text.
        overrides: the overrides; set when the config is composed.
        choices: the file chosen from each config group; set when the config is composed.
    """

    root: str = "experiments"
    on_existing: str = "continue"
    wait: bool = False
    force: bool = False
    unsafe_storage: bool = False
    exportable: bool = False
    on_error: str = "continue"
    stop_at_step: int | None = None
    save_every: int | None = None
    keep_every: int | None = None
    keep_last: int | None = None
    cache: str | None = None
    samples: int = 3
    sample_prompt: str = ""
    sample_tokens: int = 300
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)


@dataclass
class LoRAOptions:
    """Options of LoRA: low-rank updates of the frozen weights of the model in `init_from.source`;
    see `etude.nn.lora`.

    Attributes:
        rank: rank of each update; 0 disables LoRA.
        alpha: updates are scaled by alpha / rank.
        dropout: dropout probability of an update's input.
        targets: the linear modules to update, from q, k, v, qkv, out, gate, up, down.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["q", "v"])


@dataclass
class InitFrom:
    """Initial weights of a run; `init_from=SOURCE` is short for `init_from.source=SOURCE`.

    Attributes:
        source: a run (its path, name or signature), a folder or file of released weights, or a
            Hugging Face Hub id; null means random weights. Model and tokenizer are those of the
            source, except for the head and for overrides `model.<key>=...`.
        revision: branch, tag or commit on the Hugging Face Hub.
        checkpoint: checkpoint of a run: best, last, a step, average or average:K.
        freeze: parameters that are not trained: patterns of names such as `embedding*` or
            `blocks.0.*`; `body` means all except the head.
        lora: options of LoRA; only the updates, and the head of an encoder, are trained.
        head: `keep` uses the source's head, and refuses a head of another shape; without a head in
            the source, it starts with a new head. `new` always starts with a new head.
        grow_positions: whether to allow longer sequences than the source. The learned position
            embeddings get new, untrained rows for the additional positions.
        found: description of the source, set automatically; the part of `init_from` that is hashed
            into the signature.
    """

    source: str | None = None
    revision: str | None = None
    checkpoint: str = "best"
    freeze: list[str] = field(default_factory=list)
    lora: LoRAOptions = field(default_factory=LoRAOptions)
    head: str = "keep"
    grow_positions: bool = False
    found: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """The config of one run; `conf/train.yaml` lists the default file of each node.

    Attributes:
        name: name of the run; its folder is `<run.root>/<name>/<signature>`.
        seed: seed of the initial weights, the data order, dropout and masks; part of the signature.
        model: the model and its parts.
        data: the data and its tokenizer.
        task: the loss, the targets and the metrics.
        optimizer: the optimizer.
        schedule: the learning rate over the run, as a factor of the optimizer's rate.
        trainer: the length of the run, validation, precision and devices.
        init_from: initial weights; see `init_from.*`.
        callbacks: Lightning callbacks, by any name: `callbacks.NAME._target_` is a class.
            `callbacks=early_stopping` sets `pytorch_lightning.callbacks.EarlyStopping`.
        logger: loggers in addition to the run's own files, by any name.
        extensions: modules of your own, which are imported before the config is checked. Part of
            the signature.
        vars: free keys, for values that other keys refer to: `${vars.width}`.
        run: options for executing and saving the run; see `run.*`.
    """

    name: str = MISSING
    seed: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    init_from: InitFrom = field(default_factory=InitFrom)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)
    vars: dict[str, Any] = field(default_factory=dict)
    run: Run = field(default_factory=Run)


ROOT_KEYS = tuple(f.name for f in fields(Config))

NODES = ("model", "data", "task", "optimizer", "schedule", "trainer")
"""The root keys whose nodes have a `_target_`."""

OUT_OF_SIGNATURE = (
    "run",
    "logger",
    "vars",
    "data.workers",
    "data.streaming",
    "data.path.streaming",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.micro_batch",
    "trainer.log_every_n_steps",
)
"""Keys excluded from the signature: they determine where and how a run executes, not its result."""
