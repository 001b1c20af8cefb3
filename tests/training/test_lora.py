"""LoRA: equal to `peft` on the same weights, converted both ways, merged, saved separately."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import etude
from etude.config.compose import compose
from etude.data.tokenizer import BPE
from etude.errors import InvalidArguments, RequestError
from etude.interop.peft import save_adapter
from etude.interop.pretrained import load_weights
from etude.nn.lora import LoRA, adapt, adapted, merge
from etude.training.run import train

V = 270
IDS = torch.randint(0, V, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=200,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    text = ["the quick brown fox jumps over the lazy dogs and cats ran"] * 9
    BPE(V).train(text).save(folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize("slots", [("q", "v"), ("out", "down"), ("q", "k", "v", "gate", "up")])
def test_equals_peft(llama: Path, tmp_path: Path, slots: tuple[str, ...]) -> None:
    """Logits and gradients of the adapters equal peft's, before and after merging."""
    loaded = load_weights(llama)
    options = LoRA(rank=3, alpha=5.0, targets=slots)
    adapt(loaded.module, options)
    torch.manual_seed(1)
    for layer in adapted(loaded.module).values():
        for change in layer.changes.values():
            torch.nn.init.normal_(change.b, std=0.3)
    save_adapter(loaded.module, tmp_path, options, base=str(llama), family=loaded.family)
    base = LlamaForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        plain = base(IDS).logits
    theirs = PeftModel.from_pretrained(base, tmp_path, is_trainable=True).eval()
    ours = loaded.module.eval()
    expected = theirs(IDS).logits
    assert torch.allclose(ours(IDS), expected, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)
    (expected.square().mean()).backward()
    ours(IDS).square().mean().backward()
    gradients = [p.grad for p in theirs.parameters() if p.grad is not None]
    mine = [p.grad for p in ours.parameters() if p.requires_grad]
    assert len(gradients) == len(mine) > 0
    norm, found = (sum(g.square().sum().item() for g in each) for each in (gradients, mine))  # type: ignore[union-attr]
    assert found == pytest.approx(norm, rel=1e-4)
    with torch.no_grad():
        before = ours(IDS)
        assert torch.allclose(merge(ours)(IDS), before, atol=1e-5)
    assert not adapted(ours)


def test_nothing_changes_at_first(llama: Path) -> None:
    loaded = load_weights(llama)
    with torch.no_grad():
        before = loaded.module(IDS)
        adapt(loaded.module, LoRA(targets=("qkv", "out", "gate", "up", "down")))
        assert torch.equal(loaded.module(IDS), before)
    trained = {name for name, p in loaded.module.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora." in name for name in trained)


def words(toy: Callable, root: Path, llama: Path, *more: str) -> list[str]:
    kept = ("model.", "data.tokenizer.", "model=")
    plain = [word for word in toy("instruction", root) if not word.startswith(kept)]
    lora = ["init_from.lora.rank=4", "init_from.lora.targets=[q,v,down]", "optimizer.lr=1e-2"]
    return [*plain, f"init_from={llama}", *lora, *more]


def test_a_run_saves_the_changes_alone_and_goes_on(
    llama: Path, toy: Callable, tmp_path: Path
) -> None:
    from comparing import assert_same

    more = ["init_from.lora.dropout=0.2", "run.save_every=4"]
    whole = train(compose(words(toy, tmp_path / "whole", llama, *more))).record
    weights = load_file(whole.checkpoint("last") / "model.safetensors")
    assert weights
    assert all(".lora." in name for name in weights)
    for cut in (3, 6):
        stop = f"run.stop_at_step={cut}"
        train(compose(words(toy, tmp_path / "cut", llama, *more, stop)))
    again = train(compose(words(toy, tmp_path / "cut", llama, *more))).record
    assert_same(again, whole)
    rows = [row["val/loss"] for row in whole.rows() if "val/loss" in row]
    assert rows[-1] < rows[0]


def test_merged_as_a_run_and_as_an_adapter(
    llama: Path, toy: Callable, tmp_path: Path, etude_command: Callable
) -> None:
    record = train(compose(words(toy, tmp_path / "runs", llama))).record
    run = etude.load_run(record.path)
    merged, apart = run.model(), run.model(merged=False)
    assert adapted(apart.module)
    assert not adapted(merged.module)
    with torch.no_grad():
        expected = apart.module(IDS)
        assert torch.allclose(merged.module(IDS), expected, atol=1e-5)
        answer = etude_command("convert", record.path, tmp_path / "adapter", "--adapter")
        assert answer.code == 0, answer.err
        base = LlamaForCausalLM.from_pretrained(llama)
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert torch.allclose(theirs(IDS).logits, expected, atol=1e-5)
        back = etude.load_pretrained(llama, adapter=tmp_path / "adapter")
        assert torch.allclose(back.module(IDS), expected, atol=1e-5)
        answer = etude_command("convert", record.path, tmp_path / "whole")
        assert answer.code == 0, answer.err
        whole = LlamaForCausalLM.from_pretrained(tmp_path / "whole").eval()
        assert torch.allclose(whole(IDS).logits, expected, atol=1e-5)


@pytest.fixture
def etude_command(etude: Callable) -> Callable:
    """The command, in tests where `etude` is the package."""
    return etude


class TestRefusals:
    @pytest.mark.parametrize(
        "bad",
        [
            {"rank": 0},
            {"alpha": 0.0},
            {"dropout": 1.0},
            {"targets": ()},
            {"targets": ("query",)},
            {"targets": ("q", "qkv")},
        ],
    )
    def test_what_cannot_be(self, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidArguments):
            LoRA(**bad)

    def test_a_part_that_the_model_has_not(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2)
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
        with pytest.raises(InvalidArguments, match="gate"):
            adapt(load_weights(tmp_path).module, LoRA(targets=("q", "gate")))

    def test_without_a_source(self, toy: Callable, tmp_path: Path) -> None:
        told = [*toy("instruction", tmp_path / "runs"), "init_from.lora.rank=2"]
        with pytest.raises(
            RequestError, match=r"init_from\.source = None: expected a run or pretrained model"
        ):
            train(compose(told))
        assert not (tmp_path / "runs").exists()

    def test_a_target_of_another_name(self, llama: Path, toy: Callable, tmp_path: Path) -> None:
        told = words(toy, tmp_path / "runs", llama, "init_from.lora.targets=[q_proj]")
        with pytest.raises(RequestError, match=r"init_from\.lora\.targets.*one or more of q, k, v"):
            train(compose(told))
