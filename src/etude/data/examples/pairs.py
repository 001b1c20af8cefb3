"""Data of text pairs: a model reads the first text and generates the second, as in translation."""

from __future__ import annotations

import gettext
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from etude.data.examples.base import ExampleData
from etude.data.examples.encoding import encode
from etude.data.examples.source import Encoded, Row, Split, join_words, select_split
from etude.data.examples.tables import TableData, pair_values, read_text
from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, Problem, RequestError


@dataclass(kw_only=True, eq=False)
class PairData(ExampleData):
    """Base class of data whose rows have a `source` text and a `target` text."""

    too_long: Literal["truncate", "refuse"] = "truncate"

    fields = ("source", "target")
    text_fields = ("source", "target")
    framed = False
    chunks = False
    shortest = 2

    def texts(self, row: Row) -> list[str]:
        texts = self.pair(row)
        return list(texts) if all(texts) else []

    def pair(self, row: Row) -> tuple[str, str]:
        """Returns the source text and the target text of a row; each may be empty."""
        raise NotImplementedError

    def rows_of_texts(
        self, texts: Sequence[str | list[str]], pair: str | None, labels: Sequence[str]
    ) -> list[Row]:
        pair_values(None, pair)
        return [self.row_of(join_words(text), join_words(text)) for text in texts]

    def row_of(self, source: str, target: str) -> Row:
        """Returns a row with the given source and target text."""
        return Row("", {"source": source, "target": target})

    def encoded(
        self, rows: Sequence[Row], tokenizer: Tokenizer, labels: Sequence[str]
    ) -> list[Encoded]:
        longest = self.sequence_length - 1  # leaves room for the end token
        pairs = [self.pair(row) for row in rows]
        sides = [
            encode([pair[side] for pair in pairs], tokenizer, longest, framed=False)
            for side in (0, 1)
        ]
        result = []
        for source, target in zip(*sides, strict=True):
            truncated = sum(len(piece.ids) for piece in [*source[1:], *target[1:]])
            result.append(Encoded([{"source": source[0].ids, "target": target[0].ids}], truncated))
        return result


@dataclass(kw_only=True, eq=False)
class Pairs(PairData, TableData):
    """Data of rows with two texts.

    Args:
        path, validation, test: see `TableData`.
        sequence_length: largest number of tokens of each of the two texts, including the end token.
        tokenizer, batch, duplicates, fraction, bucket_steps, workers, pack: see `ExampleData`.
        too_long: `truncate` cuts off the end of a text that is too long; `refuse` raises an error.
        source: column of the first text.
        target: column of the second text.
        quoting: `csv` if quotation marks can enclose a cell, `none` if they are regular characters;
            None detects this in TSV files, and means `csv` for CSV files.
    """

    distinct_columns: ClassVar[bool] = False  # a model can be trained to repeat a text

    source: str = "source"
    target: str = "target"
    quoting: Literal["csv", "none"] | None = None

    def columns(self) -> dict[str, str | None]:
        return {"source": self.source, "target": self.target}

    def pair(self, row: Row) -> tuple[str, str]:
        return read_text(row, self.source), read_text(row, self.target)

    @property
    def text_column(self) -> str:
        return self.source

    def row_of(self, source: str, target: str) -> Row:
        return Row("", {self.source: source, self.target: target})


@dataclass(kw_only=True, eq=False)
class Catalogs(PairData):
    """Data of text pairs from gettext catalogs: messages of packages and their translations.

    The source text is a message of the package, the target text its translation in a `.mo` file.
    The messages are sorted and then divided into splits as in `TableData`.

    Args:
        packages: import names of installed packages; their code is not executed.
        locale: locale of the translations, such as `zh_CN` or `zh_Hans`; or a list of locales, all
            of whose catalogs are read.
        validation: fraction of the messages for validation.
        test: fraction of the messages for testing.
        sequence_length, too_long: see `Pairs`.
        tokenizer, batch, duplicates, fraction, bucket_steps, workers, pack: see `ExampleData`.
    """

    packages: list[str]
    locale: str | list[str]
    validation: float = 0.05
    test: float = 0.05
    duplicates: Literal["warn", "drop", "refuse"] = "drop"

    def validate(self, checks: Checks) -> None:
        checks.that(bool(self.packages), "packages", self.packages, "at least one package")
        checks.that(bool(self.locales), "locale", self.locale, "a locale such as zh_CN")
        for key, part in (("validation", self.validation), ("test", self.test)):
            checks.that(0 < part < 0.5, key, part, "a fraction between 0 and 0.5")
        super().validate(checks)

    @property
    def locales(self) -> list[str]:
        """The locales whose translation catalogs are searched, in order."""
        return [self.locale] if isinstance(self.locale, str) else list(self.locale)

    @cached_property
    def files(self) -> list[Path]:
        """All translation catalogs (`.mo` files) of the locales, in the order of `packages`.

        The catalogs of each package are sorted by path.

        Raises:
            RequestError: a package is not installed, or has no catalog for the locale.
        """
        catalogs: list[Path] = []
        problems: list[Problem] = []
        for name in self.packages:
            spec = importlib.util.find_spec(name) if name.isidentifier() else None
            package_folders = list(spec.submodule_search_locations or []) if spec else []
            files = [
                file
                for folder in package_folders
                for locale in self.locales
                for file in Path(folder).rglob(f"{locale}/LC_MESSAGES/*.mo")
            ]
            if not package_folders:
                problems.append(Problem("data.packages", "an installed package", name))
            elif not files:
                where = ", ".join(self.locales)
                expected = "a package with gettext catalogs (.mo) for data.locale"
                hint = f"no catalogs for {where}"
                problems.append(Problem("data.packages", expected, name, hint))
            catalogs += sorted(files)
        if problems:
            raise RequestError(problems)
        return catalogs

    @cached_property
    def messages(self) -> list[tuple[str, str]]:
        """Pairs of each message of the packages and its translation, sorted by message.

        If a message has several translations, the first one in the order of `files` is used.
        Messages that are empty or equal to their translation are skipped.
        """
        translations: dict[str, str] = {}
        for file in self.files:
            try:
                with file.open("rb") as stream:
                    catalog: dict[Any, str] = vars(gettext.GNUTranslations(stream))["_catalog"]
            except (OSError, UnicodeDecodeError, KeyError) as error:
                problem = Problem(str(file), "a gettext catalog", hint=str(error))
                raise RequestError(problem) from error
            for key, translation in catalog.items():
                message = key[0] if isinstance(key, tuple) else key  # the singular of a plural
                message = message.rpartition("\x04")[2]  # without its context
                if message.strip() and translation.strip() and message != translation:
                    translations.setdefault(message.strip(), translation.strip())
        return sorted(translations.items())

    def rows(self, split: Split) -> Iterator[Row]:
        messages = enumerate(self.messages)
        for count, pair in select_split(messages, split, self.validation, self.test):
            yield Row(f"message {count}", dict(zip(self.fields, pair, strict=True)))

    def pair(self, row: Row) -> tuple[str, str]:
        return row.values["source"], row.values["target"]

    def check(self) -> None:
        if not self.messages:
            expected = "packages whose gettext catalogs (.mo) contain translations for data.locale"
            raise RequestError(Problem("data.packages", expected, self.packages))

    def content_fingerprint(self) -> str:
        return hashlib.sha256(repr(self.messages).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        return {"validation": self.validation, "test": self.test}
