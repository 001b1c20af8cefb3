"""Interface of classes that read rows of data and convert the rows to examples."""

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
"""The splits in reading order. A row that is in two splits belongs to the first of them."""

Item = TypeVar("Item")


class Row(NamedTuple):
    """Row of the data, as read from a file or another source.

    Attributes:
        where: position of the row, for messages, such as `train.csv, line 7`.
        values: dict from names, such as those of columns, to the row's values.
        typed: whether the file distinguishes numbers from text; CSV and TSV do not.
    """

    where: str
    values: dict[str, Any]
    typed: bool = True


class Inspection:
    """Checks of all rows of all splits, before the rows are encoded.

    The base class checks nothing; a subclass checks, for example, labels or tags.
    """

    def row(self, row: Row) -> None:
        """Checks one row.

        Raises:
            RequestError: the row is invalid or contradicts an earlier row.
        """

    def notes(self, labels: Sequence[str]) -> list[str]:
        """Returns notes for the user on how the rows are interpreted, each a line of the log.

        Args:
            labels: names of all labels.

        Raises:
            RequestError: a property of the rows, such as the scheme of their tags, can't be
                detected and must be set in the config.
        """
        return []


@dataclass
class Encoded:
    """Examples that were built from a row.

    Attributes:
        fields: for each example, a dict from field names to lists of numbers. A row has several
            examples if its text is split into pieces.
        truncated: number of tokens of the pieces that are not used, including their special tokens;
            0 if nothing was cut off.
    """

    fields: list[dict[str, list[Any]]]
    truncated: int = 0


@dataclass(frozen=True)
class Kinds:
    """Types of the numbers in an example's fields.

    A field that is named neither in `floats` nor in `single` is a list of integers.

    Attributes:
        floats: names of fields with floating-point numbers, stored in single precision.
        single: names of fields with a single number.
    """

    floats: frozenset[str] = frozenset()
    single: frozenset[str] = frozenset({"label"})

    def array(self, name: str, values: Any) -> NDArray[Any]:
        """Returns the numbers of a field as an int64 or float32 array.

        The array of a single number has no dimensions.
        """
        kind = np.float32 if name in self.floats else np.int64
        return np.asarray(values[0] if name in self.single else values, kind)


Text = str | list[str] | tuple[str, str]
"""A text, a list of words, or a pair of texts."""


def join_words(text: str | list[str]) -> str:
    """Returns a text, or its words joined by spaces."""
    return text if isinstance(text, str) else " ".join(text)


class ExampleSource(ABC):
    """Base class of sources of examples: classes that read rows and convert them to examples.

    Attributes:
        fields: names of an example's fields.
        kinds: types of the numbers in the fields.
        states_classes: whether the labels are class names that occur in the rows. If false, they
            are fixed names, such as those of columns.
        text_fields: names of the fields that contain tokens.
        framed: whether special tokens are added around a text, as for encoders.
        chunks: whether a long row can be split into several examples.
        recipe: object that trains or loads the tokenizer.
        sequence_length, too_long, duplicates: see `ExampleData`.
    """

    fields: tuple[str, ...]
    kinds: ClassVar[Kinds] = Kinds()
    states_classes: ClassVar[bool] = True
    text_fields: tuple[str, ...] = ("tokens",)
    framed = True
    chunks: ClassVar[bool] = True
    recipe: Recipe
    shortest: ClassVar[int] = 1  # smallest sequence_length
    sequence_length: int
    too_long: str
    duplicates: str

    @abstractmethod
    def rows(self, split: Split) -> Iterator[Row]:
        """Yields the rows of a split, in order; yields no rows if the split does not exist."""

    def rows_by_split(self) -> Iterator[tuple[Split, Row]]:
        """Yields all rows with their splits; the rows of each split are in order.

        If the splits are fractions of one file, the file is read only once.
        """
        for split in SPLITS:
            for row in self.rows(split):
                yield split, row

    @abstractmethod
    def texts(self, row: Row) -> list[str]:
        """Returns the texts of a row; an empty list if the row has no text.

        The tokenizer is trained on these texts. Rows with the same texts are duplicates.
        """

    @abstractmethod
    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        """Returns, for each row, the examples that are built from it.

        Args:
            rows: rows with text.
            tokenizer: tokenizer of the prepared data.
            labels: names of all labels; the number of a label is its index in this list.
        """

    def labels_of(self, row: Row) -> list[str]:
        """Returns the names of the labels in a row; an empty list for sources without labels.

        If the labels are tags, the list contains the tag of each word, in the order of the words.
        """
        return []

    def inspection(self) -> Inspection:
        """Returns a new `Inspection`, which checks all rows before they are encoded."""
        return Inspection()

    @property
    def stated_labels(self) -> list[str] | None:
        """All labels in order, if they are known before the rows are read; otherwise None."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns the settings that determine the examples, as JSON values.

        The content of the rows is not included.
        """


def assign_splits(items: Iterable[Item], v: float, t: float) -> Iterator[tuple[Split, Item]]:
    """Yields each item with its split, as a pair (split, item), in the order of `items`.

    v and t are the fractions for validation and testing. Item i (from 0) is for testing if
    floor((i + 1) t) > floor(i t). Item j (from 0) of the remaining items is for validation if
    floor((j + 1) w) > floor(j w), where w = v / (1 - t). All other items are for training.
    """
    w, rest = v / (1 - t), 0
    for count, item in enumerate(items):
        if int((count + 1) * t) > int(count * t):
            yield "test", item
            continue
        yield "val" if int((rest + 1) * w) > int(rest * w) else "train", item
        rest += 1


def select_split(items: Iterable[Item], split: Split, v: float, t: float) -> Iterator[Item]:
    """Yields the items of a list that belong to a split; see `assign_splits`."""
    return (item for item_split, item in assign_splits(items, v, t) if item_split == split)
