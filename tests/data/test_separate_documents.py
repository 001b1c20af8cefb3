"""`data.separate_documents`: what the loaders give, and what a run makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import torch.nn.functional as F
from tests.data.test_text import corpus
from tokenizers import models
from torch import Tensor

from etude.config.checks import check
from etude.config.compose import compose
from etude.data.pretrained import Pretrained
from etude.data.tokenizer import Byte
from etude.errors import RequestError
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned
from etude.tasks.base import Setup
from etude.tasks.causal_lm import CausalLM, next_token_loss
from etude.training.build import build_parts

END = 256  # of `Byte`
TEXTS = ["one two three. " * 4, "four", "five six seven eight nine. " * 5, "ten. " * 9]


def data(folder: Path, **changes: Any) -> Any:
    made = corpus(Byte(), train=TEXTS * 3, val=TEXTS, separate_documents=True, **changes)
    made.prepare(folder)
    made.attach(seed=1, micro_batch=4, total_steps=6)
    return made


def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        vocab_size=257, layers=2, heads=2, dim=16, max_length=64, attention=MultiHeadAttention,
        position=Learned, norm=LayerNorm, feedforward=GELU, mask=Causal, block=PreNormBlock,
    ).double()  # fmt: skip


def alone(module: Decoder, tokens: Tensor, targets: Tensor) -> float:
    """Nats of one window, its documents read one by one; each begins with its separator."""
    begins = [0, *(t for t in range(1, len(tokens)) if tokens[t] == END), len(tokens)]
    return sum(
        F.cross_entropy(module(tokens[None, a:b])[0], targets[a:b], reduction="sum").item()
        for a, b in pairwise(begins)
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_is_the_mean_over_its_documents_read_alone(tmp_path: Path, workers: int) -> None:
    """Every target counts once, as without: also the first word after a separator."""
    loader = data(tmp_path, length=48, workers=workers).train_dataloader()
    plain = corpus(Byte(), train=TEXTS * 3, val=TEXTS, length=48)
    plain.prepare(tmp_path)
    plain.attach(seed=1, micro_batch=4, total_steps=6)
    module, cut = model(), 0
    for step, same in zip(loader, plain.train_dataloader(), strict=True):
        for micro, usual in zip(step, same, strict=True):
            assert "documents" not in usual
            assert torch.equal(micro["tokens"], usual["tokens"])
            assert micro["step_targets"] == usual["step_targets"] == 6 * 48
            cut += sum(len(row) - 1 for row in micro["documents"].lengths)
        packed = sum(next_token_loss(module, micro).item() for micro in step) / (6 * 48)
        apart = sum(
            alone(module, t, u)
            for micro in step
            for t, u in zip(micro["tokens"], micro["targets"], strict=True)
        )
        assert packed == pytest.approx(apart / (6 * 48), abs=1e-6)
        usual_loss = sum(next_token_loss(module, micro).item() for micro in same) / (6 * 48)
        assert abs(packed - usual_loss) > 1e-5
    assert cut > 10


def test_validation_is_of_documents_read_alone_and_all_bytes_count(tmp_path: Path) -> None:
    made = data(tmp_path, length=32)
    module = model()
    found = CausalLM(Setup(module)).measured(made.evaluated("val")).compute()
    nats = targets = 0.0
    for batch in made.val_dataloader():
        for t, u in zip(batch["tokens"], batch["targets"], strict=True):
            nats, targets = nats + alone(module, t, u), targets + len(u)
    assert targets == sum(map(len, TEXTS)) + len(TEXTS) - 2  # all but the first token
    assert found["loss"] == pytest.approx(nats / targets, rel=1e-12)
    spelt = sum(map(len, TEXTS)) - 1
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / spelt, rel=1e-12)


def test_a_tokenizer_without_an_end_is_refused_by_name(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, [], unk_token="b"))
    backend.save(str(tmp_path / "tokenizer.json"))
    given: dict[str, Any] = {"train": ["ab" * 50], "val": ["ab" * 9]}
    recipe = Pretrained(path=str(tmp_path / "tokenizer.json"))
    corpus(recipe, **given).prepare(tmp_path / "cache")
    with pytest.raises(RequestError) as caught:
        corpus(recipe, **given, separate_documents=True).prepare(tmp_path / "cache")
    (problem,) = caught.value.problems
    assert (problem.where, problem.value) == ("data.separate_documents", True)
    assert str(problem.hint).startswith("Pretrained has no such token; set ")
    assert "end-of-text" in problem.expected


def test_a_source_of_a_mixture_leaves_it_to_the_mixture() -> None:
    source = "data.sources.early.separate_documents=true"
    with pytest.raises(RequestError, match=r"to change it, set data\.separate_documents"):
        check(compose(["experiment=debug", "data=mixture", source]))
    plain, separate = (
        build_parts(check(compose(["experiment=debug", "data=mixture", *more]))).data
        for more in ([], ["data.separate_documents=true"])
    )
    assert (plain.separate_documents, separate.separate_documents) == (False, True)


def test_a_run_with_separate_documents(
    tiny: Callable[..., list[str]], etude: Callable[..., Any], corpus_folder: Path, tmp_path: Path
) -> None:
    words = [
        *tiny(corpus_folder, tmp_path / "runs"), "data/tokenizer=byte", "data.sequence_length=32"
    ]  # fmt: skip
    losses = []
    separate = ["data.separate_documents=true"]
    for more in ([], separate, [*separate, "run.on_existing=again"]):
        answer = etude("train", *words, *more)
        assert answer.code == 0, answer.err
    for record in sorted((tmp_path / "runs" / "tiny").iterdir(), key=lambda p: p.stat().st_mtime):
        lines = (record / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("val/loss") for line in lines])
    assert losses[1] == losses[2] != losses[0]


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    """Short files, so that windows hold several."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(f"number {number} is not {number + 1}.\n")
    return folder
