"""Features of Gemma 3 alone: different layers, scaled embeddings, offset norms."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import zoo
from torch import Tensor

from etude.config.nodes import check_node
from etude.errors import RequestError
from etude.generation.generate import generate
from etude.interop.family_registry import FAMILIES
from etude.interop.hf_config import HFConfig
from etude.interop.model_node import model_node
from etude.interop.pretrained import family_for, load_weights, save_weights
from etude.models.decoder import Decoder
from etude.models.kinds import LayerKind
from etude.models.mup import fold_mup
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock, SandwichBlock
from etude.nn.feedforward import GEGLUTanh
from etude.nn.mask import Causal, SlidingWindow
from etude.nn.norm import OffsetRMSNorm, multiply
from etude.nn.position import LinearRotary, NoPosition, Rotary

IDS = torch.randint(3, zoo.V - 2, (2, 12), generator=torch.Generator().manual_seed(1))
LOCAL = LayerKind(mask=partial(SlidingWindow, window=5), position=Rotary)
PARTS: dict[str, Any] = {
    "vocab_size": zoo.V, "layers": 5, "heads": 4, "dim": 24, "head_dim": 8, "max_length": 32,
    "attention": partial(
        MultiHeadAttention, kv_heads=2, qk_norm=True, qk_norm_offset=True, scale_dim=12
    ),
    "position": partial(Rotary, base=1e6), "norm": OffsetRMSNorm, "feedforward": GEGLUTanh,
    "mask": Causal, "block": SandwichBlock, "bias": False, "scale_embeddings": True,
    "round_embedding_scale": True, "pattern": ["local", "local", "whole"],
    "kinds": {"local": LOCAL, "whole": LayerKind()},
}  # fmt: skip


def made(**changes: Any) -> Any:
    torch.manual_seed(0)
    return zoo.randomised(Decoder(**PARTS | changes))


@torch.inference_mode()
def test_a_model_made_here_is_one_by_whatever_kinds_it_is_stated(tmp_path: Path) -> None:
    mine = made()
    save_weights(mine, tmp_path)
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is hf.Gemma3ForCausalLM
    assert theirs.config.layer_types[:4] == ["sliding_attention"] * 2 + [
        "full_attention", "sliding_attention",
    ]  # fmt: skip
    torch.testing.assert_close(mine(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
    other_way_round = made(
        mask=LOCAL.mask,
        position=LOCAL.position,
        kinds={
            "local": LayerKind(),
            "whole": LayerKind(mask=Causal, position=partial(Rotary, base=1e6)),
        },
    )
    other_way_round.load_state_dict(mine.state_dict())
    assert torch.equal(other_way_round(IDS), mine(IDS))
    assert family_for(other_way_round).model_type == "gemma3_text"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block": PreNormBlock}, "PreNormBlock, not SandwichBlock"),
        ({"round_embedding_scale": False}, "round_embedding_scale"),
        (
            {"kinds": {"local": LOCAL, "whole": LayerKind(position=NoPosition)}},
            "NoPosition",
        ),
        (
            {
                "pattern": ["local", "other"],
                "kinds": {
                    "local": LOCAL,
                    "other": LayerKind(mask=partial(SlidingWindow, window=7)),
                },
            },
            "window",
        ),
        (
            {"kinds": {"local": LayerKind(position=LinearRotary), "whole": LayerKind()}},
            "not LinearRotary",
        ),
    ],
)
def test_what_it_has_not(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as refused:
        save_weights(made(**changes), tmp_path / "new")
    (text,) = [str(p) for p in refused.value.problems if "as gemma3_text" in str(p)] or [""]
    assert said in text or said in str(refused.value)


@torch.inference_mode()
def test_the_same_words(tmp_path: Path) -> None:
    theirs = zoo.randomised(zoo.gemma3())
    theirs.save_pretrained(tmp_path)
    mine = load_weights(tmp_path).module
    expected = theirs.generate(IDS, max_new_tokens=12, do_sample=False, eos_token_id=None)
    for use_cache in (True, False):
        found = generate(mine, IDS, max_new_tokens=12, greedy=True, use_cache=use_cache)
        assert torch.equal(found, expected)


@torch.inference_mode()
def test_the_scale_of_embeddings_is_rounded_as_theirs(tmp_path: Path) -> None:
    zoo.randomised(zoo.gemma3()).save_pretrained(tmp_path)
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    mine: Any = load_weights(tmp_path, dtype=torch.bfloat16).module
    seen: list[Tensor] = []
    mine.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    mine(IDS)
    assert torch.equal(seen[0], theirs.model.embed_tokens(IDS))
    block: Any = theirs.model.layers[0]
    norm = mine.blocks[0].attention_norm
    torch.testing.assert_close(norm(seen[0]), block.input_layernorm(seen[0]), rtol=0.01, atol=0)


@torch.inference_mode()
def test_older_configs(tmp_path: Path) -> None:
    """Covers `sliding_window_pattern`, `rope_theta` and `rope_local_base_freq`, as released."""
    theirs = zoo.randomised(zoo.gemma3(layer_types=None, sliding_window_pattern=3))
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for field in ("layer_types", "rope_parameters", "_sliding_window_pattern"):
        config.pop(field, None)
    older = {"sliding_window_pattern": 3, "rope_theta": 500, "rope_local_base_freq": 50}
    scaling = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    file.write_text(json.dumps(config | older | scaling))
    mine: Any = load_weights(tmp_path).module
    kinds = [type(mine.at_layer(i)[0]).__name__ for i in range(4)]
    assert kinds == ["SlidingWindow", "SlidingWindow", "Causal", "SlidingWindow"]
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.rope_parameters["full_attention"]["factor"] == 8.0
    torch.testing.assert_close(mine(IDS), again(IDS).logits, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_as_a_config(tmp_path: Path) -> None:
    """The config node of `init_from` builds the same module."""
    zoo.randomised(zoo.gemma3()).save_pretrained(tmp_path)
    loaded = load_weights(tmp_path)
    node, problems = check_node("model", model_node(loaded), [])
    assert not problems
    module: Any = node.build()
    module.load_state_dict(loaded.module.state_dict())
    assert torch.equal(module.eval()(IDS), loaded.module(IDS))


def test_the_size_of_the_released_model() -> None:
    stated = json.loads((Path(__file__).parent / "released_configs.json").read_text())
    config = HFConfig(stated["google/gemma-3-1b-pt"], "config.json")
    module = FAMILIES["gemma3_text"].build(config, "Gemma3ForCausalLM")
    assert module.num_parameters() == 999_885_952


def test_gains_beside_one() -> None:
    norm = OffsetRMSNorm(dim=6, bias=False).double()
    assert not norm.weight.any()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 6).double()
    expected = (1 + norm.weight) * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)
    multiply(norm, 0.25)
    torch.testing.assert_close(norm(x), expected / 4)


def test_folded_from_mup() -> None:
    model = made(dim=32, mup_base_dim=16, head_dim=8).double()
    torch.testing.assert_close(fold_mup(model)(IDS), model(IDS))
    assert fold_mup(model).logit_scale == 1.0
