"""Every task trains and continues after stops and kills, and its loss doesn't depend on the split
into micro-batches, ranks and padding.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apart
import pytest
import torch
from comparing import assert_same

from etude.config.compose import compose
from etude.errors import RequestError
from etude.records.record import Record
from etude.tasks.base import Setup, Task
from etude.training.build import Parts, build_parts, check_all
from etude.training.model import build_model
from etude.training.run import train
from etude.training.run_folder import cache_folder

ROWS = ["translation", "instruction", "classification", "tagging"]
ROWS += ["text_regression", "token_regression", "question_answering"]
KINDS = ["masked_lm", "span_denoising", *ROWS]
Toy = Callable[..., list[str]]


def built(words: list[str]) -> tuple[Parts, Task]:
    """Returns the parts of a run with prepared data, and its task in double precision."""
    checked = check_all(compose(words))
    parts = build_parts(checked)
    parts.data.check()
    parts.data.prepare(cache_folder(checked))
    labels = len(parts.data.labels)
    model = build_model(checked, parts.data.tokenizer_.vocab_size, labels).double()
    setup = Setup(model, parts.optimizer, parts.schedule, total_steps=9, seed=0)
    return parts, parts.task(setup=setup)


def steps(parts: Parts, micro: int | None = None, rank: int = 0, world: int = 1) -> list[Any]:
    parts.data.attach(seed=0, micro_batch=micro, total_steps=5, rank=rank, world=world)
    return list(parts.data.train_dataloader())


def loss_and_gradient(task: Task, micros: list[Any]) -> tuple[float, torch.Tensor]:
    task.model.zero_grad()
    losses = [task.loss(micro) / micro["step_targets"] for micro in micros]
    torch.stack(losses).sum().backward()
    gradients = [p.grad.flatten() for p in task.model.parameters() if p.grad is not None]
    return sum(float(loss.detach()) for loss in losses), torch.cat(gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_step(kind: str, toy: Toy, tmp_path: Path) -> None:
    """8 x 1 = 4 x 2 = 3 + 3 + 2 = two ranks, to 1e-9 in double precision."""
    parts, task = built(toy(kind, tmp_path, "model.dropout=0"))
    task.eval()
    whole = [loss_and_gradient(task, step) for step in steps(parts)]
    assert all(math.isfinite(loss) and loss > 0 for loss, _ in whole)
    for micro in (1, 2, 3):
        for (loss, gradient), step in zip(whole, steps(parts, micro), strict=True):
            assert len(step) >= 8 // micro or kind != "masked_lm"
            found, other = loss_and_gradient(task, step)
            assert found == pytest.approx(loss, rel=1e-9)
            assert torch.allclose(other, gradient, rtol=1e-7, atol=1e-10)
    ranks = [steps(parts, 3, rank, 2) for rank in range(2)]
    for (loss, gradient), one, two in zip(whole, *ranks, strict=True):
        found, other = loss_and_gradient(task, [*one, *two])
        assert found == pytest.approx(loss, rel=1e-9)
        assert torch.allclose(other, gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", ROWS)
def test_padding_changes_nothing(kind: str, toy: Toy, tmp_path: Path) -> None:
    """The sum over single examples without padding equals the loss of the batch."""
    parts, task = built(toy(kind, tmp_path, "model.dropout=0", "data.bucket_steps=1"))
    task.eval()
    (together,) = steps(parts)[0]
    assert any(name.endswith("keep") for name in together) or kind == "instruction"
    alone = steps(parts, micro=1)[0]
    assert not any(name.endswith("keep") for micro in alone for name in micro)
    loss, gradient = loss_and_gradient(task, [together])
    found, other = loss_and_gradient(task, alone)
    assert found == pytest.approx(loss, rel=1e-9)
    assert torch.allclose(other, gradient, rtol=1e-7, atol=1e-10)


PACKS = ["translation", "instruction", "classification", "tagging"]
ROOMY = "data.sequence_length=256"  # for several examples


@pytest.mark.parametrize("kind", PACKS)
def test_packed_is_what_it_is_unpacked(kind: str, toy: Toy, tmp_path: Path) -> None:
    """Packed sequences, in micro-batches and ranks, give the same loss as single examples."""
    weights = ["task.class_weights=balanced"] if kind == "classification" else []
    words = toy(kind, tmp_path, "model.dropout=0", ROOMY, "model.max_length=256", *weights)
    parts, task = built(words)
    task.eval()
    whole = [loss_and_gradient(task, step) for step in steps(parts)]
    first = "source" if kind == "translation" else "tokens"
    packed, _ = built([*words, "data.pack=true"])
    for micro, world in ((None, 1), (2, 1), (1, 1), (1, 2)):
        ranks = [steps(packed, micro, rank, world) for rank in range(world)]
        for (loss, gradient), *shares in zip(whole, *ranks, strict=True):
            micros = [each for share in shares for each in share]
            assert sum(len(each[first]) for each in micros) < 8  # sequences
            assert micro is None or all(len(each[first]) <= micro for each in micros)
            found, other = loss_and_gradient(task, micros)
            assert found == pytest.approx(loss, rel=1e-9)
            assert torch.allclose(other, gradient, rtol=1e-7, atol=1e-10)


POSITIONS = ["learned", "sinusoidal", "rotary", "relative", "alibi", "none"]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", ["translation", "tagging"])
def test_packed_with_every_position_part(
    kind: str, position: str, toy: Toy, tmp_path: Path
) -> None:
    more = ["model.dropout=0", ROOMY, "model.max_length=256", f"model/position={position}"]
    words = toy(kind, tmp_path, *more)
    parts, task = built(words)
    task.eval()
    packed, _ = built([*words, "data.pack=true"])
    loss, gradient = loss_and_gradient(task, steps(parts)[0])
    found, other = loss_and_gradient(task, steps(packed)[0])
    assert found == pytest.approx(loss, rel=1e-9)
    assert torch.allclose(other, gradient, rtol=1e-7, atol=1e-10)


def test_a_mask_that_begins_somewhere_cannot_be_packed(toy: Toy, tmp_path: Path) -> None:
    words = toy("instruction", tmp_path, "data.pack=true", "model/mask=prefix")
    with pytest.raises(RequestError, match=r"model\.mask = 'Prefix'.*data\.pack"):
        train(compose(words))
    assert not (tmp_path / "instruction").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_where_it_was_stopped(kind: str, toy: Toy, tmp_path: Path) -> None:
    more = ["model.dropout=0.2", "trainer.micro_batch=3", "run.save_every=4"]
    whole = train(compose(toy(kind, tmp_path / "whole", *more))).record
    for cut in (3, 7):
        words = toy(kind, tmp_path / "cut", *more, f"run.stop_at_step={cut}")
        assert train(compose(words)).status == "paused"
    again = train(compose(toy(kind, tmp_path / "cut", *more))).record
    assert_same(again, whole)
    assert whole.info["tokens"] > 0
    assert whole.info["best"]["metric"] == "val/loss"


SLOW = pytest.mark.slow


FIRST = [
    "classification",
    *(pytest.param(kind, marks=SLOW) for kind in KINDS if kind != "classification"),
]
PACKED = [pytest.param(f"{kind} packed", marks=SLOW) for kind in PACKS]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FIRST, *PACKED])
def test_killed_and_started_again(kind: str, toy: Toy, tmp_path: Path) -> None:
    kind, _, pack = kind.partition(" ")
    windows = kind in ("masked_lm", "span_denoising")
    batch = [] if windows else ["data.batch.examples=null", "data.batch.tokens=200"]
    batch += ["data.pack=true"] if pack else []
    more = ["model.dropout=0.2", "run.save_every=4", "trainer.max_steps=30", *batch]
    whole = train(compose(toy(kind, tmp_path / "whole", *more))).record
    root = tmp_path / "killed"
    words = toy(kind, root, *more)
    process = apart.start(words, tmp_path / "output.txt", "killed_after_a_save", 5)
    assert apart.finish(process) == -signal.SIGKILL
    record = train(compose(words)).record
    first, second = record.info["starts"]
    assert first["step"] == 0 < second["step"]
    assert_same(record, whole)


@pytest.mark.parametrize("kind", [*FIRST, *PACKED])
def test_two_processes_train_as_one_does(kind: str, toy: Toy, tmp_path: Path) -> None:
    """Two ranks with gloo in double precision, also for steps with an odd number of examples."""
    kind, _, pack = kind.partition(" ")
    odd = [] if kind in ("masked_lm", "span_denoising") else ["data.batch.examples=7"]
    odd += ["data.pack=true"] if pack else []
    more = ["model.dropout=0", "trainer.precision=64", *odd]
    one = train(compose(toy(kind, tmp_path / "one", *more))).record
    ddp = ["trainer=ddp", "trainer.devices=2", *more]
    two = train(compose(toy(kind, tmp_path / "two", *ddp))).record
    rows = [list(record.rows()) for record in (one, two)]
    keys = [key for key in rows[0][-1] if key.startswith(("train/", "val/"))]
    assert {"train/loss", "val/loss"} <= {key for row in rows[0] for key in row}
    for mine, theirs in zip(*rows, strict=True):
        for key in ("tokens", "train/loss", *keys):
            if key in mine:
                assert theirs[key] == pytest.approx(mine[key], rel=1e-6)


def test_class_weights_balance_the_loss(toy: Toy, tmp_path: Path) -> None:
    """The loss equals torch's weighted mean."""
    parts, task = built(toy("classification", tmp_path, "task.class_weights=balanced"))
    task.eval()
    (micro,) = steps(parts)[0]
    counts = parts.data.meta.splits["train"].labels
    weights = torch.tensor([sum(counts) / (2 * count) for count in counts], dtype=torch.double)
    logits = task.model(micro["tokens"], keep=micro.get("keep"))
    expected = torch.nn.functional.cross_entropy(logits, micro["labels"], weight=weights)
    found = task.loss(micro) / micro["step_targets"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_target_of_a_pair_is_shifted_by_one(toy: Toy, tmp_path: Path) -> None:
    """Each token of the target is predicted from the tokens before it, computed one at a time."""
    parts, task = built(toy("translation", tmp_path, "task.label_smoothing=0"))
    task.eval()
    (micro,) = steps(parts, micro=1)[0][:1]
    source, labels = micro["source"], micro["labels"][0].tolist()
    assert labels[-1] == parts.data.tokenizer_.end_of_text == source[0, -1]
    total, written = 0.0, [0]
    for token in labels:
        logits = task.model(source, torch.tensor([written]))[0, -1]
        total -= float(logits.log_softmax(-1)[token])
        written.append(token)
    assert float(task.loss(micro)) == pytest.approx(total, rel=1e-9)


def test_only_the_answer_counts(toy: Toy, tmp_path: Path) -> None:
    words = toy("instruction", tmp_path, "task.template='Q: {source}\\nA: {target}<|endoftext|>'")
    parts, _ = built(words)
    (micro,) = steps(parts, micro=1)[0][:1]
    decode = parts.data.tokenizer_.decode
    tokens, labels = micro["tokens"][0].tolist(), micro["labels"][0].tolist()
    text = decode([*tokens, labels[-1]])
    question, answer = text.removesuffix("<|endoftext|>").split("\\nA: ")
    assert question.removeprefix("Q: ").split() == answer.split()[::-1]
    counted = [token for token in labels if token >= 0]
    assert decode(counted) == f"{answer}<|endoftext|>"
    assert labels[-len(counted) :] == counted  # they stand at the end
    assert len(counted) == micro["step_targets"] or len(steps(parts)[0][0]["labels"]) > 1


def test_a_run_says_what_its_labels_are(toy: Toy, tmp_path: Path) -> None:
    record = Record.read(train(compose(toy("tagging", tmp_path))).record.path)
    assert record.info["data"]["labels"] == sorted({w[0].upper() for w in _words()})
    assert record.info["final"]["val/accuracy"] > 0


def _words() -> list[str]:
    return ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "and", "cats", "ran"]
