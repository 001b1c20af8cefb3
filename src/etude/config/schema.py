"""The root of every config: its keys, their types, and which of them make a run what it is.

Hydra merges each config file into `Config`, so a key that is not here is refused wherever it was
written. The nodes below `model`, `data`, ... are closed a second time by the constructor that
their `_target_` names (see `checks.py`).
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
    """How a run is carried out and recorded: nothing here changes its result or its name.

    Attributes:
        root: the folder of all records.
        on_existing: `continue` reuses a finished run and goes on with an interrupted one,
            `again` trains anew and keeps the old record, `error` refuses.
        wait: wait for another process that holds this run, instead of leaving with exit code 3.
        force: take a run over from a process on another host that never let go of it.
        unsafe_storage: train although the file system of `root` has no locks, or cannot flush a
            folder; `etude.records.storage` says what is lost.
        exportable: train no model that `etude convert` could not write for `transformers`.
        on_error: of a sweep in which a job fails: `continue` with the others, or `stop`.
        stop_at_step: pause after this optimizer step; the same command without it goes on.
        save_every: optimizer steps between checkpoints; null saves at validations and at the end.
        keep_every: checkpoints at multiples of this step are never removed.
        keep_last: how many of the latest checkpoints stay, beside the best; those of a stop do not
            count. Null keeps the last two.
        cache: where prepared data lies; null is `$ETUDE_CACHE` or `~/.cache/etude`.
        samples: how many sample texts to write at the end; 0 writes none.
        sample_prompt, sample_tokens: what they start from, and their length in tokens.
        tags, notes: for people.
        overrides: what was typed; filled in by composition.
        choices: the file chosen from each config group; filled in by composition.
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
    """Low-rank changes of the source's matrices, which stay; see `etude.nn.lora`.

    Attributes:
        rank: of each change; 0 is none.
        alpha: a change counts alpha / rank.
        dropout: probability, of what a change reads.
        targets: some of q, k, v, qkv, out, gate, up, down.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["q", "v"])


@dataclass
class InitFrom:
    """Whose weights a run begins with; `init_from=SOURCE` is short for `init_from.source=SOURCE`.

    Attributes:
        source: a run (its path, name or signature), a folder or file of released weights, or a hub
            id; null begins with random weights. Model and tokenizer are then the source's, but for
            the head and for what `model.<key>=...` says.
        revision: on the hub, a branch, tag or commit.
        checkpoint: of a run: best, last, a step, average or average:K.
        freeze: which parameters stay as they are: patterns of names such as `embedding*` or
            `blocks.0.*`; `body` is all but the head.
        lora: train low-rank changes alone, with an encoder's head.
        head: `keep` the source's head where it is of the kind that the task needs, or begin with a
            `new` one.
        grow_positions: the model reads longer sequences than its source, by rows of learned
            positions that begin untrained; the others are the source's.
        found: what the source is; filled in, and all that enters the signature.
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
    """The whole config of one run; `conf/train.yaml` says where each node comes from."""

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
"""The root keys that name a constructor by `_target_`."""

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
"""What may differ between two executions of the same run: where and how it runs, not what it is."""
