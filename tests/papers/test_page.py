"""The HTML page of a report runs no scripts, sends no requests and embeds only its own figures."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from test_arms import paper
from test_report_of_papers import MEASURED, cell

from etude.papers import page
from etude.papers.page import html
from etude.papers.report import markdown

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOSTILE = (
    "<script>document.title='ran'</script> <img src=x onerror=\"document.title='ran'\"> "
    "[a](javascript:document.title='ran') ![b](http://SERVER/b.png) `<b>` ![c](figures/../c.png) | "
    "<iframe src=http://SERVER/frame></iframe> <style>@import 'http://SERVER/s.css'</style> "
    "<meta http-equiv=refresh content='0;url=http://SERVER/moved'> &lt; <http://SERVER/auto>"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A report's folder with a figure, next to a file outside the report."""
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "figures" / "loss.png").write_bytes(PNG)
    (tmp_path / "outside.png").write_bytes(PNG + b"outside")
    return tmp_path / "report"


def embedded(text: str, folder: Path) -> int:
    return html("t", text, folder).count('src="data:image/')


def test_its_own_figures_are_embedded(folder: Path) -> None:
    shown = html("t", "![loss](figures/loss.png)", folder)
    assert f'<img src="data:image/png;base64,{base64.b64encode(PNG).decode()}" alt="loss">' in shown


@pytest.mark.parametrize(
    "source",
    [
        "../outside.png", "figures/../../outside.png", "figures/%2e%2e/../outside.png",
        "figures/linked.png", "linked/loss.png", "figures/pipe.png", "figures/text.png",
        "figures/large.png", "figures/missing.png", "figures", "file:///etc/passwd",
        "http://x/figures/loss.png", "//x/loss.png", "data:image/png;base64,AAAA", "figures/x.svg",
        "/etc/passwd", "",
    ],
)  # fmt: skip
def test_no_other_image_is(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "LARGEST", 1000)
    figures = folder / "figures"
    (figures / "linked.png").symlink_to(folder.parent / "outside.png")
    (folder / "linked").symlink_to(figures)
    os.mkfifo(figures / "pipe.png")
    (figures / "text.png").write_text("secret text")
    (figures / "large.png").write_bytes(PNG + bytes(1000))
    (figures / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>")
    shown = html("t", f"![words](<{source}>)", folder)
    assert "<img" not in shown
    assert "words" in shown


def report(server: str) -> str:
    """Returns a report in which all texts from records are hostile."""
    text = HOSTILE.replace("SERVER", server)
    toy = paper(
        runs={text: [text]}, cells=[cell(published=1, unit=text)], link="https://example.org/x"
    )
    found = {
        "verdict": "match", "protocol": "", "readings": {}, "seeds": [text], "measure": {},
        "overrides": {text: [text]},
        "runs": {text: [{"place": text, "seconds": 1, "parameters": 1}]},
        "measured": MEASURED | {"devices": [text], "commit": text, "time": text, "source": text},
    }  # fmt: skip
    return markdown("toy", toy, found, ["loss.png"])


def test_a_record_brings_neither_markup_nor_links_into_a_report(folder: Path) -> None:
    """Uses a renderer that allows HTML, because other viewers of `report.md` may allow it."""
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    kinds = set()
    for token in renderer.parse(report("x")):
        kinds.add(token.type)
        kinds |= {inner.type for inner in token.children or []}
        for inner in token.children or []:
            if inner.type == "image":
                assert inner.attrs["src"] == "figures/loss.png"
            if inner.type == "link_open":
                assert inner.attrs["href"].startswith("https://example.org")
    assert not kinds & {"html_inline", "html_block"}
    assert "table_open" in kinds
    shown = html("t", report("x"), folder)
    assert "<script" not in shown
    assert embedded(report("x"), folder) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("through", ["the report", "raw HTML in the page"])
def test_in_a_browser_nothing_runs_and_nothing_is_requested(through: str, folder: Path) -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = f"127.0.0.1:{server.server_port}"
        shown = html("claims", report(name), folder)
        open_page = HOSTILE.replace("SERVER", name)
        if through != "the report":  # the policy alone must suffice, except for refresh and frames
            shown = shown.replace("<body>", f"<body>{open_page.partition('<iframe')[0]}")
        told = look(shown, folder)
        assert "<title>claims</title>" in told
        assert asked == []
        look(f"<body>{open_page}", folder)  # without the policy, it sends requests
        server.shutdown()
    assert asked != []


def look(text: str, folder: Path) -> str:
    """Returns the DOM in Chromium after scripts ran."""
    (folder / "report.html").write_text(text, encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    words += [f"--user-data-dir={folder}/profile", "--dump-dom", f"file://{folder}/report.html"]
    done = subprocess.run(["chromium", *words], capture_output=True, text=True, timeout=120)
    return done.stdout
