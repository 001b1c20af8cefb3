"""The Chinese pages show the same commands, code, files and figures as the English ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_blocks import blocks_of

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [("README.md", "README.zh.md"), ("docs/tour.md", "docs/zh/tour.md")]


def code_of(page: Path) -> list[tuple[str, str | None, list[str]]]:
    """Language, file and lines of each block, without comments and the words of listings."""
    blocks = []
    for block in blocks_of(page):
        lines = [re.split(r"\s+#\s", line)[0].rstrip() for line in block.code.splitlines()]
        if block.language == "text" and block.file is None and not block.follows:
            lines = [line.split("  ")[0] if line[:2] != "  " else line.split()[0] for line in lines]
        blocks.append((block.language, block.file, lines))
    return blocks


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_the_same_code(english: str, chinese: str) -> None:
    assert code_of(ROOT / chinese) == code_of(ROOT / english)


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_the_same_sections_figures_and_numbers(english: str, chinese: str) -> None:
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in (english, chinese)]
    headings, figures, quoted = (
        [re.findall(pattern, text, re.MULTILINE) for text in texts]
        for pattern in (r"^#+", r"!\[.*?\]\((?:\.\./)?(.*?)\)", r"`[^`\n]+`")
    )
    assert headings[0] == headings[1]
    assert figures[0] == figures[1]
    assert sorted(set(quoted[0])) == sorted(set(quoted[1]))
