"""Replaced values, compared with models whose weights or inputs were changed by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import D, H, T, build, ids, run
from torch import Tensor

from etude.activations import add, from_, heads, list_sites, mean, positions, zero
from etude.errors import RequestError
from etude.generation.generate import generate

RESIDUAL = ("in", "mid", "out")


def test_its_own_values_change_nothing(model: Any) -> None:
    """Patching each site with its own values, all at once, returns the same logits."""
    names = [each.name for each in list_sites(model)]
    with torch.no_grad(), model.capture(*names) as seen:
        expected = run(model)
    fused = [name for name in names if name.split(".")[-1] not in ("scores", "pattern")]
    with torch.no_grad(), model.replace({name: from_(seen) for name in fused}):
        assert torch.equal(run(model), expected)
    with torch.no_grad(), model.replace({name: from_(seen) for name in names}):
        torch.testing.assert_close(run(model), expected)


def test_another_run_patched_in_becomes_it() -> None:
    model = build("decoder", torch.float64)
    other = ids(2, seed=5)
    with torch.no_grad(), model.capture("embed", "blocks.1.out", "blocks.*.attention.*") as seen:
        expected = model(other)
    for name in ("embed", "blocks.1.out"):
        with torch.no_grad(), model.replace({name: from_(seen)}):
            assert torch.equal(run(model), expected)


class TestZero:
    def test_a_head_is_a_model_without_its_output_weights(self) -> None:
        model = build("decoder", torch.float64)
        with model.replace({"blocks.1.attention.mixed": heads([1, 3], zero)}):
            output = run(model)
        without = copy.deepcopy(model)
        weight = without.blocks[1].attention.out.weight.data.view(D, H, -1)
        weight[:, [1, 3]] = 0
        torch.testing.assert_close(output, run(without))

    def test_a_branch(self) -> None:
        model = build("decoder", torch.float64)
        with (
            model.replace({"blocks.*.feedforward.out": zero}),
            model.capture(*[f"blocks.*.{name}" for name in RESIDUAL]) as seen,
        ):
            run(model)
        for i in range(3):
            assert torch.equal(seen[f"blocks.{i}.mid"], seen[f"blocks.{i}.out"])
            assert not torch.equal(seen[f"blocks.{i}.in"], seen[f"blocks.{i}.mid"])

    @pytest.mark.parametrize("name", ["pattern", "scores"])
    def test_scores_and_patterns(self, name: str) -> None:
        """Attention to one key only gives this key's value; equal scores give the mean."""
        model = build("decoder", torch.float64)
        first = torch.zeros(T, dtype=torch.float64)
        first[0] = 1
        change = first if name == "pattern" else zero
        site = "blocks.0.attention"
        with (
            model.replace({f"{site}.{name}": change}),
            model.capture(f"{site}.v", f"{site}.mixed") as seen,
        ):
            run(model)
        v = seen[f"{site}.v"]
        expected = v[:, :, :1] if name == "pattern" else v.mean(2, keepdim=True)
        torch.testing.assert_close(seen[f"{site}.mixed"], expected.expand(-1, -1, T, -1))


def test_mean_over_sequences_and_positions() -> None:
    model = build("decoder", torch.float64)
    with model.capture("blocks.0.out") as before:
        run(model)
    with model.replace({"blocks.0.out": mean}), model.capture("blocks.1.in") as after:
        run(model)
    expected = before["blocks.0.out"].mean(dim=(0, 1)).expand(2, T, D)
    torch.testing.assert_close(after["blocks.1.in"], expected)


def test_add_is_a_bias() -> None:
    model = build("decoder", torch.float64)
    direction = torch.randn(D, dtype=torch.float64)
    with model.replace({"blocks.1.out": add(direction, 2.0)}):
        output = run(model)
    changed = copy.deepcopy(model)
    changed.blocks[1].feedforward.down.bias.data += 2 * direction
    torch.testing.assert_close(output, run(changed))


def test_positions_before_a_change_stay() -> None:
    model = build("decoder", torch.float64)
    with model.replace({"blocks.0.mid": positions(slice(4, None), zero)}):
        output = run(model)
    expected = run(model)
    torch.testing.assert_close(output[:, :4], expected[:, :4])
    assert (output[:, 4:] - expected[:, 4:]).abs().amax(dim=(0, 2)).min() > 1e-3


def test_parts_of_parts() -> None:
    model = build("decoder", torch.float64)
    name = "blocks.0.attention.mixed"
    change = heads(1, positions([2, -1], lambda value: value + 1))
    with (
        model.capture(name) as before,
        model.replace({name: change}),
        model.capture(name) as after,
    ):
        run(model)
    expected = before[name].clone()
    expected[:, 1, [2, T - 1]] += 1
    assert torch.equal(after[name], expected)


def test_changes_compose_from_the_outside_in() -> None:
    model = build("decoder", torch.float64)
    name = "blocks.0.out"
    with (
        model.capture(name) as before,
        model.replace({"blocks.*.out": lambda value: value + 1, name: lambda value: 2 * value}),
        model.replace({name: lambda value: value - 5}),
        model.capture(name) as after,
    ):
        run(model)
    torch.testing.assert_close(after[name], 2 * (before[name] + 1) - 5)


def test_in_generation() -> None:
    """Steering each step is steering a model with another bias."""
    model = build("decoder")
    direction = 5 * torch.randn(D, generator=torch.Generator().manual_seed(3))
    with model.replace({"blocks.2.out": add(direction)}):
        steered = generate(model, ids(), max_new_tokens=6, temperature=0)
    changed = copy.deepcopy(model)
    changed.blocks[2].feedforward.down.bias.data += direction
    assert torch.equal(steered, generate(changed, ids(), max_new_tokens=6, temperature=0))
    assert not torch.equal(steered, generate(model, ids(), max_new_tokens=6, temperature=0))


def test_keys_stay_replaced_in_the_cache() -> None:
    model = build("decoder")
    changes = {"blocks.*.attention.k": heads(0, zero)}
    with model.replace(changes):
        cached = generate(model, ids(), max_new_tokens=6, temperature=0)
        plain = generate(model, ids(), max_new_tokens=6, temperature=0, use_cache=False)
    assert torch.equal(cached, plain)


def test_gradients_pass_through_changes() -> None:
    model = build("decoder", torch.float64)
    direction = torch.randn(D, dtype=torch.float64, requires_grad=True)

    def loss(vector: Tensor) -> Tensor:
        with model.replace({"blocks.1.out": add(vector)}):
            return run(model).logsumexp(-1).sum()

    assert torch.autograd.gradcheck(loss, (direction,))


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda value: value[:, :2], "expected a change that returns a tensor of shape (2, 9"),
            (lambda value: None, "blocks.0.out = 'NoneType': expected a change that returns"),
            (heads(0, zero), "heads of blocks.0.out = 'B T D': expected a site with a dimension H"),
            (positions(99, zero), "positions of blocks.0.out = 99: expected indices below 9"),
            (from_({}), "from_ = 'blocks.0.out': expected a site whose values were captured"),
            (
                from_({"blocks.0.out": torch.ones(3, D)}),
                "captured values of blocks.0.out = (3, 16): expected",
            ),
            (torch.ones(3), "blocks.0.out = (3,): expected a shape that fits (2, 9, 16)"),
        ],
    )
    def test_in_the_forward_pass(self, change: Any, message: str) -> None:
        model = build("decoder")
        with pytest.raises(RequestError) as caught, model.replace({"blocks.0.out": change}):
            run(model)
        assert message in str(caught.value)
        assert not model.blocks[0]._forward_hooks

    def test_wrong_changes_and_names(self) -> None:
        model = build("decoder")
        with pytest.raises(RequestError, match=r"did you mean blocks\.0\.out"):
            model.replace({"blocks.0.ot": zero}).__enter__()
        with pytest.raises(RequestError, match="an edit, a function, a tensor or a number"):
            model.replace({"blocks.0.out": "zero"}).__enter__()
