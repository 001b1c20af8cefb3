"""A user's own: words with numbers, a task that learns them, its metrics. No file of the package
knows of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from etude.data.evaluation_data import Evaluated
from etude.data.examples.encoding import encode
from etude.data.examples.source import Encoded, Kinds, Row
from etude.data.examples.tables import TableData
from etude.data.objective import ExampleObjective
from etude.errors import Problem, RequestError
from etude.tasks.base import Task
from etude.tasks.metrics import RowMetrics, Sum, ratio


@dataclass(kw_only=True, eq=False)
class WordValues(TableData):
    """Rows with a list of words and one of numbers."""

    fields: ClassVar[tuple[str, ...]] = ("tokens", "values")
    kinds: ClassVar[Kinds] = Kinds(floats=frozenset({"values"}))
    reads_words: ClassVar[bool] = True
    text_column = "words"

    def columns(self) -> dict[str, str | None]:
        return {"words": "words", "values": "values"}

    def texts(self, row: Row) -> list[str]:
        return [" ".join(row.values["words"])]

    def encoded(self, rows: Sequence[Row], tokenizer: Any, labels: Sequence[str]) -> list[Encoded]:
        found = encode([row.values["words"] for row in rows], tokenizer, self.sequence_length,
                       words=True)  # fmt: skip
        result = []
        for row, (piece, *_) in zip(rows, found, strict=True):
            if len(row.values["words"]) != len(row.values["values"]):
                raise RequestError(Problem(row.where, "as many values as words"))
            values, done = [], -1
            for word in piece.word_ids:
                first = word is not None and word > done
                values.append(row.values["values"][word] if first else math.nan)
                done = word if first else done
            result.append(Encoded([{"tokens": piece.ids, "values": values}]))
        return result

    def rows_of_texts(
        self, texts: Sequence[Any], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        words = [text.split() if isinstance(text, str) else text for text in texts]
        return [Row("", {"words": each, "values": [0.0] * len(each)}) for each in words]


class ValueObjective(ExampleObjective):
    """A number at the first token of each word."""

    fields = ("tokens", "values")

    def lengths(self, lengths: Mapping[str, Any]) -> Any:
        return lengths["tokens"]

    def compose(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": fields["tokens"], "labels": fields["values"]}


class ValueMetrics(RowMetrics):
    """The mean squared error over words, and the correlation."""

    def __init__(self, row_of: Any) -> None:
        self.row_of = row_of
        self._squared, self._words = Sum(), Sum()
        self.rows: dict[int, tuple[Any, Any]] = {}

    def update(self, batch: Mapping[str, Any], outputs: Tensor) -> None:
        there = ~batch["labels"].isnan()
        self._squared.add((outputs - batch["labels"]).double()[there].square())
        self._words.add(there.sum())
        for index, actual, said, inside in zip(
            batch["index"].tolist(), batch["labels"], outputs, there, strict=True
        ):
            found = (each[inside].double().cpu().numpy() for each in (actual, said))
            self.rows[int(self.row_of[index])] = tuple(found)  # type: ignore[assignment]

    def merge(self, other: ValueMetrics) -> None:
        self._squared.merge(other._squared)
        self._words.merge(other._words)
        self.rows |= other.rows

    def compute(self) -> dict[str, float]:
        return {"loss": ratio(self._squared, self._words), **self.of()}

    def of(self, rows: Container[int] | None = None) -> dict[str, float]:
        pairs = [self.rows[row] for row in sorted(self.rows) if rows is None or row in rows]
        actual, said = (np.concatenate(side) for side in zip(*pairs, strict=True))
        return {
            "error": float(np.abs(actual - said).mean()),
            "pearson": float(np.corrcoef(actual, said)[0, 1]),
        }

    def predictions(self) -> list[dict[str, Any]]:
        return [
            {
                "row": row,
                "label": actual.tolist(),
                "prediction": said.tolist(),
                "right": False,
                "score": float(-np.square(actual - said).mean()),
            }
            for row, (actual, said) in sorted(self.rows.items())
        ]


class WordRegression(Task):
    """A number for each word."""

    monitor = "val/loss"
    metric_names = ("val/loss", "val/error", "val/pearson")
    loss_unit = "squared error per word"

    @classmethod
    def objective(cls, **arguments: Any) -> ValueObjective:
        return ValueObjective()

    def dummy_micro_batch(
        self, batch: int, length: int, vocabulary: int, labels: int
    ) -> dict[str, Any]:
        return {
            "tokens": torch.randint(vocabulary, (batch, length)),
            "labels": torch.randn(batch, length),
            "step_targets": batch * length,
        }

    def outputs(self, micro: dict[str, Any]) -> Tensor:
        said: Tensor = self.model(micro["tokens"], keep=micro.get("keep"))
        return said.squeeze(-1)

    def loss(self, micro: dict[str, Any]) -> Tensor:
        there = ~micro["labels"].isnan()
        return (self.outputs(micro) - micro["labels"])[there].square().sum()

    def metrics(self, evaluated: Evaluated) -> ValueMetrics:
        return ValueMetrics(evaluated.row_of)

    def predict(self, evaluated: Evaluated, options: Any) -> Iterator[dict[str, Any]]:
        found: Any = self.measured(evaluated)
        for row, (_, said) in sorted(found.rows.items()):
            words = evaluated.rows[row].values["words"]
            yield {"text": " ".join(words), "values": dict(zip(words, said.tolist(), strict=False))}


def write(file: Path, count: int = 60) -> None:
    """Sentences whose words have their lengths as values."""
    words = ["a", "to", "the", "that", "where", "little", "between", "somebody", "wonderful"]
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            chosen = [words[(number * 7 + place * place) % 9] for place in range(2 + number % 4)]
            values = [len(word) / 5 for word in chosen]
            row = {"words": chosen, "values": values, "size": "long" if number % 4 > 1 else "short"}
            lines.write(json.dumps(row) + "\n")
