"""Validation uses the whole split, and the last checkpoint reproduces its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from etude.api import Run, compose
from etude.errors import RequestError
from etude.training.run import train


def by_hand(run: Run, length: int) -> dict[str, float]:
    """Returns the metrics of the last checkpoint on the held-out text, in double precision."""
    text = Path(run.config.data.path).read_text()
    held_out = text[int(len(text) * 0.9) :]
    model = run.model("last")
    ids = model.tokenizer.encode(held_out)
    module = model.module.double()
    nats = 0.0
    for start in range(0, len(ids) - 1, length):
        window = torch.tensor(ids[start : start + length + 1])
        logits = module(window[None, :-1])[0]
        nats -= F.log_softmax(logits, -1).gather(1, window[1:, None]).sum().item()
    loss = nats / (len(ids) - 1)
    predicted = len(held_out[1:].encode())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": nats / math.log(2) / predicted,
    }


@pytest.mark.parametrize("position", ["alibi", "rotary", "sinusoidal", "none", "learned"])
def test_scored_again(words: Callable[..., list[str]], tmp_path: Path, position: str) -> None:
    more = ["trainer.max_steps=12", f"model/position={position}"]
    record = train(compose(*words(tmp_path, *more))).record
    last = record.rows()[-1]
    assert last["step"] == 12  # no multiple of the interval, which is 7
    run = Run(record)
    scored = run.evaluate(which="last")
    expected = by_hand(run, length=8)
    assert scored.keys() == expected.keys()
    for name, value in expected.items():
        assert scored[name] == pytest.approx(last[f"val/{name}"], rel=1e-6)
        assert scored[name] == pytest.approx(value, rel=1e-5)
        assert record.info["final"][f"val/{name}"] == last[f"val/{name}"]

    if position == "learned":
        with pytest.raises(RequestError, match=r"16: expected at most 8 tokens"):
            run.evaluate(which="last", sequence_length=16)
        return
    longer = run.evaluate(which="last", sequence_length=16)
    for name, value in by_hand(run, length=16).items():
        assert longer[name] == pytest.approx(value, rel=1e-5)
    assert longer["loss"] != scored["loss"]
