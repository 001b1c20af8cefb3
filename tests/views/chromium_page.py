"""Chromium without network: the DOM of a page after its script ran, and a screenshot."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed"
)
_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,900",
    "--force-device-scale-factor=1", "--virtual-time-budget=2000",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
]  # fmt: skip


def dom(html: str, folder: Path, script: str = "") -> str:
    """Returns the DOM after the page's script, and then `script`, ran."""
    return _run(html, folder, "--dump-dom", script=script)


def screenshot(html: str, folder: Path) -> np.ndarray:
    """Returns the pixels of the page, (height, width, 3)."""
    file = folder / "page.png"
    _run(html, folder, f"--screenshot={file}")
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def _run(html: str, folder: Path, mode: str, *, script: str = "") -> str:
    if script:  # the page's policy would block it
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html, count=1)
        html = html.replace("</body>", f"<script>{script}</script></body>")
    (folder / "page.html").write_text(html, encoding="utf-8")
    words = ["chromium", *_OPTIONS, f"--user-data-dir={folder}/profile", mode]
    words += [f"file://{folder}/page.html"]
    return subprocess.run(words, capture_output=True, text=True, timeout=120).stdout


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(text: str) -> _Reader:
    """Returns the tags with their attributes, and the texts, of a page."""
    reader = _Reader()
    reader.feed(text)
    return reader


def body_data(text: str) -> dict[str, str]:
    """Returns the data attributes of the body."""
    attributes = next(attrs for tag, attrs in parsed(text).tags if tag == "body")
    return {key.removeprefix("data-"): value or "" for key, value in attributes.items()}
