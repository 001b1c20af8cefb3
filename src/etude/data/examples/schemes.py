"""Schemes of tags: spans in one of four schemes, or plain labels.

| scheme | a span of kind X | tags |
| --- | --- | --- |
| `iob1` | `I-X I-X`; `B-X I-X` only right after another span of that kind | `B`, `I`, `O` |
| `iob2` | `B-X I-X` | `B`, `I`, `O` |
| `iobes` | `B-X I-X E-X`, or `S-X` alone | `B`, `I`, `E`, `S`, `O` |
| `bilou` | `B-X I-X L-X`, or `U-X` alone | `B`, `I`, `L`, `U`, `O` |
| `plain` | none: each tag is a label of its word | any |

Tjong Kim Sang and Veenstra 1999 (cs.CL/9907006) for the first two, Ratinov and Roth 2009 for the
last two. The tags of any span are valid in at most one scheme.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from etude.data.examples.source import Inspection, Row
from etude.errors import Problem, RequestError

Scheme = Literal["iob1", "iob2", "iobes", "bilou", "plain"]

MARKS = {"iob1": "BI", "iob2": "BI", "iobes": "BIES", "bilou": "BILU"}
SPAN_TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
OUTSIDE = ("O", "")

Mark = tuple[str, str]  # prefix of a tag and kind of its span


def parse_tag(tag: str) -> Mark | None:
    """Returns the prefix and span kind of a tag, `OUTSIDE` for `O`, or None for other tags."""
    if tag == "O":
        return OUTSIDE
    match = SPAN_TAG.fullmatch(tag)
    return None if match is None else (match[1], match[2])


def can_follow(scheme: str, before: Mark, after: Mark) -> bool:
    """Returns whether one tag may follow another in a scheme. `OUTSIDE` represents the start and
    the end of a sentence.
    """
    if after[0] not in MARKS[scheme] + "O":
        return False
    same = before[1] == after[1]
    if scheme == "iob1":
        return after[0] != "B" or (before[0] in "BI" and same)
    continues = before[0] in "BI" and same
    if scheme == "iob2":
        return after[0] != "I" or continues
    continuing = "IE" if scheme == "iobes" else "IL"
    if after[0] in continuing:
        return continues
    return before[0] not in "BI"


class TagInspection(Inspection):
    """Detects the scheme of the tags from all sentences. All files must have the same scheme.

    Args:
        stated: scheme in the config; None detects it.
        layout: lines that describe the columns of the files, if any.
    """

    def __init__(self, stated: Scheme | None = None, layout: Sequence[str] = ()) -> None:
        self.stated, self.layout = stated, layout
        self.against: dict[str, dict[str, str]] = {}
        """By file and scheme, the first position that violates the scheme."""
        self.sentences = 0  # that violate the configured scheme

    def row(self, row: Row) -> None:
        against = self.against.setdefault(row.where.rpartition(",")[0], {})
        marks: list[Mark | None] = [OUTSIDE, *map(parse_tag, row.values["tags"]), OUTSIDE]
        tags = ["the start", *row.values["tags"], "the end"]
        for scheme in MARKS:
            if scheme in against and scheme != self.stated:
                continue
            for index, (before, after) in enumerate(pairwise(marks)):
                if before is None or after is None or not can_follow(scheme, before, after):
                    against.setdefault(
                        scheme, f"{tags[index + 1]} after {tags[index]}, {row.where}"
                    )
                    self.sentences += scheme == self.stated
                    break

    def notes(self, labels: Sequence[str]) -> list[str]:
        marked = [name for name in labels if parse_tag(name) not in (None, OUTSIDE)]
        other = [name for name in labels if parse_tag(name) is None]
        shown = ", ".join(labels[:8])
        if self.stated == "plain" or (self.stated is None and not marked):
            if marked and not other:
                hint = f"the tags are {shown}; set data.scheme=null to detect it"
                raise RequestError(Problem("data.scheme", "a span scheme", "plain", hint))
            return [*self.layout, f"tags are plain labels: {shown}"]
        if other:
            expected = "tags that all mark spans, or an explicit data.scheme"
            hint = f"{marked[0] if marked else 'no tag'} marks a span, {other[0]} does not; "
            hint += "data.scheme=plain treats all as plain labels"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        return [*self.layout, f"tags mark spans ({self._detect_scheme(marked)}): {shown}"]

    def _detect_scheme(self, marked: Sequence[str]) -> str:
        if self.stated is not None:
            if not self.sentences:
                return f"{self.stated}, as configured"
            places = (found.get(self.stated) for found in self.against.values())
            first = next(filter(None, places))
            count = f"{self.sentences:,} sentences violate it, first: {first}"
            return f"{self.stated}, as configured; {count}"
        marks = {name[0] for name in marked}
        matching = [scheme for scheme, known in MARKS.items() if marks <= set(known)]
        if not matching:
            prefixes = ", ".join(sorted(marks))
            expected = f"an explicit data.scheme: no scheme has the prefixes {prefixes}"
            hint = f"choose from: {', '.join(MARKS)}"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        valid = {
            file: [scheme for scheme in MARKS if scheme not in found]
            for file, found in self.against.items()
        }
        common = [
            scheme for scheme in MARKS if all(scheme in each for each in valid.values() if each)
        ]
        if not common:
            kinds = {each[0]: file for file, each in reversed(valid.items()) if len(each) == 1}
            schemes = " and ".join(f"{scheme} in {file}" for scheme, file in kinds.items())
            expected = f"tags of one scheme in all files; they are {schemes}"
            hint = "set data.scheme to use one scheme for all files"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        if invalid := [found for found in self.against.values() if len(found) == len(MARKS)]:
            why = ", ".join(f"not {scheme}: {invalid[0][scheme]}" for scheme in matching)
            return f"read like the CoNLL-2000 script, because they violate every scheme: {why}"
        return " or ".join(common)
