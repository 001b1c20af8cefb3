"""Tests of the coordinate check: its measurements, and that it distinguishes muP from other
scaling.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

import etude
from etude.analysis.coordinates import measure, slopes
from etude.config.checks import check
from etude.errors import RequestError
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.tasks.base import Setup
from etude.training.build import build_parts
from etude.training.model import build_model
from etude.training.run_folder import cache_folder

TOLERANCE = 0.15
"""Of a slope. Measured: those of blocks and logits in muP within 0.09, in the standard
parametrisation above 0.4, of the blocks above 2."""

FALLING = 0.4
"""Of a slope of attention scores below 0: before training they fall with the root of the width, and
after six steps they have forgotten half of it (measured: -0.28)."""


def config(corpus: Path, tmp_path: Path, *more: str) -> DictConfig:
    return etude.compose(
        "experiment=shakespeare_char", "name=check", f"data.path={corpus}",
        "data.sequence_length=16", "data.batch.examples=4", "model.layers=2", "model.heads=2",
        "model.mup_base_dim=8", "optimizer.lr=1e-2", f"run.root={tmp_path / 'runs'}", *more,
    )  # fmt: skip


def test_the_table(corpus: Path, tmp_path: Path) -> None:
    asked = config(corpus, tmp_path)
    figure = tmp_path / "figures" / "check.png"
    frame = etude.coordinate_check(
        asked, [16, 8], steps=2, seeds=(0, 1), beside_standard=True, figure=figure
    )
    names = [f"blocks.{i}{more}" for i in (0, 1) for more in (".attention scores", "")]
    assert sorted(set(frame["quantity"])) == sorted([*names, "logits"])
    assert len(frame) == 2 * 2 * 2 * 3 * 5  # parametrisations, widths, seeds, steps, quantities
    assert (frame["value"] > 0).all()
    assert (frame[frame["step"] == 0]["change"] == 0).all()
    assert (frame[frame["step"] > 0]["change"] > 0).all()
    kinds = frame.set_index(["parametrisation", "width", "seed", "step", "quantity"])
    assert kinds.loc["muP", 8].equals(kinds.loc["standard", 8])  # the base width
    assert not kinds.loc["muP", 16].equals(kinds.loc["standard", 16])
    assert not kinds.loc["muP", 8, 0].equals(kinds.loc["muP", 8, 1])
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "runs").exists()
    assert asked.model.dim == 128  # the caller's config is unchanged


def test_sizes_are_those_of_a_model_asked_by_hand(corpus: Path, tmp_path: Path) -> None:
    checked = check(config(corpus, tmp_path, "model.dim=16"))
    parts = build_parts(checked)
    parts.data.prepare(cache_folder(checked))
    parts.data.attach(seed=0, micro_batch=None, total_steps=1)
    model = build_model(checked, parts.data.tokenizer_.vocab_size)
    assert isinstance(model, Decoder)
    task = parts.task(setup=Setup(model, parts.optimizer, parts.schedule, 1, 0))
    ((micro,),) = parts.data.train_dataloader()
    found = measure(task, micro)
    x = model.embedding(micro["tokens"]) + model.position.weight[:16]
    for i, block in enumerate(model.blocks):
        attention = block.attention
        q, k, _ = attention.qkv(block.attention_norm(x)).unflatten(-1, (3, 2, 8)).unbind(2)
        scores = torch.einsum("bthk,bshk->bhts", q, k) * 4**0.5 / 8  # K = 8, 4 at the base width
        torch.testing.assert_close(found[f"blocks.{i}.attention scores"], scores)
        x = block(x, position=model.position, causal=True)
        torch.testing.assert_close(found[f"blocks.{i}"], x)
    torch.testing.assert_close(found["logits"], model(micro["tokens"]))
    for part in model.modules():  # all hooks are removed
        assert not part._forward_hooks
        assert not isinstance(part, MultiHeadAttention) or "attend" not in vars(part)


def test_slopes_of_powers() -> None:
    rows = [
        {"parametrisation": "p", "width": w, "seed": s, "step": 1, "quantity": "x"}
        | {"value": 3 * w**0.5, "change": 2.0 / w}
        for w in (8, 16, 64)
        for s in (0, 1)
    ]
    (row,) = slopes(pd.DataFrame(rows)).to_dict("records")
    assert row["value"] == pytest.approx(0.5)
    assert row["change"] == pytest.approx(-1)


def test_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="widths"):
        etude.coordinate_check(config(corpus, tmp_path), [8, 8])
    standard = config(corpus, tmp_path, "model.mup_base_dim=null")
    with pytest.raises(RequestError, match="mup_base_dim"):
        etude.coordinate_check(standard, [8, 16], beside_standard=True)
    with pytest.raises(RequestError, match="heads"):
        etude.coordinate_check(config(corpus, tmp_path), [8, 17])


KINDS = {
    "decoder": [],
    "untied, rotary, swiglu": [
        "model.tie_embeddings=false", "model/position=rotary", "model/norm=rmsnorm",
        "model/feedforward=swiglu",
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_in_mup_nothing_grows_and_without_it_something_does(
    corpus: Path, tmp_path: Path, kind: str
) -> None:
    own = ["model.mup_base_dim=64", "model.heads=4", "optimizer.lr=4e-3", *KINDS[kind]]
    frame = etude.coordinate_check(
        config(corpus, tmp_path, *own),
        [64, 128, 256, 512],
        steps=6,
        seeds=range(4),
        beside_standard=True,
    )
    table = slopes(frame)
    last = table[table["step"] == 6]
    mup, standard = (last[last["parametrisation"] == p] for p in ("muP", "standard"))
    scores = mup["quantity"].str.endswith("scores")
    for column in ("value", "change"):
        assert mup[column].max() < TOLERANCE, mup
        assert mup[~scores][column].min() > -TOLERANCE, mup
        assert mup[scores][column].min() > -FALLING, mup
        assert standard[column].min() > 2 * TOLERANCE, standard
    first = table[(table["step"] == 0) & (table["parametrisation"] == "muP")]
    of_scores = first[first["quantity"].str.endswith("scores")]["value"]
    assert of_scores.to_list() == pytest.approx([-0.5, -0.5], abs=0.1)
