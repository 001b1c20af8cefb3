"""Metrics don't depend on the batches, the ranks and their order."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.objective import IGNORE
from etude.tasks.algorithmic import AnswerMetrics
from etude.tasks.causal_lm import LanguageModelMetrics
from etude.tasks.classification import LabelMetrics
from etude.tasks.metrics import Metrics, Sum, merged
from etude.tasks.regression import NumberMetrics
from etude.tasks.tagging import TagMetrics
from etude.tasks.texts import TextMetrics
from etude.tasks.token_task import TokenMetrics

EXAMPLES, T, CLASSES = 13, 4, 3
ROW_OF = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9])
NAMES = ["O", "B-a", "I-a"]

Case = tuple[Callable[[], Metrics], dict[str, Any], Any]


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    logits, tags = torch.randn(EXAMPLES, CLASSES), torch.randn(EXAMPLES, T, CLASSES)
    labels = torch.tensor([int(row) % CLASSES for row in ROW_OF])
    words = torch.randint(CLASSES, (EXAMPLES, T))
    words[::3, 2:] = IGNORE
    values = torch.randn(EXAMPLES, T)
    values[:, 1] = math.nan
    index = torch.arange(EXAMPLES)
    texts = [f"text {number}" for number in range(EXAMPLES)]
    outputs_of_text = [text.replace("1", "one") for text in texts]
    labelled = {"index": index, "labels": labels, "weights": torch.rand(EXAMPLES)}
    return {
        "label": (lambda: LabelMetrics(NAMES, 1, ROW_OF), labelled, logits),
        "tag": (lambda: TagMetrics(NAMES, ROW_OF), {"index": index, "labels": words}, tags),
        "text": (TextMetrics, {"row": index, "target": texts}, outputs_of_text),
        "token": (TokenMetrics, {"labels": words}, tags),
        "answer": (AnswerMetrics, {"labels": words}, tags),
        "number": (lambda: NumberMetrics(2), {"values": values}, torch.randn(EXAMPLES, T)),
        "text windows": (
            lambda: LanguageModelMetrics(99), {"targets": words.clamp_min(0)}, tags
        ),
    }  # fmt: skip


EXACT = ("label", "tag", "text")
"""Sums of single targets in double precision; the others add what each batch sums."""


def some(values: Any, chosen: list[int]) -> Any:
    return values[chosen] if isinstance(values, torch.Tensor) else [values[n] for n in chosen]


def of(case: Case, chosen: list[int]) -> Metrics:
    make, batch, outputs = case
    metrics = make()
    selected = {name: some(values, chosen) for name, values in batch.items()}
    if "row" in selected:
        selected["row"] = selected["row"].tolist()
    metrics.update(selected, some(outputs, chosen))
    return metrics


@pytest.mark.parametrize("name", cases())
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_batches_in_any_order_on_any_ranks(name: str, data: st.DataObject) -> None:
    case = cases()[name]
    whole = of(case, list(range(EXAMPLES))).compute()
    order = data.draw(st.permutations(range(EXAMPLES)))
    cuts = sorted(data.draw(st.sets(st.integers(1, EXAMPLES - 1))))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, EXAMPLES], strict=True)]
    found = merged(
        case[0](), [pickle.loads(pickle.dumps(of(case, part))) for part in parts]
    ).compute()
    if name in EXACT:
        assert found == whole
    else:
        assert found == pytest.approx(whole, rel=1e-6)
    again = merged(case[0](), [of(case, part) for part in reversed(parts)]).compute()
    assert again == found


@given(st.lists(st.floats(-1e300, 1e300), max_size=30), st.integers(0, 30))
def test_a_sum_is_rounded_once(numbers: list[float], split: int) -> None:
    left, right = Sum(), Sum()
    for number in numbers[:split]:
        left.add(number)
    if rest := numbers[split:]:
        right.add(torch.tensor(rest, dtype=torch.float64))
    left.merge(right)
    assert left.value == math.fsum(numbers)


def test_rows_in_pieces_are_judged_whole() -> None:
    metrics = LabelMetrics(["a", "b"], None, np.array([0, 0, 1]))
    chances = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2]], dtype=torch.float64)
    labels = torch.tensor([1, 1, 0])
    metrics.update({"index": torch.arange(3), "labels": labels}, chances.log())
    first, second = metrics.predictions()
    assert first == {
        "row": 0, "label": "b", "prediction": "b", "right": True, "score": 1.0,
        "probabilities": [0.35, 0.65],
    }  # fmt: skip
    assert second["prediction"] == "a"
    assert metrics.compute()["accuracy"] == 1
    assert metrics.of({1})["accuracy"] == 1
    loss = -(math.log(0.4) + math.log(0.9) + math.log(0.8)) / 3
    assert metrics.compute()["loss"] == pytest.approx(loss, rel=1e-12)
