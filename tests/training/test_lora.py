"""Low-rank changes: those of `peft` on the same weights, there and back; merged; saved alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import etude
from etude.config.compose import compose
from etude.data.tokenizer import BPE
from etude.errors import InvalidArguments, RequestError
from etude.interop.peft import load_adapter, save_adapter
from etude.interop.pretrained import load_weights
from etude.nn.lora import LoRA, adapt, adapted, merge
from etude.training.run import train

V = 270
IDS = torch.randint(0, V, (3, 11), generator=torch.Generator().manual_seed(0))
LLAMA = ["q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
BERT = ["query", "key", "value"]


def drawn(model: Any) -> Any:
    """The changes of a `peft` model, which begin at nothing, made something."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


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


def peft_of(folder: Path, targets: list[str], out: Path, kind: Any = LlamaForCausalLM) -> Any:
    """A `peft` model on these weights, saved to `out`."""
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets)
    model = drawn(get_peft_model(kind.from_pretrained(folder), config)).eval()
    model.save_pretrained(out)
    return model


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj", "down_proj"], LLAMA])
def test_equals_peft(llama: Path, tmp_path: Path, targets: list[str]) -> None:
    """Logits and gradients of the changes, before and after merging."""
    theirs = peft_of(llama, targets, tmp_path)
    loaded = load_weights(llama)
    load_adapter(loaded.module, tmp_path, loaded.family, loaded.architecture)
    ours = loaded.module.eval()
    expected = theirs(IDS).logits
    assert torch.allclose(ours(IDS), expected, atol=1e-5)
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


def test_an_encoder_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    theirs = peft_of(tmp_path / "bert", BERT, tmp_path / "adapter", BertForMaskedLM)
    loaded = load_weights(tmp_path / "bert")
    load_adapter(loaded.module, tmp_path / "adapter", loaded.family, loaded.architecture)
    with torch.no_grad():
        assert torch.allclose(loaded.module.eval()(IDS), theirs(IDS).logits, atol=1e-5)


def test_ours_in_peft(llama: Path, tmp_path: Path) -> None:
    loaded = load_weights(llama)
    options = LoRA(rank=3, alpha=5.0, targets=("k", "out", "gate"))
    adapt(loaded.module, options)
    torch.manual_seed(1)
    for layer in adapted(loaded.module).values():
        for change in layer.changes.values():
            torch.nn.init.normal_(change.b, std=0.3)
    save_adapter(loaded.module, tmp_path, options, base=str(llama), family=loaded.family)
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(llama), tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(loaded.module.eval()(IDS), theirs(IDS).logits, atol=1e-5)
        plain = LlamaForCausalLM.from_pretrained(llama).eval()
        assert not torch.allclose(theirs(IDS).logits, plain(IDS).logits, atol=1e-2)


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
    """The command, where the name means the package."""
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

    @pytest.mark.parametrize("target", ["q", "qkv", "out"])
    def test_what_a_family_keeps_otherwise(self, tmp_path: Path, target: str) -> None:
        """GPT-2 keeps its matrices transposed, queries, keys and values in one."""
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
        loaded = load_weights(tmp_path / "gpt2")
        options = LoRA(targets=(target,))
        adapt(loaded.module, options)
        with pytest.raises(RequestError, match="expected parts that gpt2 keeps apart"):
            save_adapter(loaded.module, tmp_path / "adapter", options, family=loaded.family)
        assert not (tmp_path / "adapter").exists()

    def test_without_a_source(self, toy: Callable, tmp_path: Path) -> None:
        told = [*toy("instruction", tmp_path / "runs"), "init_from.lora.rank=2"]
        with pytest.raises(RequestError, match=r"init_from\.source = None: expected a source"):
            train(compose(told))
        assert not (tmp_path / "runs").exists()

    def test_a_target_of_another_name(self, llama: Path, toy: Callable, tmp_path: Path) -> None:
        told = words(toy, tmp_path / "runs", llama, "init_from.lora.targets=[q_proj]")
        with pytest.raises(RequestError, match=r"init_from\.lora\.targets.*some of q, k, v"):
            train(compose(told))

    def test_an_adapter_of_another_kind(self, llama: Path, tmp_path: Path) -> None:
        peft_of(llama, ["q_proj"], tmp_path)
        file = tmp_path / "adapter_config.json"
        file.write_text(file.read_text().replace('"use_dora": false', '"use_dora": true'))
        with pytest.raises(RequestError, match="use_dora = True: expected plain LoRA"):
            etude.load_pretrained(llama, adapter=tmp_path)

    def test_an_adapter_of_another_size(self, llama: Path, tmp_path: Path) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=24,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
        peft_of(tmp_path / "small", ["q_proj"], tmp_path / "adapter")
        with pytest.raises(RequestError, match="expected the shape 4 x 32"):
            etude.load_pretrained(llama, adapter=tmp_path / "adapter")
