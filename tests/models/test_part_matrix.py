"""Every part can be trained with every kind of other part: a sampled design, on real text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import nn

from etude.config.checks import check
from etude.config.compose import compose
from etude.config.paths import conf_dir
from etude.data.sotu import Sotu
from etude.data.text import Batch
from etude.data.tokenizer import Byte
from etude.tasks.causal_lm import next_token_loss

T, B, STEPS = 64, 8, 200
SLOTS = ("attention", "position", "norm", "feedforward", "mask", "block", "initialise")
NOT_CAUSAL = {"bidirectional", "prefix"}
STARVED = {"default", "gpt2", "normal"}
"""N(0, 0.02), made for widths near 1000, is too small for a post-norm stack of width 96: at this
rate of learning it stays at the letters' frequencies. A post-norm stack has the others here."""


def design(rounds: int = 2) -> list[dict[str, str]]:
    """Returns choices of parts: each value of a slot at least `rounds` times, with random other
    parts.
    """
    draw = random.Random(0)
    files = {
        slot: sorted(p.stem for p in Path(conf_dir(), "model", slot).glob("*.yaml"))
        for slot in SLOTS
    }
    values = {slot: [n for n in names if n not in NOT_CAUSAL] for slot, names in files.items()}
    runs = rounds * max(map(len, values.values()))
    columns = {}
    for slot, names in values.items():
        column: list[str] = []
        while len(column) < runs:
            column += draw.sample(names, len(names))
        columns[slot] = column[:runs]
    choices = [{slot: columns[slot][i] for slot in SLOTS} for i in range(runs)]
    large = cycle(name for name in values["initialise"] if name not in STARVED)
    any_, post = cycle(values["initialise"]), "post_norm"
    for choice in choices:
        choice["initialise"] = next(large if choice["block"] == post else any_)
    return choices


@cache
def text() -> tuple[torch.Tensor, int, float]:
    """Returns the characters of the first speeches as ids, the number of ids, and their entropy
    in nats.
    """
    sotu = Sotu(tokenizer=Byte(), sequence_length=1, batch=Batch(examples=1))
    letters = "".join(speech for speech, _ in zip(sotu.documents("train"), range(40), strict=False))
    kinds = {letter: number for number, letter in enumerate(sorted(set(letters)))}
    share = torch.tensor(list(Counter(letters).values()), dtype=torch.float64) / len(letters)
    entropy = float(-(share * share.log()).sum())
    return torch.tensor([kinds[letter] for letter in letters]), len(kinds), entropy


def batches(seed: int) -> Iterator[dict[str, torch.Tensor]]:
    ids, _, _ = text()
    g = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.stack(
            [ids[i : i + T + 1] for i in torch.randint(len(ids) - T, (B,), generator=g)]
        )
        yield {"tokens": rows[:, :-1], "targets": rows[:, 1:]}


def build(choice: dict[str, str]) -> nn.Module:
    """Builds two layers of width 96, with as many heads as the key-value heads allow."""
    heads = {"_3": "heads=3", "_8": "heads=8"}.get(choice["attention"][-2:], "heads=4")
    more = ["model.head_dim=16"] if heads == "heads=8" else []
    if choice["position"].startswith("sinusoidal"):  # of height 1, beside embeddings of 0.02
        more.append("model.scale_embeddings=true")  # as in Vaswani et al. 2017, section 3.4
    files = [f"model/{slot}={name}" for slot, name in choice.items()]
    sizes = ["model.layers=2", "model.dim=96", f"model.{heads}", "model.max_length=64", *more]
    torch.manual_seed(0)
    return (
        check(compose(["experiment=debug", *files, *sizes]))
        .nodes["model"]
        .build(vocab_size=text()[1])
    )


def test_the_design_has_each_value_twice() -> None:
    for slot in SLOTS:
        names = {p.stem for p in Path(conf_dir(), "model", slot).glob("*.yaml")} - NOT_CAUSAL
        counts = Counter(choice[slot] for choice in design())
        assert set(counts) == names
        assert min(counts.values()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("choice", design(), ids=lambda choice: "-".join(choice.values()))
def test_each_choice_learns_more_than_how_often_letters_occur(choice: dict[str, str]) -> None:
    model = build(choice).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step, batch in zip(range(STEPS), batches(seed=1), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20)
        loss = next_token_loss(model, batch) / (B * T)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        found = [
            float(next_token_loss(model, batch)) / (B * T)
            for _, batch in zip(range(8), batches(seed=2), strict=False)
        ]
    loss = sum(found) / len(found)
    print(f"{loss:.3f} of {text()[2]:.3f} nats")
    assert loss < text()[2] - 0.05
