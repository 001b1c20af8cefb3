"""Tagging schemes. In four schemes, tags mark spans of words; in the scheme `plain`, each tag is a
label of one word.

| scheme | a span of type X | prefixes |
| --- | --- | --- |
| `iob1` | `I-X I-X`; `B-X I-X` only right after another span of type X | `B`, `I`, `O` |
| `iob2` | `B-X I-X` | `B`, `I`, `O` |
| `iobes` | `B-X I-X E-X`, or `S-X` alone | `B`, `I`, `E`, `S`, `O` |
| `bilou` | `B-X I-X L-X`, or `U-X` alone | `B`, `I`, `L`, `U`, `O` |
| `plain` | none: each tag is a label of its word | any |

Sources: Tjong Kim Sang and Veenstra 1999 (cs.CL/9907006) for `iob1` and `iob2`, Ratinov and Roth
2009 for `iobes` and `bilou`. The tags of any span are valid in at most one scheme.
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

Mark = tuple[str, str]  # prefix of a tag and type of its span


def parse_tag(tag: str) -> Mark | None:
    """Splits a tag such as `B-PER` into its prefix and the type of its span.

    The result is a pair such as `("B", "PER")`. Returns `OUTSIDE`, which is
    `("O", "")`, for the tag `O`, and None for another tag that has no span prefix (`B-`, `I-`,
    ...).
    """
    if tag == "O":
        return OUTSIDE
    match = SPAN_TAG.fullmatch(tag)
    return None if match is None else (match[1], match[2])


def can_follow(scheme: str, before: Mark, after: Mark) -> bool:
    """Returns whether the tag `after` may directly follow the tag `before` in a scheme.

    `OUTSIDE` also represents the start and the end of a sentence. The result is false if the scheme
    does not have the prefix of `after`.

    Args:
        scheme: any scheme except `plain`.
        before, after: the tags, as pairs that `parse_tag` returns.
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
    """Inspection of tags: detects their scheme from all sentences.

    All files must have the same scheme; otherwise `notes` raises an error, unless `stated` is set.

    Args:
        stated: scheme set in the config; if None, the scheme is detected.
        layout: lines that describe the columns of the files; `notes` returns them first.
    """

    def __init__(self, stated: Scheme | None = None, layout: Sequence[str] = ()) -> None:
        self.stated, self.layout = stated, layout
        self.against: dict[str, dict[str, str]] = {}
        """For each file and scheme, the first tag that violates the scheme, with its position."""
        self.sentences = 0  # number of sentences that violate the configured scheme

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
                hint = f"the tags are {shown}; to detect the scheme, set data.scheme=null"
                expected = "a scheme for spans such as iob2, because all tags mark spans"
                raise RequestError(Problem("data.scheme", expected, "plain", hint))
            return [*self.layout, f"each tag is a label of one word, not of a span: {shown}"]
        if other:
            expected = (
                "only tags that mark spans (B-PER, I-PER, O, ...), or an explicit data.scheme"
            )
            hint = f"{other[0]} has no span prefix such as B- or I-"
            if marked:
                hint = f"{marked[0]} has a span prefix such as B- or I-, {other[0]} has none"
            hint += "; data.scheme=plain treats each tag as a label of one word"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        return [*self.layout, f"tags mark spans ({self._detect_scheme(marked)}): {shown}"]

    def _detect_scheme(self, marked: Sequence[str]) -> str:
        if self.stated is not None:
            if not self.sentences:
                return f"{self.stated}, as configured"
            places = (found.get(self.stated) for found in self.against.values())
            first = next(filter(None, places))
            count = f"{self.sentences:,} sentences violate this scheme, first: {first}"
            return f"{self.stated}, as configured; {count}"
        marks = {name[0] for name in marked}
        matching = [scheme for scheme, known in MARKS.items() if marks <= set(known)]
        if not matching:
            prefixes = ", ".join(sorted(marks))
            expected = f"tags of one scheme, but no scheme has all of the prefixes {prefixes}"
            hint = "to ignore the difference, set data.scheme to the scheme by which the tags are "
            hint += f"read: {', '.join(MARKS)}"
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
            expected = f"tags of the same scheme in all files, not {schemes}"
            hint = "to use one scheme for all files, set data.scheme"
            raise RequestError(Problem("data.tags", expected, hint=hint))
        if invalid := [found for found in self.against.values() if len(found) == len(MARKS)]:
            why = "; ".join(f"{scheme} by {invalid[0][scheme]}" for scheme in matching)
            reason = f"because the tags violate every scheme: {why}"
            return f"read as by the evaluation script of CoNLL-2000, {reason}"
        return " or ".join(common)
