"""The `samples/` of runs with sources and targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import etude
from etude.config.compose import compose

Toy = Callable[..., list[str]]


@pytest.mark.parametrize("kind", ["translation", "instruction", "span_denoising"])
def test_a_run_leaves_what_it_makes_of_validation_examples(
    kind: str, toy: Toy, tmp_path: Path
) -> None:
    """Samples equal greedy decoding that runs the whole text again for each token."""
    tokens = 7
    run = etude.train(compose(toy(kind, tmp_path, "run.samples=3", f"run.sample_tokens={tokens}")))
    (file,) = (run.path / "samples").glob("*.txt")
    blocks = file.read_text(encoding="utf-8").rstrip("\n").split("\n" + "-" * 72 + "\n")
    assert len(blocks) == 3
    data: Any = run.data()
    data.prepare(tmp_path / "cache")
    model = run.model("last")
    for number, block in enumerate(blocks):
        source, target, read = example(kind, data, number)
        written = greedy(kind, model.module, read, tokens, data.tokenizer_.end_of_text)
        texts = [data.tokenizer_.decode(ids).strip() for ids in (source, target, written)]
        assert block.rstrip() == "source: {}\ntarget: {}\nmodel: {}".format(*texts).rstrip()


def example(kind: str, data: Any, number: int) -> tuple[list[int], list[int], list[int]]:
    """Returns source, target and model input of a validation example, without the end of text."""
    if kind == "span_denoising":
        batch = next(iter(data.val_dataloader()))
        source, target = (batch[name][number].tolist() for name in ("source", "labels"))
        return source[:-1], target[:-1], source
    fields = data._fields("val")
    source, target = (fields[name][number].tolist() for name in ("source", "target"))
    end = data.tokenizer_.end_of_text
    if kind == "translation":
        return source, target, [*source, end]
    prompt = [*source, *data.tokenizer_.encode("\n")]
    return prompt, target, prompt


@torch.inference_mode()
def greedy(kind: str, module: Any, read: list[int], tokens: int, end: int | None) -> list[int]:
    module.eval()
    before = read if kind == "instruction" else [module.start_token]
    written: list[int] = []
    while len(written) < tokens:
        text = torch.tensor([[*before, *written]])
        logits = module(text) if kind == "instruction" else module(torch.tensor([read]), text)
        token = int(logits[0, -1].argmax())
        if token == end:
            break
        written.append(token)
    return written


def test_nothing_is_left_by_a_classifier(toy: Toy, tmp_path: Path) -> None:
    run = etude.train(compose(toy("classification", tmp_path, "run.samples=3")))
    assert not (run.path / "samples").exists()
