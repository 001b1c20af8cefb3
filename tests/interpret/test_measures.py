"""Attribution, patching, losses, norms and similarities, computed a second time by hand."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_heads import PARTS, V, build, near

from etude.errors import RequestError
from etude.interpret import (
    activation_norms,
    cka,
    embedding_neighbours,
    gradient_norms,
    logit_attribution,
    loss_by_frequency,
    loss_by_position,
    loss_by_repetition,
    patching,
    path_patching,
    update_norms,
    weight_norms,
)
from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.language_model import LanguageModel
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import ParallelBlock, PostNormBlock, SandwichBlock
from etude.nn.feedforward import NoFeedForward, SwiGLU
from etude.nn.mask import Bidirectional
from etude.nn.norm import LayerNorm, NoNorm, OffsetRMSNorm, RMSNorm
from etude.nn.position import ALiBi, Rotary

IDS = torch.randint(V, (3, 9), generator=torch.Generator().manual_seed(2))


class TestAttribution:
    def test_wrong_tokens_and_positions(self) -> None:
        model = build()
        for arguments, message in (
            ({"target": V}, f"target = {V}: expected ids from 0 to {V - 1}"),
            ({"target": 1, "against": -1}, "against = -1: expected ids from 0"),
            ({"target": 1, "position": 3}, "position = 3: expected an index of the 3 tokens"),
            ({"target": "a"}, "the model has no tokenizer"),
        ):
            with pytest.raises(RequestError, match=message):
                logit_attribution(model, [1, 2, 3], **arguments)
        text = SimpleNamespace(encode=lambda text: [ord(each) - 97 for each in text])
        wrapper = LanguageModel(model, SimpleNamespace(**vars(text), end_of_text=None))
        expected = logit_attribution(model, [1, 2, 3], 4, against=5)
        near(logit_attribution(wrapper, "bcd", "e", against="f").to_numpy(), expected.to_numpy())
        with pytest.raises(RequestError, match="a text of one token"):
            logit_attribution(wrapper, "bcd", "ef")

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"norm": RMSNorm, "feedforward": SwiGLU, "position": Rotary},
            {"norm": OffsetRMSNorm, "block": SandwichBlock},
            {"norm": LayerNorm, "block": SandwichBlock},
            {"block": ParallelBlock, "bias": False},
            {"feedforward": NoFeedForward, "norm": NoNorm, "position": ALiBi},
            {"attention": partial(MultiHeadAttention, kv_heads=1), "tie_embeddings": False},
            {"mup_base_dim": 8, "tie_embeddings": False},
        ],
    )
    def test_the_sum_is_the_logit(self, changes: dict[str, Any]) -> None:
        model = build(**changes)
        logits = model(IDS[:1])[0]
        for position in (-1, 4):
            parts = logit_attribution(model, IDS[0], 3, position=position)
            near(parts.sum(), logits[position, 3].item())
            pair = logit_attribution(model, IDS[0], 3, against=5, position=position)
            near(pair.sum(), (logits[position, 3] - logits[position, 5]).item())
        assert parts.index.names == ["component", "layer", "head"]

    def test_a_head_is_its_output_through_the_frozen_norm(self) -> None:
        model = build()
        with model.capture("blocks.*.out", "blocks.0.attention.mixed") as seen:
            model(IDS[:1])
        x = seen["blocks.1.out"][0, -1]
        head = (
            model.blocks[0].attention.out.weight[:, 8:] @ seen["blocks.0.attention.mixed"][0, 1, -1]
        )
        scaled = (head - head.mean()) / (x.var(correction=0) + 1e-5).sqrt() * model.norm.weight
        part = logit_attribution(model, IDS[0], 3)["head", 0, 1]
        near(part, (scaled @ model.embedding.weight[3]).item())

    def test_refused(self) -> None:
        with pytest.raises(RequestError, match=r"blocks\.0.*adds its branches to the residual"):
            logit_attribution(build(block=PostNormBlock), IDS[0], 3)
        with pytest.raises(RequestError, match="expected one sequence"):
            logit_attribution(build(), IDS, 3)
        with pytest.raises(RequestError) as caught:
            logit_attribution(build(), IDS[0], 99, against=-1)
        assert [problem.where for problem in caught.value.problems] == ["target", "against"]
        with pytest.raises(RequestError, match="expected a decoder"):
            logit_attribution(EncoderDecoder(**PARTS).double(), IDS[0], 3)


class TestPatching:
    def test_all_of_the_stream_is_the_clean_run(self) -> None:
        model = build()
        other = IDS.flip(0)
        values = patching(model, IDS, other, "blocks.*.out", metric, by_position=False)
        near(values.to_numpy(), [values.attrs["clean"]] * 2)
        near(values.attrs["clean"], metric(model(IDS)).item())
        near(values.attrs["corrupted"], metric(model(other)).item())

    def test_a_run_into_itself_changes_nothing(self) -> None:
        values = patching(build(), IDS, IDS, ["blocks.*.attention.mixed", "blocks.*.mid"], metric)
        assert set(values) == {values.attrs["clean"]}
        assert values.index.names == ["site", "layer", "head", "position"]
        assert len(values) == 2 * 2 * 9 + 2 * 9

    def test_one_position(self) -> None:
        """Inputs that differ at one position: only values from there on can carry this."""
        model, other = build(), IDS.clone()
        other[:, 4] = (other[:, 4] + 1) % V
        values = patching(model, IDS, other, "embed", metric)
        corrupted = values.attrs["corrupted"]
        near(values.to_numpy(), [values.attrs["clean"] if i == 4 else corrupted for i in range(9)])

    def test_the_default_metric(self) -> None:
        model, other = build(), IDS.flip(0)
        values = patching(model, IDS[:1], other[:1], "final", by_position=False)
        last, bad = model(IDS[:1])[0, -1], model(other[:1])[0, -1]
        near(values.item(), (last[last.argmax()] - last[bad.argmax()]).item())

    def test_paths(self) -> None:
        """In a model without feed-forward modules, the direct path of a head of the last layer to
        the final norm is all of its effect; and the first layer's heads reach the second one's
        queries.
        """
        model, other = build(feedforward=NoFeedForward), IDS.flip(0)
        direct = path_patching(model, IDS, other, "blocks.1.out", metric)
        whole = patching(model, other, IDS, "blocks.*.attention.mixed", metric, by_position=False)
        for head in range(2):
            near(direct[1, head], whole["blocks.attention.mixed", 1, head, -1])
        assert abs(direct[0, 0] - whole["blocks.attention.mixed", 0, 0, -1]) > 1e-6
        queries = path_patching(model, IDS, other, "blocks.1.attention.q", metric)
        assert queries.index.names == ["layer", "head"]
        near([queries[1, 0], queries[1, 1]], [direct.attrs["clean"]] * 2)
        by_hand = one_path(model, IDS, other, 0)
        near(queries[0, 0], by_hand)

    def test_errors(self) -> None:
        with pytest.raises(RequestError, match="as many tokens as the clean input has"):
            patching(build(), IDS, IDS[:, :4])
        with pytest.raises(RequestError, match=r"did you mean blocks\.\*\.attention\.mixed"):
            patching(build(), IDS, IDS, "blocks.*.attention.mixd")


class TestLosses:
    def test_a_model_that_reads_both_sides(self) -> None:
        model = build(mask=Bidirectional)
        for measure in (loss_by_position, loss_by_frequency, loss_by_repetition):
            with pytest.raises(
                RequestError, match="predicts the next token from the tokens before"
            ):
                measure(model, IDS)

    def test_by_position(self) -> None:
        model = build()
        losses = F.cross_entropy(model(IDS).mT[..., :-1], IDS[:, 1:], reduction="none")
        result = loss_by_position(model, IDS)
        assert list(result.index) == list(range(1, 9))
        near(result.to_numpy(), losses.mean(0))

    def test_by_repetition(self) -> None:
        model, ids = build(), torch.tensor([[1, 2, 1, 1, 2, 3]])
        losses = F.cross_entropy(model(ids).mT[..., :-1], ids[:, 1:], reduction="none")[0]
        result = loss_by_repetition(model, ids)
        near(result.to_numpy(), [losses[[0, 4]].mean(), losses[[1, 3]].mean(), losses[2]])
        assert list(result.index) == [0, 1, 2]

    def test_by_frequency(self) -> None:
        model = build()
        counts = torch.arange(V) * 10
        result = loss_by_frequency(model, IDS, counts, groups=2)
        losses = F.cross_entropy(model(IDS).mT[..., :-1], IDS[:, 1:], reduction="none").flatten()
        seen = counts[IDS[:, 1:].flatten()]
        middle = np.median(seen)
        near(result.to_numpy(), [losses[seen <= middle].mean(), losses[seen > middle].mean()])
        assert list(result.index) == [seen[seen <= middle].max(), seen.max()]
        with pytest.raises(RequestError, match="a count for each of 13 tokens"):
            loss_by_frequency(model, IDS, [1, 2])


class TestNorms:
    def test_of_weights_and_updates(self) -> None:
        first, second = build(), build()
        with torch.no_grad():
            second.blocks[0].feedforward.up.weight += 0.5
        weights, updates = weight_norms(first), update_norms(second, first)
        assert list(weights.index) == [name for name, _ in first.named_parameters()]
        near(weights["norm.weight"], first.norm.weight.square().mean().sqrt().item(), 1e-6)
        expected = {"blocks.0.feedforward.up.weight": 0.5}
        assert {name: value for name, value in updates.items() if value} == expected
        with pytest.raises(RequestError, match="parameters of the same names and shapes"):
            update_norms(first, build(dim=32))

    def test_of_gradients(self) -> None:
        model = build()
        result = gradient_norms(model, IDS)
        F.cross_entropy(model(IDS).mT[..., :-1], IDS[:, 1:]).backward()
        for name, parameter in model.named_parameters():
            near(result[name], parameter.grad.square().mean().sqrt().item(), 1e-6)
        before = model.norm.weight.grad.clone()
        gradient_norms(model, IDS)
        assert torch.equal(model.norm.weight.grad, before)

    def test_of_activations(self) -> None:
        model = build()
        result = activation_norms(model, IDS, sites="blocks.*.mid")
        with model.capture("blocks.0.mid") as seen:
            model(IDS)
        assert list(result.index) == ["blocks.0.mid", "blocks.1.mid"]
        near(result.iloc[0], seen["blocks.0.mid"].square().mean().sqrt().item(), 1e-6)


class TestSimilarity:
    def test_neighbours(self) -> None:
        model = build()
        result = embedding_neighbours(model, 2, count=20)
        assert len(result) == V - 1
        expected = F.cosine_similarity(model.embedding.weight, model.embedding.weight[2], dim=-1)
        assert list(result.index) == [
            i for i in expected.argsort(descending=True).tolist() if i != 2
        ]
        near(result.iloc[0], expected[result.index[0]].item(), 1e-6)
        with pytest.raises(RequestError, match="ids from 0 to 12"):
            embedding_neighbours(model, 13)

    @pytest.mark.parametrize("rows", [1, 3])
    def test_cka(self, rows: int) -> None:
        """With few tokens and with many; a rotation of the features changes nothing."""
        model, other = build(), build(layers=2)
        torch.manual_seed(5)
        for parameter in other.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        result = cka(model, other, IDS[:rows], "blocks.*.out")
        x, y = (stream(each, IDS[:rows]) for each in (model, other))
        x, y = x - x.mean(0), y - y.mean(0)
        expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
        near(result["blocks.1.out"], expected.item())
        near(cka(model, model, IDS).to_numpy(), [1, 1])

    def test_other_sites(self) -> None:
        with pytest.raises(RequestError, match=r"a model with the sites blocks\.0\.out, blocks\.1"):
            cka(build(), build(layers=1), IDS)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 3].mean()


def stream(model: Decoder, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), model.capture("blocks.1.out") as seen:
        model(ids)
    return seen["blocks.1.out"].flatten(0, 1)


def one_path(model: Decoder, clean: torch.Tensor, corrupted: torch.Tensor, head: int) -> float:
    """The effect of one head of layer 0 through the queries of layer 1, without captures."""
    with torch.no_grad():
        x, y = (model.position.embed(model.embedding(ids), 0) for ids in (clean, corrupted))
        first, second = model.blocks
        mixed = [heads_of(first, each) for each in (x, y)]
        patched = mixed[0].clone()
        patched[:, head] = mixed[1][:, head]
        base = x + first.attention.merge(mixed[0])
        moved = x + first.attention.merge(patched)
        q, k, v = second.attention._project_self(second.attention_norm(base))
        q, _, _ = second.attention._project_self(second.attention_norm(moved))
        out = second.attention.attend(q, k, v, causal=True)
        logits = model.read_out(base + second.attention.merge(out))
        return metric(logits).item()


def heads_of(block: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = block.attention._project_self(block.attention_norm(x))
    return block.attention.attend(q, k, v, causal=True)
