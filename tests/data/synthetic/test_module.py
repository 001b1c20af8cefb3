"""Steps, splits and batches of what rules make."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import etude as package
from etude.config.compose import compose
from etude.data.synthetic.arithmetic import ModularArithmetic
from etude.data.synthetic.sequences import Copy, Induction, Sort
from etude.data.text import Batch
from etude.errors import RequestError
from etude.training.run import train

Data = Callable[[], Any]


def sort() -> Sort:
    return Sort(batch=Batch(examples=24))


def induction() -> Induction:
    return Induction(batch=Batch(examples=24))


def fixed() -> Induction:
    return Induction(batch=Batch(examples=24), training=100)


def whole() -> ModularArithmetic:
    return ModularArithmetic(p=7, batch=Batch(), validation=25)


def steps(data: Any, count: int = 9, **how: Any) -> list[list[dict[str, Any]]]:
    data.attach(**{"seed": 3, "micro_batch": None, "total_steps": count, **how})
    return list(islice(data.train_dataloader(), count))


@pytest.mark.parametrize("made", [sort, induction, fixed, whole])
def test_a_step_depends_on_neither_start_nor_micro_batches_nor_workers_nor_ranks(
    made: Data,
) -> None:
    straight = [step[0] for step in steps(made())]
    targets = [int((step["labels"] != -100).sum()) for step in straight]
    assert [step["step_targets"] for step in straight] == targets
    later = steps(made(), start_step=4)
    for micro, (same,) in zip(straight[4:], later, strict=False):
        assert torch.equal(micro["tokens"], same["tokens"])
    for step, parts in zip(straight, steps(made(), micro_batch=5), strict=True):
        assert len(parts) == -(-len(step["tokens"]) // 5)
        assert torch.equal(torch.cat([part["labels"] for part in parts]), step["labels"])
        assert {part["step_targets"] for part in parts} == {step["step_targets"]}
    ranks = [steps(made(), rank=rank, world=2) for rank in (0, 1)]
    for number, step in enumerate(straight):
        shared = torch.cat([ranks[0][number][0]["tokens"], ranks[1][number][0]["tokens"]])
        assert torch.equal(shared, step["tokens"])
        assert ranks[1][number][0]["step_targets"] == step["step_targets"]
    data = made()
    data.workers = 2
    for step, (same,) in zip(straight, steps(data), strict=True):
        assert torch.equal(step["tokens"], same["tokens"])


def test_what_is_trained_on() -> None:
    def kinds(found: list[Any]) -> set[tuple[int, ...]]:
        return {tuple(row) for step in found for row in step[0]["tokens"].tolist()}

    assert len(kinds(steps(induction(), 20))) == 480  # new ones for ever
    assert kinds(steps(induction(), 3)) != kinds(steps(induction(), 3, seed=4))
    once = steps(fixed(), 25)  # 100 examples, six times
    assert len(kinds(once)) == 100
    assert kinds(once) == kinds(steps(fixed(), 25, seed=4))
    assert len(kinds(steps(whole(), 1))) == 24
    assert kinds(steps(whole(), 1)) == kinds(steps(whole(), 5, seed=4))
    held = {tuple(row) for b in sort().val_dataloader() for row in b["tokens"][:, :6].tolist()}
    taught = {row[:6] for row in kinds(steps(sort(), 40))}
    assert len(held) == 182
    assert len(taught) == 547
    assert not held & taught


def test_validation_is_the_same_for_every_run_and_of_the_size_that_is_asked() -> None:
    batches = list(induction().val_dataloader())
    assert sum(len(batch["tokens"]) for batch in batches) == 1000
    again = Induction(batch=Batch(examples=7)).val_dataloader()
    assert torch.equal(next(iter(again))["tokens"], batches[0]["tokens"])
    other = Induction(batch=Batch(examples=7), data_seed=1).val_dataloader()
    assert not torch.equal(next(iter(other))["tokens"], batches[0]["tokens"])
    both = list(whole().val_dataloader())
    assert [batch["part"] for batch in both] == ["val", "seen"]
    assert [len(batch["tokens"]) for batch in both] == [25, 24]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_seen_of_new_examples_is_what_the_run_begins_with(seed: int) -> None:
    data = Induction(batch=Batch(examples=24), validation=48, validate_training=True)
    trained = [micro["tokens"] for (micro,) in steps(data, 2, seed=seed)]
    batches = [batch for batch in data.val_dataloader() if batch["part"] == "seen"]
    assert torch.equal(torch.cat([batch["tokens"] for batch in batches]), torch.cat(trained))


def test_a_billion_examples_take_no_memory() -> None:
    data = Copy(batch=Batch(examples=8), training=10**9)
    assert data.step(10**7, seed=0)["tokens"].shape == (8, 32)
    tens = data.examples("train", np.array([10**9 - 1]))["tokens"]
    assert tens.shape == (1, 32)


def test_fingerprints_differ_where_examples_do() -> None:
    prints = [
        data.fingerprint()
        for data in (
            sort(),
            Sort(batch=Batch(examples=24), validation=0.5),
            Sort(batch=Batch(examples=24), data_seed=1),
            Sort(batch=Batch(examples=24), numbers=4),
            induction(),
            fixed(),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert sort().fingerprint() == Sort(batch=Batch(examples=3)).fingerprint()


WORDS = [
    "~experiment", "name=toy", "task=algorithmic", "model=nano", "model.layers=1", "model.heads=2",
    "model.dim=16", "trainer.max_steps=30", "trainer.val_check_interval=10", "optimizer.lr=1e-2",
    "trainer.accelerator=cpu", "schedule.warmup_steps=2", "trainer.log_every_n_steps=10",
]  # fmt: skip


class TestRuns:
    def test_from_command_to_score(self, etude: Any, tmp_path: Path) -> None:
        words = [*WORDS, "data=sort", "run.samples=2", f"run.root={tmp_path}"]
        answer = etude("train", *words)
        assert answer.code == 0, answer.err
        (folder,) = (tmp_path / "toy").iterdir()
        run = package.load_run(folder)
        row = [row for row in run.record.rows() if "val/exact" in row][-1]
        found = run.evaluate(which="last")
        for name in ("loss", "accuracy", "exact"):
            assert found[name] == pytest.approx(row[f"val/{name}"], rel=1e-6)
        told = (folder / "samples" / "step-00000030.txt").read_text().splitlines()
        assert [line.split(":")[0] for line in told[:3]] == ["source", "target", "model"]
        source, target, written = (line.split()[1:] for line in told[:3])
        assert sorted(source) == target
        assert len(written) == len(target)
        answer = etude("evaluate", folder)
        assert f"exact                {run.evaluate()['exact']:.4f}" in answer.out
        text = etude("generate", folder, "--prompt", "2 1 0 0 2 1", "--max-new-tokens", "2").out
        assert text.startswith("2 1 0 0 2 1 ")
        answer = etude("generate", folder, "--prompt", "2 1 0 9 2 1")
        assert answer.code == 2
        assert "text = '9': expected only words that are in the tokenizer's vo" in answer.err
        answer = etude("data", "show", *words)
        assert "train: 547 examples of 11 tokens" in answer.out
        assert "·|·|·|·|·|" in answer.out

    def test_what_is_trained_on_is_measured_too(self, tmp_path: Path) -> None:
        more = ["data=modular_arithmetic", "data.p=7", "data.validation=25", f"run.root={tmp_path}"]
        record = train(compose([*WORDS, *more])).record
        rows = [row for row in record.rows() if "seen/accuracy" in row]
        assert len(rows) == 3
        found = package.load_run(record.path).evaluate("train", which="last")
        assert found["accuracy"] == pytest.approx(rows[-1]["seen/accuracy"])
        assert found["loss"] == pytest.approx(rows[-1]["seen/loss"], rel=1e-5)
        assert rows[-1]["seen/loss"] < rows[-1]["val/loss"]  # it memorises first

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["data=sotu"], "synthetic data for the run's task, such as data=induction"),
            (["data=induction", "task=causal_lm"], "for task=algorithmic"),
            (["data=induction", "model=encoder_nano"], "Algorithmic"),
            (["data=induction", "model/mask=bidirectional"], "a causal mask"),
            (["data=sort", "data.length=4"], "data.sequence_length = 11: expected 2 * length - 1"),
            (["data=sort", "data.lenght=4"], "did you mean length?"),
        ],
    )
    def test_what_does_not_fit(
        self, etude: Any, tmp_path: Path, words: list[str], said: str
    ) -> None:
        answer = etude("train", *WORDS, *words, f"run.root={tmp_path}")
        assert answer.code == 2
        assert said in answer.err
        with pytest.raises(RequestError):
            train(compose([*WORDS, *words, f"run.root={tmp_path}"]))
