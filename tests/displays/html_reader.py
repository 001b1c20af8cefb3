"""Reader of HTML fragments, independent of the code that writes them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

VOID = ("img", "br", "meta")


class Parsed(HTMLParser):
    """The elements of a fragment: their tags, attributes and texts.

    Attributes:
        elements: a dict for each element, in order: `tag`, `attributes`, and `text`, which is that
            of all elements inside of it.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"unclosed: {[each['tag'] for each in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "attributes": dict(attrs), "text": ""})
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for each in self._open:
            each["text"] += data

    def texts(self, tag: str, class_: str = "") -> list[str]:
        """Returns the text of each element with a tag and, if it is given, a class."""
        return [
            each["text"]
            for each in self.elements
            if each["tag"] == tag
            and (not class_ or class_ in (each["attributes"].get("class") or "").split())
        ]

    @property
    def tags(self) -> set[str]:
        """The tags that occur."""
        return {each["tag"] for each in self.elements}

    @property
    def text(self) -> str:
        """All text except for the style."""
        return "".join(each["text"].split("}\n")[-1] for each in self.elements[:1])

    def rows(self) -> list[list[str]]:
        """Returns the texts of the cells of each table row."""
        rows: list[list[str]] = []
        for each in self.elements:
            if each["tag"] == "tr":
                rows.append([])
            elif each["tag"] in ("td", "th"):
                rows[-1].append(each["text"])
        return rows


HOSTILE = "<script>alert(1)</script><img src=x onerror='a()'>\"'&amp;\u202e\x1b[31m"


def check_hostile(html: str) -> None:
    """Checks that a display shows `HOSTILE` as text and that it is no markup."""
    parsed = Parsed(html)
    assert not parsed.tags & {"script", "img", "iframe", "link", "object"}
    assert not any(name.startswith("on") for e in parsed.elements for name in e["attributes"])
    assert "<script>alert(1)</script><img src=x onerror='a()'>\"'&amp;" in parsed.text
    assert not set("\u202e\x1b") & set(html)
