"""Training equals a plain PyTorch loop over the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from safetensors.torch import load_file

from etude.config.checks import check
from etude.tasks.seeding import seed_for
from etude.training.build import build_parts
from etude.training.model import build_model
from etude.training.run import train
from etude.training.run_folder import cache_folder

STEPS, WARM_UP, RATE, DECAY, CLIP = 20, 2, 1e-3, 0.1, 1.0


@pytest.mark.parametrize(
    ("examples", "micro_batch", "precision"), [(4, 4, "32"), (7, 3, "32"), (4, 4, "bf16-mixed")]
)
def test_bit_for_bit(
    small: Callable[..., DictConfig],
    tmp_path: Path,
    examples: int,
    micro_batch: int,
    precision: str,
) -> None:
    config = small(
        tmp_path,
        f"trainer.max_steps={STEPS}",
        f"trainer.micro_batch={micro_batch}",
        f"trainer.precision={precision}",
        f"data.batch.examples={examples}",
    )
    checked = check(config)
    data = build_parts(checked).data
    data.prepare(cache_folder(checked))
    data.attach(seed=config.seed, micro_batch=micro_batch, total_steps=STEPS)
    model = build_model(checked, data.tokenizer_.vocab_size)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.99),
        weight_decay=DECAY,
        fused=True,
    )
    seen = 0
    for step, micro_batches in enumerate(data.train_dataloader()):
        progress = (step - WARM_UP) / (STEPS - 1 - WARM_UP)
        factor = 0.1 + 0.9 * (0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * ((step + 1) / (WARM_UP + 1) if step < WARM_UP else factor)
        optimizer.zero_grad()
        for index, micro in enumerate(micro_batches):
            torch.manual_seed(seed_for(config.seed, step, index))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                logits = model(micro["tokens"])
                targets = micro["targets"].flatten()
                nats = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
            (nats / (examples * 8)).backward()
            seen += len(targets)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    assert seen == STEPS * examples * 8

    record = train(config).record
    weights = load_file(record.checkpoint("last") / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(weights[name], parameter.detach()), name
    assert record.info["tokens"] == seen
