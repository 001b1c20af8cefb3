"""Compares two records of the same run, bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from etude.records.record import Record

SPEED = ("perf/tokens_per_second", "perf/flops_per_second", "perf/mfu")


def rows(record: Record) -> list[dict[str, Any]]:
    """Returns the metrics without times; asserts that each step has one row, in order."""
    found = [
        {key: value for key, value in row.items() if key not in ("time", *SPEED)}
        for row in record.rows()
    ]
    steps = [row["step"] for row in found]
    assert steps == sorted(set(steps))
    return found


def assert_same(one: Record, other: Record, *, status: str = "finished") -> None:
    """Asserts equal weights, optimizer, sums, metrics and summary; times and hosts may differ."""
    one, other = Record.read(one.path), Record.read(other.path)
    assert one.status == other.status == status
    assert rows(one) == rows(other)
    for key in ("signature", "step", "tokens", "best", "final", "parameters", "total_steps"):
        assert one.info[key] == other.info[key], key
    (step, last), (same_step, same_last) = one.checkpoints()[-1], other.checkpoints()[-1]
    assert step == same_step
    weights, same_weights = (load_file(f / "model.safetensors") for f in (last, same_last))
    assert weights.keys() == same_weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, same_weights[name]), name
    state, same_state = (torch.load(f / "state.pt", weights_only=True) for f in (last, same_last))
    assert state["global_step"] == same_state["global_step"] == step
    assert_equal(state["optimizer_states"], same_state["optimizer_states"])
    assert_equal(_loop(state), _loop(same_state))
    assert not list(one.path.rglob(".*tmp*"))
    assert not list(other.path.rglob(".*tmp*"))


def assert_equal(one: Any, other: Any) -> None:
    """Asserts that nested containers of tensors and numbers are equal, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def _loop(state: dict[str, Any]) -> dict[str, Any]:
    (loop,) = (value for key, value in state["callbacks"].items() if "RunLoop" in key)
    return {key: value for key, value in loop.items() if key != "seconds"}
