"""Each precision trains on the CPU, saves its weights and generates text; profilers write files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from etude.api import Run
from etude.config.compose import compose
from etude.models.language_model import LanguageModel
from etude.records.record import Record
from etude.tasks.base import Task
from etude.tasks.causal_lm import next_token_loss
from etude.training.run import train

Small = Callable[..., DictConfig]

LEARNS = ["optimizer.lr=0.02", "trainer.log_every_n_steps=1", "model.dropout=0"]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32", torch.float32),
        ("bf16-mixed", torch.float32),
        ("bf16-true", torch.bfloat16),
        ("64-true", torch.float64),
    ],
)
def test_it_trains(small: Small, tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    texts, sampled = [], []

    def sample(record: Record, task: Task, data: object) -> None:
        model = LanguageModel(task.model, task.tokenizer)
        texts.append(model.generate("the", max_new_tokens=12, seed=3))
        assert {p.dtype for p in model.module.parameters()} == {dtype}
        sampled.append(True)

    record = train(small(tmp_path, f"trainer.precision={precision}", *LEARNS), sample).record
    assert sampled  # an epilogue that fails is told, and fails nothing
    losses = [row["train/loss"] for row in record.rows() if "train/loss" in row]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1.5
    assert len(set(losses)) > 35  # a sum kept in bfloat16 has a few values only
    weights = load_file(record.checkpoints()[-1][1] / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    state = torch.load(record.checkpoints()[-1][1] / "state.pt", weights_only=True)
    moments = [s["exp_avg"] for s in state["optimizer_states"][0]["state"].values()]
    assert {moment.dtype for moment in moments} == {dtype}

    run = Run(record)
    last = record.info["final"]["val/loss"]
    assert run.evaluate(which="last")["loss"] == pytest.approx(last, rel=2e-3)
    text = run.model("last").generate("the", max_new_tokens=12, seed=3)
    assert text.startswith("the")
    assert len(text) > 6
    if dtype == torch.float32:  # what is loaded computes in single precision
        assert text == texts[0]


@pytest.mark.parametrize(
    "parts",
    [
        ("rotary", "rmsnorm", "swiglu", "multi_head"),
        pytest.param(("alibi", "layernorm", "geglu", "reference"), marks=pytest.mark.slow),
        pytest.param(("sinusoidal", "none", "relu", "multi_query"), marks=pytest.mark.slow),
    ],
)
def test_every_part_computes_in_bfloat16(
    words: Callable[..., list[str]], tmp_path: Path, parts: tuple[str, ...]
) -> None:
    slots = ("position", "norm", "feedforward", "attention")
    chosen = [f"model/{slot}={part}" for slot, part in zip(slots, parts, strict=True)]

    def losses(precision: str) -> list[float]:
        more = ["model.dim=16", "model.heads=2", "trainer.max_steps=6"]
        config = compose(
            [*words(tmp_path, *chosen, *LEARNS, *more), f"trainer.precision={precision}"]
        )
        return [row["train/loss"] for row in train(config).record.rows() if "train/loss" in row]

    assert losses("bf16-true") == pytest.approx(losses("32"), rel=0.02)


def test_a_loss_is_summed_in_single_precision_at_least() -> None:
    logits = torch.randn(2, 64, 11, generator=torch.Generator().manual_seed(0))
    micro = {"tokens": torch.zeros(2, 64), "targets": torch.randint(11, (2, 64))}
    for dtype, kept in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        rounded = logits.to(dtype)
        loss = next_token_loss(lambda _, rounded=rounded: rounded, micro)  # type: ignore[arg-type, misc]
        assert loss.dtype == kept
        exact = -rounded.double().log_softmax(-1).gather(2, micro["targets"][..., None]).sum()
        assert float(loss) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("profiler", ["simple", "pytorch"])
def test_a_profile_lies_in_the_record(small: Small, tmp_path: Path, profiler: str) -> None:
    record = train(small(tmp_path, f"trainer.profiler={profiler}", "trainer.max_steps=6")).record
    files = list(record.path.glob("*profile*"))
    assert any("training_step" in file.read_text(errors="replace") for file in files)
