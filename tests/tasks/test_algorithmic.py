"""Loss and metrics of `task=algorithmic`, compared with torch's functions and with manual
results.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from measuring import measured

import etude
from etude.errors import RequestError
from etude.tasks.algorithmic import Algorithmic, AnswerMetrics
from older_records import as_older

LABELS = torch.tensor([[-100, 1, 2], [-100, -100, 0], [3, -100, -100]])


def test_metrics_by_hand() -> None:
    logits = torch.zeros(3, 3, 4)
    for row, position, predicted in [(0, 1, 1), (0, 2, 3), (1, 2, 0), (2, 0, 3)]:
        logits[row, position, predicted] = 5.0
    metrics = AnswerMetrics()
    metrics.update({"labels": LABELS}, logits)
    found = metrics.compute()
    assert found["accuracy"] == 3 / 4
    assert found["exact"] == 2 / 3
    right = torch.log(torch.tensor(5.0).exp() + 3) - 5
    wrong = torch.log(torch.tensor(5.0).exp() + 3)
    assert found["loss"] == pytest.approx(float(3 * right + wrong) / 4)


def test_the_loss_is_torchs_over_the_labels_alone() -> None:
    torch.manual_seed(0)
    table = torch.nn.Embedding(5, 4).double()
    tokens = torch.randint(5, (3, 3))
    batches = [
        {"tokens": tokens[:1], "labels": LABELS[:1]},
        {"tokens": tokens[1:], "labels": LABELS[1:]},
    ]
    expected = F.cross_entropy(table(tokens).flatten(0, 1), LABELS.flatten(), ignore_index=-100)
    assert measured(Algorithmic, table, batches)["loss"] == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_a_run_of_another_rule_is_not_evaluated(tmp_path: Path) -> None:
    config = etude.compose(
        "experiment=sort", "model.dim=12", "trainer.max_steps=1", "trainer.val_check_interval=1",
        f"run.root='{tmp_path}'", "run.samples=0",
    )  # fmt: skip
    run = etude.train(config)
    assert run.evaluate("val")["loss"] == pytest.approx(run.metrics["val/loss"].iloc[-1])
    as_older(run.path)  # without hashes, manual edits are accepted
    file = run.path / "run.json"
    info = json.loads(file.read_text())
    info["data"]["fingerprint"] = "0" * 64
    file.write_text(json.dumps(info))
    with pytest.raises(RequestError, match="the fingerprint of the training data"):
        etude.load_run(run.path).evaluate("val")
