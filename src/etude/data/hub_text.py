"""Text of a dataset on the Hugging Face Hub, at a fixed commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from etude.data.hub import Repository, pinned
from etude.data.rows import (
    HEAD,
    choose_column,
    column_values,
    declared_text_columns,
    infer_text_columns,
    iterate_texts,
    split_rows,
)
from etude.data.splits import Document, Split
from etude.data.text import Batch, TextData
from etude.data.tokenizer import Recipe
from etude.errors import Checks


class HubText(TextData):
    """Corpus from a text column of a dataset on the Hugging Face Hub; each row is a document.

    The text is unchanged. Rows without text (null or empty) are skipped and not counted as
    documents. Like every corpus, it is tokenized once into the cache; after that, no request is
    sent to the Hub.

    Args:
        name: name of the dataset, `owner/name`.
        config, revision: see `etude.data.hub.Repository`.
        split: name of the split with the training text.
        validation_split: name of the split with the validation text. None holds out the fraction
            v = `validation` of `split`: document i, counted from 0, is held out if
            floor((i + 1) v) > floor(i v).
        validation: the held-out fraction, between 0 and 1; unused with `validation_split`.
        column: name of the text column; None selects the column `text`, or else the only column
            with text.
        streaming: see `Repository`. If true, the data is read over the network once for training
            the tokenizer and once for each split.
        documents: number of rows to read from the beginning of `split`, including rows without
            text; None reads all rows. `validation_split` is always read completely.
    """

    # Not a dataclass, since the argument `documents` has the name of a method.
    def __init__(
        self,
        *,
        name: str,
        tokenizer: Recipe,
        sequence_length: int,
        batch: Batch,
        config: str | None = None,
        revision: str | None = None,
        split: str = "train",
        validation_split: str | None = None,
        validation: float = 0.1,
        column: str | None = None,
        streaming: bool = True,
        documents: int | None = None,
        order: Literal["windows", "epochs"] = "windows",
        workers: int = 0,
        separate_documents: bool = False,
    ) -> None:
        self.repository = Repository(name, config, revision, streaming)
        self.split = split
        self.validation_split = validation_split
        self.validation = validation
        self.column = column
        self.limit = documents
        super().__init__(
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            batch=batch,
            order=order,
            workers=workers,
            separate_documents=separate_documents,
        )

    def validate(self, checks: Checks) -> None:
        self.repository.noted(checks)
        is_valid, fraction = 0 < self.validation < 1, "a fraction between 0 and 1"
        checks.that(is_valid, "validation", self.validation, fraction)
        checks.that(bool(self.split), "split", self.split, "the name of a split")
        checks.that(
            self.validation_split != self.split,
            "validation_split",
            self.validation_split,
            "a split other than data.split",
            "to hold out a fraction of data.split, set data.validation_split=null",
        )
        if self.limit is not None:
            checks.positive(documents=self.limit)
        super().validate(checks)

    @classmethod
    def pinned(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `{"revision": commit}` with the commit to read; see `etude.data.hub.pinned`."""
        return pinned(arguments)

    @property
    def commit(self) -> str:
        """Hash of the commit to read."""
        return self.repository.commit

    def check(self) -> None:
        """Does nothing, because `prepare` checks the dataset."""

    def content_fingerprint(self) -> str:
        # A commit's content is fixed, so the selection identifies the content.
        values = {**self.origin(), "column": self.column, "documents": self.limit}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def split_settings(self) -> dict[str, object]:
        held_out = None if self.validation_split else self.validation
        return {"corpus": "hub_text", "validation": held_out}

    def origin(self) -> dict[str, object]:
        return {
            "repository": self.repository.name,
            "commit": self.commit,
            "config": self.repository.config,
            "split": self.split,
            "validation_split": self.validation_split,
        }

    def documents(self, split: Split) -> Iterator[str]:
        return (text for _, text in self.sourced(split))

    def sourced(self, split: Split) -> Iterator[Document]:
        held_out = split == "val"
        if self.validation_split is None:
            documents = iterate_texts(self._values(self.split, self.limit), tell=held_out)
            yield from split_rows(documents, held_out=held_out, validation=self.validation)
        elif held_out:
            yield from iterate_texts(self._values(self.validation_split, None), tell=True)
        else:
            yield from iterate_texts(self._values(self.split, self.limit), tell=True)

    def _values(self, split: str, limit: int | None) -> Iterator[tuple[str, Any]]:
        """Yields each value of the text column in a split, as a pair (position, value).

        The position is text for messages: dataset, split, row and column.

        Args:
            split: name of the split.
            limit: maximum number of rows to read; None reads all rows.
        """
        with self.repository.explained():
            rows, column = self._rows(split)
            for number, value in enumerate(islice(column_values(rows, column), limit), 1):
                where = f"{self.repository.name}, split {split}, row {number}, column {column}"
                yield where, value

    def _rows(self, split: str) -> tuple[Any, str]:
        """Returns the rows of a split, as in `Repository.rows`, and the name of the text column.

        If the dataset does not declare its columns, the first `HEAD` rows decide which columns
        contain text.

        Raises:
            RequestError: as for `Repository.rows` and `etude.data.rows.choose_column`.
        """
        key = "data.split" if split == self.split else "data.validation_split"
        rows = self.repository.rows(split, key)
        features = rows.features
        columns = (
            declared_text_columns(features) if features else infer_text_columns(islice(rows, HEAD))
        )
        return rows, choose_column(columns, self.column, self.repository.name)
