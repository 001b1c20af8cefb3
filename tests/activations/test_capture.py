"""Captured values, compared with the formulas, with hooks written by hand, and with each other."""

from __future__ import annotations

import contextlib
import gc
import math
import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_models import D, H, T, V, build, ids, run
from torch import Tensor, nn

from etude.activations import capture, list_sites
from etude.errors import RequestError
from etude.generation.generate import generate
from etude.models.language_model import LanguageModel
from etude.nn.documents import Documents
from etude.nn.sites import site
from etude.training.compilation import compiled

SIZES = {"B": 2, "T": T, "D": D, "H": H, "K": D // H, "V": V, "L": 3, "F": 4 * D}


def test_every_site_is_computed_and_no_bit_of_the_output_changes(model: Any) -> None:
    names = [each.name for each in list_sites(model)]
    assert len(names) == len(set(names))
    with torch.no_grad():
        expected = run(model)
        with model.capture(*names) as seen:
            output = run(model)
    assert torch.equal(output, expected)
    assert list(seen) == names
    for each in list_sites(model):
        pieces = seen.pieces(each.name)
        assert len(pieces) == 1, each.name
        letters = each.letters.split()
        assert pieces[0].ndim == len(letters), each.name
        for letter, size in zip(letters, pieces[0].shape, strict=True):
            in_encoder = each.name.startswith("encoder.")
            if letter in SIZES and letter != "F" and not in_encoder:
                assert size == SIZES[letter], (each.name, letter)


def test_nothing_is_left_behind(model: Any) -> None:
    before = [(dict(m.__dict__), dict(m._forward_hooks)) for m in model.modules()]
    names = [each.name for each in list_sites(model)]
    with contextlib.suppress(ZeroDivisionError), model.capture(*names, until=names[-1]):
        run(model)
        raise ZeroDivisionError
    for module, (attributes, hooks) in zip(model.modules(), before, strict=True):
        assert set(module.__dict__) == set(attributes)
        assert dict(module._forward_hooks) == hooks
        assert not module._forward_pre_hooks
        assert module.forward.__func__ is type(module).forward


class TestFormulas:
    """The definitions of the sites, computed from each other."""

    def test_attention(self) -> None:
        model = build("decoder", torch.float64)
        with model.capture("blocks.1.attention.*", "blocks.1.in") as seen:
            run(model)
        q, k, v, scores, pattern, mixed, out = (
            seen[f"blocks.1.attention.{name}"]
            for name in ("q", "k", "v", "scores", "pattern", "mixed", "out")
        )
        block = model.blocks[1]
        projected = block.attention.qkv(block.attention_norm(seen["blocks.1.in"]))
        for got, part in zip((q, k, v), projected.chunk(3, dim=-1), strict=True):
            close(got, part.unflatten(-1, (H, -1)).transpose(1, 2))
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        close(scores, (q @ k.mT / math.sqrt(D // H)).masked_fill(later, -math.inf))
        close(pattern, scores.softmax(-1))
        close(mixed, pattern @ v)
        close(out, block.attention.out(mixed.transpose(1, 2).flatten(2)))

    def test_residual_stream(self) -> None:
        model = build("decoder", torch.float64)
        with model.capture("embed", "blocks.*.*", "blocks.*.*.out", "final", "logits") as seen:
            logits = run(model)
        close(seen["embed"], model.position.embed(model.embedding(ids()), 0))
        x = seen["embed"]
        for i in range(3):
            close(seen[f"blocks.{i}.in"], x)
            x = x + seen[f"blocks.{i}.attention.out"]
            close(seen[f"blocks.{i}.mid"], x)
            x = x + seen[f"blocks.{i}.feedforward.out"]
            close(seen[f"blocks.{i}.out"], x)
        close(seen["final"], model.norm(x))
        close(seen["logits"], seen["final"] @ model.embedding.weight.T)
        assert seen["logits"] is logits

    @pytest.mark.parametrize("name", ["llama", "decoder"])
    def test_feedforward(self, name: str) -> None:
        model = build(name, torch.float64)
        with model.capture("blocks.0.mid", "blocks.0.feedforward.*") as seen:
            run(model)
        part, x = (
            model.blocks[0].feedforward,
            model.blocks[0].feedforward_norm(seen["blocks.0.mid"]),
        )
        hidden = (
            part.activation(part.gate(x)) * part.up(x)
            if name == "llama"
            else part.activation(part.up(x))
        )
        close(seen["blocks.0.feedforward.hidden"], hidden)
        close(seen["blocks.0.feedforward.out"], part.down(hidden))

    def test_grouped_heads_and_rotation(self) -> None:
        model = build("llama", torch.float64)
        with model.capture("blocks.0.in", "blocks.0.attention.*") as seen:
            run(model)
        attention = model.blocks[0].attention
        projected = attention.qkv(model.blocks[0].attention_norm(seen["blocks.0.in"]))
        q, k, _ = projected.unflatten(-1, (-1, D // H)).split((H, 2, 2), dim=2)
        q, k = model.position.rotate(q.transpose(1, 2), k.transpose(1, 2), start=0)
        close(seen["blocks.0.attention.q"], q)
        close(seen["blocks.0.attention.k"], k)
        assert seen["blocks.0.attention.v"].shape == (2, 2, T, D // H)
        repeated = seen["blocks.0.attention.v"].repeat_interleave(2, dim=1)
        close(seen["blocks.0.attention.pattern"] @ repeated, seen["blocks.0.attention.mixed"])

    def test_cross_attention(self) -> None:
        model = build("encoder-decoder", torch.float64)
        with model.capture(
            "encoder.final", "decoder.blocks.0.*", "decoder.blocks.0.cross.*"
        ) as seen:
            run(model)
        block = model.decoder.blocks[0]
        weights = block.cross.qkv.weight.split((D, D, D))
        biases = block.cross.qkv.bias.split((D, D, D))
        k = seen["encoder.final"] @ weights[1].T + biases[1]
        close(seen["decoder.blocks.0.cross.k"], k.unflatten(-1, (H, -1)).transpose(1, 2))
        assert seen["decoder.blocks.0.cross.pattern"].shape == (2, H, T, 6)
        crossed = seen["decoder.blocks.0.mid"] + seen["decoder.blocks.0.cross.out"]
        close(seen["decoder.blocks.0.crossed"], crossed)

    def test_patterns_of_packed_documents(self) -> None:
        model = build("decoder", torch.float64)
        tokens = ids(1, 8)
        first = torch.tensor([[1, 0, 0, 1, 0, 0, 0, 0]], dtype=torch.bool)
        documents = Documents(first)
        expected = model(tokens, documents=documents)
        with model.capture("blocks.*.attention.pattern") as seen:
            close(model(tokens, documents=documents), expected)
        with model.capture("blocks.*.attention.pattern") as alone:
            model(tokens[:, 3:])
        for name, value in seen.items():
            assert value[..., 3:, :3].abs().max() == 0
            close(value[..., 3:, 3:], alone[name])


class TestSlices:
    NAME = "blocks.2.attention.pattern"

    @pytest.mark.parametrize("at", [-1, 0, slice(2, 5), [1, 3], torch.tensor([0, -1])])
    @pytest.mark.parametrize("heads", [None, 2, [0, 3]])
    @pytest.mark.parametrize("rows", [None, 1, slice(0, 1)])
    def test_they_are_those_of_the_whole(self, at: Any, heads: Any, rows: Any) -> None:
        model = build("decoder")
        with torch.no_grad(), model.capture(self.NAME) as whole:
            run(model)
        with torch.no_grad(), model.capture(self.NAME, at=at, heads=heads, rows=rows) as part:
            run(model)
        expected = whole[self.NAME]
        for axis, index in ((2, at), (1, heads), (0, rows)):
            if index is not None:
                expected = expected[(slice(None),) * axis + (index,)]
        assert torch.equal(part[self.NAME], expected)

    def test_what_is_not_kept_leaves_the_memory(self) -> None:
        model = build("decoder")
        with torch.no_grad(), model.capture("blocks.0.attention.k", "logits", at=None) as seen:
            run(model)
        with torch.no_grad(), model.capture("logits", at=-1) as last:
            run(model)
        for value in (*seen.values(), last["logits"]):
            assert value.untyped_storage().nbytes() == value.numel() * value.element_size()

    def test_a_site_without_the_dimension(self) -> None:
        model = build("decoder")
        with pytest.raises(RequestError, match="expected a site with a dimension H"):
            model.capture("blocks.0.out", "blocks.0.attention.k", heads=0)


class TestNames:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("blocks.*.out", ["blocks.0.out", "blocks.1.out", "blocks.2.out"]),
            ("blocks.-1.mid", ["blocks.2.mid"]),
            ("blocks.[02].in", ["blocks.0.in", "blocks.2.in"]),
            ("blocks.1.hook_resid_pre", ["blocks.1.in"]),
            ("blocks.1.attn.hook_pattern", ["blocks.1.attention.pattern"]),
            ("blocks.0.attention_norm.out", ["blocks.0.attention_norm.out"]),
            ("blocks.0.attention.qkv.in", ["blocks.0.attention.qkv.in"]),
            ("ln_final.hook_normalized", ["final"]),
        ],
    )
    def test_patterns(self, pattern: str, names: list[str]) -> None:
        with build("decoder").capture(pattern) as seen:
            assert list(seen) == names

    def test_all_wrong_names_are_reported(self) -> None:
        with pytest.raises(RequestError) as caught:
            build("decoder").capture("blocks.0.attention.patern", "logit", "blocks.*.atention.q")
        assert [str(problem) for problem in caught.value.problems] == [
            "site = 'blocks.0.attention.patern': expected the name of a site of the model "
            "(did you mean blocks.0.attention.pattern?)",
            "site = 'logit': expected the name of a site of the model (did you mean logits?)",
            "site = 'blocks.*.atention.q': expected the name of a site of the model "
            "(did you mean blocks.*.attention.q?)",
        ]

    def test_none(self) -> None:
        with pytest.raises(RequestError, match="at least one name"):
            build("decoder").capture()

    def test_a_site_that_is_not_captured_or_not_computed(self) -> None:
        model = build("decoder")
        with model.capture("blocks.0.out") as seen:
            pass
        with pytest.raises(RequestError, match="expected the name of a captured site"):
            _ = seen["blocks.1.out"]
        with pytest.raises(RequestError, match="computed inside the `with` block"):
            _ = seen["blocks.0.out"]

    def test_the_table(self) -> None:
        table = build("decoder").sites()
        assert list(table.columns) == ["site", "letters", "dtype"]
        assert list(table.site[:3]) == ["embed", "blocks.0.in", "blocks.0.attention.q"]
        assert list(table.site[-2:]) == ["final", "logits"]
        assert set(table.dtype) == {"float32"}


class TestUntil:
    def test_the_rest_is_skipped(self) -> None:
        model = build("decoder")
        calls: list[int] = []
        for i, block in enumerate(model.blocks):
            block.register_forward_hook(lambda *_, i=i: calls.append(i))
        with model.capture("blocks.0.out", until="blocks.1.attention.out") as seen:
            assert model(ids()) is None
            assert LanguageModel(model, SimpleNamespace(end_of_text=None))(ids()[0]) is None
        assert calls == [0, 0]
        assert len(seen.pieces("blocks.0.out")) == 2
        assert model(ids()).shape == (2, T, V)

    def test_not_in_generation(self) -> None:
        model = build("encoder-decoder")
        with (
            pytest.raises(RequestError, match="computed outside of a call of the model"),
            model.capture("encoder.final", until="encoder.final"),
        ):
            model.encode(ids())


class TestGeneration:
    @pytest.mark.parametrize("name", ["decoder", "llama", "pattern"])
    def test_all_tokens_as_in_one_pass(self, name: str) -> None:
        model = build(name)
        names = ["blocks.*.attention.*", "blocks.*.out", "blocks.*.feedforward.hidden"]
        with model.capture(*names) as seen:
            text = generate(model, ids(), max_new_tokens=5, temperature=0)
        with torch.no_grad(), model.capture(*names) as whole:
            model(text[:, :-1])  # the last token is not read
        assert len(seen.pieces("blocks.0.out")) == 5
        for site_name, value in whole.items():
            torch.testing.assert_close(seen[site_name], value, rtol=1e-4, atol=1e-5)

    def test_the_last_token_of_each_step(self) -> None:
        model = build("decoder")
        with model.capture("blocks.*.out", at=-1) as seen:
            generate(model, ids(), max_new_tokens=4, temperature=0)
        assert seen["blocks.0.out"].shape == (2, 4, D)
        with model.capture("blocks.0.attention.mixed", at=-1, heads=1) as head:
            generate(model, ids(), max_new_tokens=4, temperature=0)
        assert head["blocks.0.attention.mixed"].shape == (2, 4, D // H)

    def test_an_encoder_decoder(self) -> None:
        model = build("encoder-decoder")
        names = ["encoder.final", "decoder.blocks.*.cross.*", "decoder.blocks.*.attention.pattern"]
        source = ids(2, 6, 1)
        with model.capture(*names) as seen:
            start = torch.zeros(2, 1, dtype=torch.long)
            text = generate(model.reading(source), start, max_new_tokens=5, temperature=0)
        with torch.no_grad(), model.capture(*names) as whole:
            model(source, text[:, :-1])
        for name, value in whole.items():
            torch.testing.assert_close(seen[name], value, rtol=1e-4, atol=1e-5)


class TestGradients:
    @pytest.mark.parametrize("name", ["decoder", "llama", "sandwich, soft cap", "alibi, post-norm"])
    def test_are_those_of_a_model_of_elementary_operations(self, name: str) -> None:
        """The reference attention has all sites in its graph; the fused kernel has not."""
        model = build(name, torch.float64)
        names = [each.name for each in list_sites(model)][:-1]

        def gradients() -> dict[str, Tensor]:
            with model.capture(*names) as seen:
                loss = run(model).logsumexp(-1).sum()
            return dict(
                zip(names, torch.autograd.grad(loss, [seen[n] for n in names]), strict=True)
            )

        fused = gradients()
        for block in model.blocks:
            block.attention.fused = False
        for site_name, expected in gradients().items():
            torch.testing.assert_close(fused[site_name], expected, msg=site_name)

    def test_the_gradients_of_the_weights_stay(self) -> None:
        model = build("decoder", torch.float64)
        run(model).sum().backward()
        expected = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        with model.capture("blocks.*.attention.pattern"):
            run(model).sum().backward()
        for parameter, grad in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, grad)

    def test_recomputed_activations(self) -> None:
        model = build("decoder", recompute=True).train()
        with model.capture("blocks.*.out") as seen:
            run(model).sum().backward()
        assert model.recompute
        assert all(len(seen.pieces(name)) == 1 for name in seen)


class Gated(nn.Module):
    """A feed-forward module of a user: one line lists its sites."""

    own_sites: ClassVar = {"gate": "B T F"}

    def __init__(self, *, dim: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(dim, 5), nn.Linear(dim, 5)
        self.down = nn.Linear(5, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate = site(self, "gate", self.gate(x).sigmoid())
        return self.down(gate * self.up(x))


def test_a_part_of_ones_own() -> None:
    model = build("decoder", feedforward=Gated)
    names = [each.name for each in list_sites(model)]
    at = names.index("blocks.0.feedforward.gate")
    assert names[at - 1 : at + 2] == [
        "blocks.0.mid", "blocks.0.feedforward.gate", "blocks.0.feedforward.out",
    ]  # fmt: skip
    with model.capture("blocks.0.feedforward.*", "blocks.0.mid") as seen:
        run(model)
    part = model.blocks[0].feedforward
    x = model.blocks[0].feedforward_norm(seen["blocks.0.mid"])
    close(seen["blocks.0.feedforward.gate"], part.gate(x).sigmoid())
    close(seen["blocks.0.feedforward.out"], part(x))


def test_captures_in_captures() -> None:
    model = build("decoder")
    with model.capture("blocks.0.out", "blocks.0.attention.q") as outer:
        with model.capture("blocks.0.out", "blocks.0.attention.q") as inner:
            run(model)
        run(model)
    for name in outer:
        assert len(inner.pieces(name)) == 1
        assert len(outer.pieces(name)) == 2


def test_on_another_device_or_in_inference_mode() -> None:
    model = build("decoder")
    with torch.inference_mode(), model.capture("blocks.*.out", device="meta") as seen:
        run(model)
    assert {value.device.type for value in seen.values()} == {"meta"}


def test_compiled_layers_run_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    model = build("decoder")
    expected = run(model)
    caplog.set_level("INFO", logger="etude.notices")
    with compiled(model), model.capture("blocks.*.attention.pattern") as seen:
        assert torch.equal(run(model), expected)
    assert len(seen) == 3
    assert caplog.text.count("compiled code is not used while activations are captured") == 1


def test_memory_does_not_grow() -> None:
    model = build("decoder")

    def tensors() -> int:
        gc.collect()
        return sum(1 for each in gc.get_objects() if type(each) is Tensor)

    def once() -> None:
        with torch.no_grad(), model.capture("blocks.*.*", "blocks.*.attention.*", at=-1) as seen:
            run(model)
        assert len(seen) > 20

    once()
    before, objects = tensors(), len(gc.get_objects())
    for _ in range(100):
        once()
    assert tensors() == before
    assert len(gc.get_objects()) < objects + 50


def test_any_module_of_torch() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with capture(model, "0.out", "2.in") as seen:
        model(x)
    close(seen["0.out"], model[0](x))
    close(seen["2.in"], model[0](x).relu())


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected)


def test_indices_of_other_libraries_are_the_same() -> None:
    model, tokens = build("decoder"), torch.arange(6)[None]
    options = [
        {"heads": 1},
        {"heads": np.int64(1)},
        {"heads": torch.tensor(1)},
        {"at": 2, "heads": [0]},
        {"at": torch.tensor(2), "heads": np.array([0])},
    ]
    values = []
    for option in options:
        with torch.no_grad(), capture(model, "blocks.0.attention.q", **option) as seen:
            model(tokens)
            model(tokens)
        values.append(seen["blocks.0.attention.q"])
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert torch.equal(values[3], values[4])
    with pytest.raises(RequestError, match="at = True: expected an integer, a list of integers"):
        capture(model, "embed", at=True)


def test_one_query_of_a_pattern_while_generating() -> None:
    model, tokens = build("decoder"), torch.arange(4)[None]
    with torch.no_grad(), capture(model, "blocks.0.attention.pattern", at=-1) as seen:
        generate(model, tokens, max_new_tokens=3, greedy=True)
    pattern = seen["blocks.0.attention.pattern"]  # (B, H, passes, keys)
    pieces = seen.pieces("blocks.0.attention.pattern")
    longest = pieces[-1].shape[-1]
    assert pattern.shape == (1, pieces[0].shape[1], len(pieces), longest)
    for number, piece in enumerate(pieces):
        assert torch.equal(pattern[:, :, number, : piece.shape[-1]], piece)
        assert not pattern[:, :, number, piece.shape[-1] :].any()


def test_other_threads_are_not_captured() -> None:
    model = build("decoder")
    inputs = [torch.full((1, 5), n) for n in range(4)]
    expected = [model.embedding(tokens) for tokens in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(30):
            with torch.no_grad(), capture(model, "embedding.out") as seen:
                model(inputs[number])
            if not torch.equal(seen["embedding.out"], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_dropout_is_the_same_with_a_capture() -> None:
    model, tokens = build("decoder", dropout=0.3).train(), torch.arange(6)[None]
    outputs = []
    for names in ([], ["blocks.*.attention.pattern", "blocks.*.attention.scores"]):
        torch.manual_seed(3)
        with torch.no_grad(), capture(model, "embed", *names):
            outputs.append(model(tokens))
    assert torch.equal(*outputs)
    torch.manual_seed(4)
    with torch.no_grad():
        assert not torch.equal(model(tokens), outputs[0])
