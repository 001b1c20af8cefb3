"""Texts of a test's own, prepared without a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etude.data.splits import Part, Split
from etude.data.store import Store
from etude.data.text import Batch, TextData
from etude.data.tokenizer import Recipe


class Given(TextData):
    """Parts as they are given; no split is too small."""

    def __init__(
        self, recipe: Recipe, parts: Mapping[str, Part], content: str, settings: dict[str, Any]
    ) -> None:
        super().__init__(tokenizer=recipe, sequence_length=1, batch=Batch(examples=1))
        self.given_parts, self.content, self.decided = parts, content, settings

    def documents(self, split: Split) -> Iterator[str]:
        raise NotImplementedError

    def parts(self) -> dict[str, Part]:
        return dict(self.given_parts)

    def content_fingerprint(self) -> str:
        return self.content

    def split_settings(self) -> dict[str, object]:
        return self.decided

    def check(self) -> None:
        pass

    def opened(self, store: Store) -> None:
        pass

    def _code(self) -> dict[str, Any]:
        return {}  # as of a class of the package: this file may change


def prepare_text(
    cache: Path, *, parts: Mapping[str, Part], content: str, settings: dict[str, Any],
    recipe: Recipe,
) -> Store:  # fmt: skip
    return Given(recipe, parts, content, settings).prepare(cache)
