"""Every shipped model config and every released family lists its sites and is captured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.activations import list_sites
from etude.config.checks import check
from etude.config.compose import compose
from etude.config.paths import conf_dir
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.regressor import Regressor
from etude.training.model import build_with_sizes

MODELS = sorted(file.stem for file in (conf_dir() / "model").glob("*.yaml"))


def inputs(model: Any) -> list[torch.Tensor]:
    """Returns random inputs of a model."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, Regressor):
        return [torch.randn(2, 7, model.inputs, generator=generator)]
    ids = [torch.randint(3, 20, (2, n), generator=generator) for n in (7, 5)]
    return ids if isinstance(model, EncoderDecoder) else ids[:1]


def check_all(model: Any) -> None:
    """Captures all sites at once: each is computed once, and no bit of the output changes."""
    model = model.eval()
    names = [site.name for site in list_sites(model)]
    stacks = ("encoder.", "decoder.") if isinstance(model, EncoderDecoder) else ("",)
    for stack in stacks:
        assert {f"{stack}embed", f"{stack}blocks.0.attention.pattern", f"{stack}final"} <= set(
            names
        )
    with torch.no_grad():
        expected = model(*inputs(model))
        with model.capture(*names) as seen:
            output = model(*inputs(model))
    assert torch.equal(output, expected)
    for site in list_sites(model):
        (piece,) = seen.pieces(site.name)
        assert piece.ndim == len(site.letters.split()), site.name


@pytest.mark.parametrize("name", MODELS)
def test_configs(name: str) -> None:
    """Each file in conf/model, with fewer and narrower layers."""
    config = compose(["~experiment", "name=x", f"model={name}"])
    model = config.model
    model.layers = max(2, len(model.get("pattern") or []))
    if not model.get("head_dim"):
        model.dim = 16 * model.heads
    torch.manual_seed(0)
    check_all(build_with_sizes(check(config).nodes["model"], 65))


def families() -> Iterator[Any]:
    """Yields a small model of `transformers` of each released family."""
    import transformers as t

    small = {"vocab_size": 65, "hidden_size": 32, "num_attention_heads": 4}
    small |= {"num_hidden_layers": 2, "intermediate_size": 48}
    yield (
        "gpt2",
        t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=65, n_positions=32, n_embd=32, n_layer=2, n_head=4)
        ),
    )
    yield "neox", t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**small))
    yield "llama", t.LlamaForCausalLM(t.LlamaConfig(**small, num_key_value_heads=2))
    yield "qwen3", t.Qwen3ForCausalLM(t.Qwen3Config(**small, num_key_value_heads=2, head_dim=8))
    yield (
        "gemma3",
        t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(**small, num_key_value_heads=2, head_dim=8, sliding_window=4)
        ),
    )
    yield "bert", t.BertForMaskedLM(t.BertConfig(**small))
    yield "roberta", t.RobertaForMaskedLM(t.RobertaConfig(**small))
    yield (
        "t5",
        t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=65, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        ),
    )
    yield "marian", t.MarianMTModel(
        t.MarianConfig(
            vocab_size=65, d_model=32, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
            decoder_ffn_dim=48, pad_token_id=64, decoder_start_token_id=64,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["gpt2", "neox", "llama", "qwen3", "gemma3", "bert", "roberta", "t5", "marian"]
)
def test_released_families(name: str, tmp_path: Path) -> None:
    from etude.interop.released_model import load_released

    torch.manual_seed(0)
    theirs = dict(families())[name]
    theirs.save_pretrained(tmp_path)
    check_all(load_released(tmp_path).loaded.module)
