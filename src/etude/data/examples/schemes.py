"""What tags mean: spans in one of four schemes, or plain labels.

| scheme | a span of kind X | tags |
| --- | --- | --- |
| `iob1` | `I-X I-X`; `B-X I-X` only right after another span of that kind | `B`, `I`, `O` |
| `iob2` | `B-X I-X` | `B`, `I`, `O` |
| `iobes` | `B-X I-X E-X`, or `S-X` alone | `B`, `I`, `E`, `S`, `O` |
| `bilou` | `B-X I-X L-X`, or `U-X` alone | `B`, `I`, `L`, `U`, `O` |
| `plain` | none: each tag is a label of its word | any |

Tjong Kim Sang and Veenstra 1999 (cs.CL/9907006) for the first two, Ratinov and Roth 2009 for the
last two. As soon as there is one span, its tags are right in one scheme alone, or in none.
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

Mark = tuple[str, str]  # of a tag: its mark and the kind of span


def parse_tag(tag: str) -> Mark | None:
    """The mark and the kind of a tag that belongs to a span, `OUTSIDE` for `O`, else None."""
    if tag == "O":
        return OUTSIDE
    found = SPAN_TAG.fullmatch(tag)
    return None if found is None else (found[1], found[2])


def can_follow(scheme: str, before: Mark, after: Mark) -> bool:
    """Whether one tag may follow another; a sentence begins and ends outside of all spans."""
    if after[0] not in MARKS[scheme] + "O":
        return False
    same = before[1] == after[1]
    if scheme == "iob1":
        return after[0] != "B" or (before[0] in "BI" and same)
    going_on = before[0] in "BI" and same
    if scheme == "iob2":
        return after[0] != "I" or going_on
    further = "IE" if scheme == "iobes" else "IL"
    if after[0] in further:
        return going_on
    return before[0] not in "BI"


class TagInspection(Inspection):
    """Decides the scheme of the tags from all sentences; all files have the same.

    Args:
        stated: what the config says; None decides.
        layout: a line on where the tags stand in the files, or none.
    """

    def __init__(self, stated: Scheme | None = None, layout: Sequence[str] = ()) -> None:
        self.stated, self.layout = stated, layout
        self.against: dict[str, dict[str, str]] = {}
        """Of each file, of each scheme, the first place that contradicts it."""
        self.sentences = 0  # that contradict what is stated

    def row(self, row: Row) -> None:
        against = self.against.setdefault(row.where.rpartition(",")[0], {})
        marks: list[Mark | None] = [OUTSIDE, *map(parse_tag, row.values["tags"]), OUTSIDE]
        tags = ["the start", *row.values["tags"], "the end"]
        for scheme in MARKS:
            if scheme in against and scheme != self.stated:
                continue
            for place, (before, after) in enumerate(pairwise(marks)):
                if before is None or after is None or not can_follow(scheme, before, after):
                    against.setdefault(
                        scheme, f"{tags[place + 1]} after {tags[place]}, {row.where}"
                    )
                    self.sentences += scheme == self.stated
                    break

    def notes(self, labels: Sequence[str]) -> list[str]:
        marked = [name for name in labels if parse_tag(name) not in (None, OUTSIDE)]
        other = [name for name in labels if parse_tag(name) is None]
        shown = ", ".join(labels[:8])
        if self.stated == "plain" or (self.stated is None and not marked):
            if marked and not other:
                hint = f"the tags are {shown}; null decides"
                raise RequestError(Problem("data.scheme", "a scheme of spans", "plain", hint))
            return [*self.layout, f"tags are plain labels: {shown}"]
        if other:
            expected = "data.scheme to be stated: some tags mark spans and others do not"
            hint = f"{marked[0] if marked else 'none'} does, {other[0]} does not; "
            hint += "data.scheme=plain takes all as plain labels"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        return [*self.layout, f"tags mark spans ({self._scheme(marked)}): {shown}"]

    def _scheme(self, marked: Sequence[str]) -> str:
        if self.stated is not None:
            if not self.sentences:
                return f"{self.stated}, as stated"
            places = (found.get(self.stated) for found in self.against.values())
            first = next(filter(None, places))
            return f"{self.stated}, as stated; {self.sentences:,} sentences contradict it: {first}"
        marks = {name[0] for name in marked}
        usual = [scheme for scheme, known in MARKS.items() if marks <= set(known)]
        if not usual:
            expected = (
                f"data.scheme to be stated: no scheme has the marks {', '.join(sorted(marks))}"
            )
            hint = f"choose from: {', '.join(MARKS)}"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        fits = {
            file: [scheme for scheme in MARKS if scheme not in found]
            for file, found in self.against.items()
        }
        left = [scheme for scheme in MARKS if all(scheme in each for each in fits.values() if each)]
        if not left:
            kinds = {each[0]: file for file, each in reversed(fits.items()) if len(each) == 1}
            told = " and ".join(f"{scheme} in {file}" for scheme, file in kinds.items())
            expected = f"tags of one scheme in all files; they are {told}"
            hint = "data.scheme states one for all, if that is meant"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        if wrong := [found for found in self.against.values() if len(found) == len(MARKS)]:
            why = ", ".join(f"not {scheme}: {wrong[0][scheme]}" for scheme in usual)
            return f"read as the script of CoNLL-2000 does, for they break every scheme: {why}"
        return " or ".join(left)
