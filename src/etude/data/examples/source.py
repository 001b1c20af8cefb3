"""What a source of examples says: its rows, and how a row becomes fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from etude.data.tokenizer import Recipe, Tokenizer

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("test", "val", "train")
"""In the order in which they are read: a row that stands in two belongs to the first."""

Item = TypeVar("Item")


class Row(NamedTuple):
    """One row of the data.

    Attributes:
        where: for messages, such as `train.csv, line 7`.
        values: by the source's own names.
        typed: whether the file tells numbers from text; CSV and TSV do not.
    """

    where: str
    values: dict[str, Any]
    typed: bool = True


class Inspection:
    """Looks at all rows of all splits before they are encoded; this one sees nothing in them."""

    def row(self, row: Row) -> None:
        """Looks at one row.

        Raises:
            RequestError: it contradicts an earlier one; says where both are.
        """

    def notes(self, labels: Sequence[str]) -> list[str]:
        """What a user should know of how the rows are read, a line each.

        Args:
            labels: the names of all labels.

        Raises:
            RequestError: something about them cannot be decided; says what to state.
        """
        return []


@dataclass
class Encoded:
    """What becomes of a row.

    Attributes:
        fields: an example for each piece of it; usually one.
        truncated: tokens that were cut off.
    """

    fields: list[dict[str, list[Any]]]
    truncated: int = 0


@dataclass(frozen=True)
class Kinds:
    """Which numbers fields hold; those that are not named hold a list of whole ones.

    Attributes:
        floats: fields of floating-point numbers, kept in single precision.
        single: fields of one number.
    """

    floats: frozenset[str] = frozenset()
    single: frozenset[str] = frozenset({"label"})

    def array(self, name: str, values: Any) -> NDArray[Any]:
        """The numbers of a field as int64 or float32; of a single one without dimensions."""
        kind = np.float32 if name in self.floats else np.int64
        return np.asarray(values[0] if name in self.single else values, kind)


Text = str | list[str] | tuple[str, str]
"""A text, its words, or a text and a second one that is read with it."""


def join_words(text: str | list[str]) -> str:
    """A text, or words with spaces between."""
    return text if isinstance(text, str) else " ".join(text)


class ExampleSource(ABC):
    """The base of all sources; what `ExampleData` is told by them, and files are written from.

    Attributes:
        fields: of an example.
        kinds: of numbers in them.
        states_classes: whether `labels` are what rows state; else all names are known before.
        text_fields: those of them that hold tokens.
        framed: whether special tokens stand around a text, as encoders read it.
        chunks: whether a long row can become several examples.
        recipe, sequence_length, too_long, duplicates: see `ExampleData`.
    """

    fields: tuple[str, ...]
    kinds: ClassVar[Kinds] = Kinds()
    states_classes: ClassVar[bool] = True
    text_fields: tuple[str, ...] = ("tokens",)
    framed = True
    chunks: ClassVar[bool] = True
    recipe: Recipe
    shortest: ClassVar[int] = 1  # sequence_length at least
    sequence_length: int
    too_long: str
    duplicates: str

    @abstractmethod
    def rows(self, split: Split) -> Iterator[Row]:
        """The rows of a split, in order; none if there is no such split."""

    def rows_by_split(self) -> Iterator[tuple[Split, Row]]:
        """All rows with their splits, those of a split in order; read once, where several are parts
        of one list.
        """
        for split in SPLITS:
            for row in self.rows(split):
                yield split, row

    @abstractmethod
    def texts(self, row: Row) -> list[str]:
        """What the tokenizer learns from, and by what a row is known again; empty if it has no
        text.
        """

    @abstractmethod
    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        """The fields of each row."""

    def labels_of(self, row: Row) -> list[str]:
        """The labels that a row states; a source without labels has none."""
        return []

    def inspection(self) -> Inspection:
        """What looks at the rows before they are encoded."""
        return Inspection()

    @property
    def stated_labels(self) -> list[str] | None:
        """All labels in order, if the config says them."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What, besides the content, decides the examples, as plain JSON values."""


def assign_splits(items: Iterable[Item], v: float, t: float) -> Iterator[tuple[Split, Item]]:
    """The items of a list with their splits, with parts v for validation and t for testing.

    Item i, from 0, is for testing if floor((i + 1) t) > floor(i t); of the others, counted by j,
    one is for validation if floor((j + 1) w) > floor(j w), w = v / (1 - t).
    """
    w, rest = v / (1 - t), 0
    for count, item in enumerate(items):
        if int((count + 1) * t) > int(count * t):
            yield "test", item
            continue
        yield "val" if int((rest + 1) * w) > int(rest * w) else "train", item
        rest += 1


def select_split(items: Iterable[Item], split: Split, v: float, t: float) -> Iterator[Item]:
    """Those items of a list that belong to a split; see `parted`."""
    return (item for belongs, item in assign_splits(items, v, t) if belongs == split)
