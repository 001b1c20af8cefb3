"""A view is saved as a page without references to a network, and shown in a frame in a notebook."""

from __future__ import annotations

import base64
import hashlib
import html as escaping
import math
import re
from pathlib import Path

import pytest
from chromium_page import body_data, dom, needs_chromium, parsed
from view_models import HOSTILE, WORDS, decoder

from etude.errors import RequestError
from etude.views import View, lens_view, token_view
from etude.views.view_page import html_page, rounded


@pytest.fixture
def view() -> View:
    return token_view(decoder(), [4, 5, WORDS.index(HOSTILE)])


class TestSave:
    def test_new_folders_and_suffix(self, view: View, tmp_path: Path) -> None:
        path = view.save(tmp_path / "new" / "folder" / "view")
        assert path == tmp_path / "new" / "folder" / "view.html"
        assert path.read_text(encoding="utf-8") == view.html
        assert view.save(str(path)) == path

    def test_errors(self, view: View, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path, message in [
            (tmp_path, "expected a path of a file .*view.html"),
            (tmp_path / "a.png", r"the suffix .html \(`view.figure\(\).savefig\(path\)`"),
            (tmp_path / "file" / "a.html", "expected a path that can be written"),
        ]:
            with pytest.raises(RequestError, match=message):
                view.save(path)
        with pytest.raises(RequestError, match="path = 5: expected a string or a path"):
            view.save(5)  # type: ignore[arg-type]


class TestPage:
    def test_nothing_is_requested(self, view: View) -> None:
        assert "://" not in view.html
        assert not re.search(r"@import|url\(", view.html)
        assert not any({"src", "href"} & set(attrs) for _, attrs in parsed(view.html).tags)
        tags = [tag for tag, _ in parsed(view.html).tags]
        assert not {"link", "img", "iframe", "base", "form"} & set(tags)

    def test_the_policy_allows_only_its_own_script(self, view: View) -> None:
        script = re.findall(r"<script>(.*?)</script>", view.html, re.DOTALL)
        style = re.findall(r"<style>(.*?)</style>", view.html, re.DOTALL)
        assert len(script) == len(style) == 1
        for name, text in (("script", script[0]), ("style", style[0])):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{name}-src 'sha256-{digest}'" in view.html
        assert "default-src 'none'" in view.html
        assert "unsafe" not in view.html

    def test_all_data_are_ascii_without_markup(self, view: View) -> None:
        data = view.html.partition('id="data">')[2].partition("</script>")[0]
        assert data.isascii()
        assert not set(data) & set("<>&")

    def test_a_title_with_markup(self) -> None:
        page = html_page("<b>&", "tokens.js", {}, note="<i>")
        assert "<h1>&lt;b&gt;&amp;</h1>" in page
        assert ">&lt;i&gt;</p>" in page

    def test_three_significant_digits(self) -> None:
        assert [rounded(x) for x in (0.123456, 1234.5, -1e-9, 0)] == [0.123, 1230, -1e-9, 0]
        assert rounded(math.nan) is rounded(math.inf) is None


class TestNotebook:
    def test_the_page_is_in_a_frame(self, view: View) -> None:
        shown = view._repr_html_()
        ((tag, attributes),) = parsed(shown).tags
        assert tag == "iframe"
        assert attributes["srcdoc"] == view.html
        assert attributes["sandbox"] == "allow-scripts allow-modals"
        assert escaping.escape(view.html) in shown

    def test_repr(self, view: View) -> None:
        assert repr(view).startswith("View: Loss of each token, 3 tokens; .save(path) writes")

    @needs_chromium
    @pytest.mark.slow
    def test_the_script_runs_in_the_frame_and_cannot_reach_the_notebook(
        self, view: View, tmp_path: Path
    ) -> None:
        attack = (
            "try { parent.document.title = 'ran' } catch (error) { parent.postMessage('ok', '*') }"
        )
        hostile = view._repr_html_().replace(
            'srcdoc="', f'srcdoc="{escaping.escape(f"<script>{attack}</script>")}', 1
        )
        listen = "onmessage = (event) => document.body.append('blocked: ' + event.data);"
        page = f"<!doctype html><title>book</title><body><script>{listen}</script>{hostile}</body>"
        drawn = dom(page, tmp_path)
        assert "<title>book</title>" in drawn
        assert "blocked: ok" in drawn


@needs_chromium
@pytest.mark.slow
def test_a_saved_page_draws(tmp_path: Path) -> None:
    path = lens_view(decoder(), [4, 5, 6]).save(tmp_path / "lens")
    assert body_data(dom(path.read_text(encoding="utf-8"), tmp_path))["cells"] == "9"
