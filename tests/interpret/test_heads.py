"""Scores of heads: TransformerLens's values, and heads that were built to have known scores."""

from __future__ import annotations

import json
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens_values import FILE, TOKENS, repeated, weights

from etude.errors import RequestError
from etude.interop.released_model import load_released
from etude.interpret import (
    attention_entropy,
    copying_scores,
    duplicate_token_scores,
    induction_scores,
    lens_logits,
    logit_attribution,
    logit_lens,
    patching,
    previous_token_scores,
)
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU, NoFeedForward
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm, NoNorm
from etude.nn.position import Learned, NoPosition

V = 13
PARTS: dict[str, Any] = {
    "vocab_size": V, "layers": 2, "heads": 2, "dim": 16, "max_length": 40,
    "attention": MultiHeadAttention, "position": Learned, "norm": LayerNorm, "feedforward": GELU,
    "mask": Causal, "block": PreNormBlock,
}  # fmt: skip


@pytest.fixture(scope="module")
def lens() -> dict[str, Any]:
    """Values of TransformerLens."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """The GPT-2 with the weights of these values, read from a folder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    theirs = GPT2LMHeadModel(config).double()
    theirs.transformer.load_state_dict(weights())
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    module: Decoder = load_released(folder).loaded.module
    assert module.embedding.weight.dtype == torch.float64
    return module


class TestTransformerLens:
    @pytest.mark.parametrize(
        ("name", "measure"),
        [
            ("induction", partial(induction_scores, length=TOKENS)),
            ("duplicate", partial(duplicate_token_scores, length=TOKENS)),
            ("previous", partial(previous_token_scores, length=TOKENS)),
            ("copying", copying_scores),
        ],
    )
    def test_scores(self, name: str, measure: Any, gpt2: Decoder, lens: dict[str, Any]) -> None:
        scores = measure(gpt2)
        assert scores.index.names == ["layer", "head"]
        near(scores.unstack("head").to_numpy(), lens[name])

    def test_the_input_is_the_same(self, gpt2: Decoder, lens: dict[str, Any]) -> None:
        near(gpt2(repeated())[0, -1], lens["logits"])

    def test_logit_lens(self, gpt2: Decoder, lens: dict[str, Any]) -> None:
        near(lens_logits(gpt2, repeated())[:, 0, -1], lens["lens"])

    def test_logit_attribution(self, gpt2: Decoder, lens: dict[str, Any]) -> None:
        parts = logit_attribution(gpt2, repeated()[0], lens["target"])
        theirs = lens["attribution"]
        for i in range(2):
            near(parts["feedforward", i, -1], theirs[f"{i}_mlp_out"])
            near([parts["head", i, h] for h in range(4)], [theirs[f"L{i}H{h}"] for h in range(4)])
        near(parts["embed", -1, -1], theirs["embed"] + theirs["pos_embed"])
        biases = parts["attention bias"].sum()  # theirs also holds no bias of the final norm
        near(biases, theirs["bias"])
        near(parts.sum(), lens["logits"][lens["target"]])

    def test_patching_of_heads(self, gpt2: Decoder, lens: dict[str, Any]) -> None:
        tokens = repeated()
        values = patching(
            gpt2, tokens[:2], tokens[2:4], "blocks.*.attention.mixed",
            lambda logits: logits[:, -1, 3].mean(), by_position=False,
        )  # fmt: skip
        near(
            values.droplevel(["site", "position"]).unstack("head").to_numpy(),
            lens["patching"],
            1e-6,
        )


class TestPlantedHeads:
    def test_a_copying_head(self) -> None:
        """W_V W_O is the identity, so that the head copies; with a minus sign it suppresses."""
        for sign in (1, -1):
            model = build(heads=1, layers=1, position=NoPosition, norm=NoNorm)
            attention = model.blocks[0].attention
            with torch.no_grad():
                attention.qkv.weight[32:] = torch.eye(16)
                attention.out.weight[:] = sign * torch.eye(16)
            assert sign * copying_scores(model).item() > 0.99

    def test_a_previous_token_head(self) -> None:
        model = planted(lambda query, key: query - 1 == key)
        assert previous_token_scores(model, length=12).item() > 0.99
        assert duplicate_token_scores(model, length=12).item() < 0.01

    @pytest.mark.parametrize(("shift", "measure"), [
        (12, duplicate_token_scores), (11, induction_scores),
    ])  # fmt: skip
    def test_heads_that_look_back(self, shift: int, measure: Any) -> None:
        model = planted(lambda query, key: query - shift == key)
        assert measure(model, length=12).item() > 0.99
        assert measure(model, length=10).item() < 0.05

    def test_entropy(self) -> None:
        """Equal weights over the first t tokens have the entropy log t."""
        model = build(layers=1, heads=2)
        with torch.no_grad():
            model.blocks[0].attention.qkv.weight[:] = 0
            model.blocks[0].attention.qkv.bias[:] = 0
        entropy = attention_entropy(model, torch.arange(5)[None])
        near(entropy.to_numpy(), [sum(math.log(t) for t in range(1, 6)) / 5] * 2)


class TestInputs:
    def test_of_a_wrapper_and_of_a_text(self) -> None:
        model = build()
        wrapper = SimpleNamespace(
            inspected=model, tokenizer=SimpleNamespace(encode=lambda text: [1, 2, 3])
        )
        near(
            attention_entropy(wrapper, "abc").to_numpy(),
            attention_entropy(model, [1, 2, 3]).to_numpy(),
        )

    def test_errors(self) -> None:
        with pytest.raises(RequestError, match="at most 20, half of what the model can read"):
            induction_scores(build(), length=50)
        with pytest.raises(RequestError, match="the model has no tokenizer"):
            attention_entropy(build(), "abc")
        with pytest.raises(RequestError, match="length = 1: expected at least 2"):
            induction_scores(build(), length=1, sequences=0)
        with pytest.raises(RequestError, match="expected a model with an embedding"):
            copying_scores(torch.nn.Linear(2, 2))

    def test_the_usual_length_is_what_the_model_can_read(self) -> None:
        short, long = build(max_length=24), build(max_length=300)
        assert induction_scores(short).equals(induction_scores(short, length=12))
        assert induction_scores(long).equals(induction_scores(long, length=50))

    def test_the_mode_and_the_random_numbers_stay(self) -> None:
        model = build().train()
        state = torch.get_rng_state()
        induction_scores(model, length=12)
        assert model.training
        assert torch.equal(torch.get_rng_state(), state)
        assert all(parameter.grad is None for parameter in model.parameters())


class TestLens:
    def test_the_last_layer_is_the_output(self) -> None:
        model = build()
        tokens = torch.randint(V, (2, 7), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            output = model(tokens)
        assert torch.equal(lens_logits(model, tokens)[-1], output)
        expected = output.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])
        near(logit_lens(model, tokens)[2].to_numpy(), expected.flatten())

    def test_targets(self) -> None:
        model, tokens = build(), torch.arange(6)[None]
        values = logit_lens(model, tokens, targets=torch.full((1, 6), 3))
        assert values.index.names == ["blocks", "row", "position"]
        near(values[0, 0, 4], lens_logits(model, tokens)[0, 0, 4].log_softmax(-1)[3])
        with pytest.raises(RequestError, match=r"as many ids as `ids` has: \(1, 6\)"):
            logit_lens(model, tokens, targets=[1, 2])


def build(**changes: Any) -> Decoder:
    """A model with random weights in double precision."""
    torch.manual_seed(0)
    model = Decoder(**(PARTS | changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def planted(attends: Any) -> Decoder:
    """A head that attends to the keys for which `attends(query, key)` is true."""

    class Planted(MultiHeadAttention):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
            query, key = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
            bias = torch.where(attends(query, key), 100.0, 0.0).to(q)
            return super().attend(q, k, v, **options | {"bias": bias})

        own_sites = MultiHeadAttention.own_sites

    class Listed(Planted):
        @property
        def own_sites(self) -> dict[str, str]:
            return {"scores": "B H T S", "pattern": "B H T S"}

    return build(heads=1, layers=1, attention=Listed, feedforward=NoFeedForward)


def near(got: Any, expected: Any, tolerance: float = 1e-9) -> None:
    got, expected = (torch.as_tensor(each, dtype=torch.float64) for each in (got, expected))
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
