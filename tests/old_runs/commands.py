"""The commands whose records are in `old_runs.tar.xz`, run in a folder that holds `data/`."""

from __future__ import annotations

import platform
from pathlib import Path

ARCHIVE = Path(__file__).with_name("old_runs.tar.xz")
ROOT, PAUSED = "experiments", "paused"
PAUSE = "run.stop_at_step=6"

SHORT = [
    "~experiment",
    "data.batch.examples=8",
    "model.layers=1",
    "model.heads=2",
    "model.dim=8",
    "trainer.max_steps=10",
    "trainer.val_check_interval=5",
    "trainer.log_every_n_steps=2",
    "trainer.accelerator=cpu",
    "schedule.warmup_steps=2",
    "run.samples=0",
    "run.keep_last=1",
]
TEXT = [
    "data=text_files",
    "data.path=data/text.txt",
    "data.split=regular",
    "data.sequence_length=24",
]
BYTES = ["data/tokenizer=byte", *TEXT]
PAIRS = ["data=pairs", "data.path=data/pairs.jsonl", "data.tokenizer.vocab_size=270"]
SMALL = "data.tokenizer.vocab_size=60"
LABELLED = ["data=labelled_files", "data.path=data/labelled.jsonl", "data.sequence_length=24"]
TAGGED = ["data=tagged", "data.path=data/words.conllu", "data.sequence_length=24", SMALL]
ENCODER, PAIRED = "model=encoder_nano", "model=transformer_nano"

RUNS: dict[str, list[str]] = {
    "causal_lm": ["model=nano", *BYTES],
    "masked_lm": [ENCODER, "model/head=masked_lm", *TEXT, "data/tokenizer=wordpiece", SMALL],
    "span_denoising": [PAIRED, *TEXT, "data/tokenizer=bpe", "data.tokenizer.vocab_size=270"],
    "translation": [PAIRED, *PAIRS, "data.sequence_length=24"],
    "instruction": ["model=nano", *PAIRS, "data.sequence_length=160"],
    "classification": [ENCODER, *LABELLED, SMALL],
    "tagging": [ENCODER, "model/head=tagging", *TAGGED],
    "algorithmic": ["model=nano", "data=sort", "data.length=4", "data.sequence_length=7"],
    "regression": [
        "model=regressor_nano",
        "data=icl_regression",
        "data.validation=40",
    ],
}
"""One run of each task: what its command adds to `SHORT`."""

PARTS: dict[str, list[str]] = {
    "llama_like": [
        "task=causal_lm",
        "model=nano",
        *BYTES,
        "model/attention=grouped_query",
        "model.attention.kv_heads=1",
        "model/position=rotary",
        "model/norm=rmsnorm",
        "model/feedforward=swiglu",
        "model/mask=sliding_window",
        "model.mask.window=7",
        "model.bias=false",
        "model.tie_embeddings=false",
        "trainer.ema_decay=0.9",
    ],
    "mup": [
        "task=causal_lm",
        "model=nano",
        *BYTES,
        "model/position=alibi",
        "model/attention=qk_norm",
        "model/block=parallel",
        "model/initialise=xavier",
        "model.mup_base_dim=4",
        "optimizer=muon",
        "schedule=wsd",
    ],
    "t5_like": [
        "task=span_denoising",
        PAIRED,
        *TEXT,
        "data/tokenizer=unigram",
        "data.tokenizer.vocab_size=270",
        "model/position=relative",
        "model/attention=unscaled",
        "model/norm=rmsnorm",
        "model/feedforward=geglu",
        "model/initialise=t5",
        "optimizer=adafactor",
        "schedule=inverse_sqrt",
    ],
}
"""Runs that have the other parts of a model between them."""

INTERRUPTED = [
    "task=causal_lm",
    "model=nano",
    *BYTES,
    "trainer.max_steps=400",
    "trainer.val_check_interval=100",
    "trainer.log_every_n_steps=20",
    "seed=3",
]
"""A run that Ctrl-C stops after some steps."""

SWEEP = ["task=causal_lm", "model=nano", *BYTES, "seed=1,2", "model/position=learned,none", "-m"]
SEARCH = [
    "sweep=optuna",
    "task=causal_lm",
    "model=nano",
    *BYTES,
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "hydra.sweeper.n_trials=3",
    "-m",
]
PAPER = "sort"
PAPER_RUN = [
    "experiment=sort",
    "model.layers=1",
    "model.heads=2",
    "model.dim=8",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.accelerator=cpu",
]
PAPER_UNTRAINED = [*PAPER_RUN, "trainer.max_steps=2"]
"""What the paper's two runs become here: as they are published they would take minutes."""


GENERATE = ["--prompt", "the quick", "--samples", "3", "--max-new-tokens", "20", "--seed", "5"]
GENERATED = ("causal_lm", "llama_like", "mup", "adapter")
"""Runs that text is drawn from."""


def of(name: str, *more: str) -> list[str]:
    """The overrides of a run of `RUNS` or `PARTS`."""
    added = [f"task={name}", *RUNS[name]] if name in RUNS else PARTS[name]
    return typed(name, added, *more)


def typed(name: str, added: list[str], *more: str) -> list[str]:
    """`SHORT` with what a run of this name adds to it, or states otherwise."""
    return [f"name={name}", *SHORT, *added, *more]


def adapter(source: str) -> list[str]:
    """A run that adapts another by low-rank changes."""
    added = ["task=causal_lm", *TEXT, f"init_from={source}", "init_from.lora.rank=2"]
    sizes = ("model.layers", "model.heads", "model.dim")  # the source's
    return [word for word in typed("adapter", added) if word.split("=")[0] not in sizes]


def processor() -> str:
    """The CPU: another one may round otherwise."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
