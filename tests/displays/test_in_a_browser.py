"""All displays in Chromium: they are shown, run nothing, request nothing, and change no style."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from html_reader import HOSTILE

import etude
from etude import Run, Runs
from etude.analysis.step_batch import StepBatch
from etude.interpret import attention_entropy, score_table

PROBE = """<script>
document.body.insertAdjacentHTML('beforeend', '<details id=own><summary>s</summary></details>')
const seen = []
for (const each of document.querySelectorAll('.etude-display')) {
  const box = each.getBoundingClientRect(), style = getComputedStyle(each)
  const heat = each.querySelector('.etude-heat td')
  seen.push({
    height: box.height, right: box.right, colour: style.color, text: each.innerText,
    badge: [...each.querySelectorAll('.etude-badge')].map(b => getComputedStyle(b).color),
    foreign: each.querySelectorAll('script, img[onerror], img[src=x], iframe').length,
    curve: [...each.querySelectorAll('svg polyline')].map(l => getComputedStyle(l).stroke),
    heat: heat && getComputedStyle(heat).backgroundColor,
    open: each.querySelectorAll('details[open]').length,
  })
}
const page = {
  seen, alerted: window.alerted || false,
  resources: performance.getEntriesByType('resource').length,
  cell: getComputedStyle(document.getElementById('cell')).padding,
  summary: getComputedStyle(document.querySelector('#own summary')).padding,
}
document.body.innerHTML = ''
document.body.textContent = 'RESULT' + JSON.stringify(page) + 'END'
</script>"""


def look(page: str, folder: Path) -> dict[str, Any]:
    """Returns what the script `PROBE` has read in Chromium."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,900", "--dump-dom"]
    words += [f"--user-data-dir={folder}/profile", f"file://{folder}/page.html"]
    done = subprocess.run(["chromium", *words], capture_output=True, text=True, timeout=120)
    text = done.stdout.partition("RESULT")[2].partition("END")[0]
    result: dict[str, Any] = json.loads(html.unescape(text))
    return result


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("ground", "text"), [("#fff", "rgb(17, 17, 17)"), ("#111", "rgb(220, 220, 220)")]
)
def test_displays_in_a_light_and_a_dark_page(
    trained: Run, tmp_path: Path, ground: str, text: str
) -> None:
    model, runs = trained.model(), Runs([trained])
    config = etude.compose("experiment=debug", "seed=7")
    config.run.notes = HOSTILE.replace("alert(1)", "window.alerted = true")
    hostile = StepBatch(
        {"tokens": trained.batch(1)["tokens"], "labels": trained.batch(1)["tokens"][:, 0] * 0},
        tokenizer=trained.tokenizer(),
        labels=["<img src=x onerror='window.alerted = true'>"],
    )
    ids = [trained.tokenizer().encode("the lazy dogs")[:8]]
    displays: list[Any] = [
        trained, runs, Runs([]), config, trained.config, model, trained.batch(1), hostile,
        score_table(attention_entropy(model, ids)), runs.group(), runs.compare(),
    ]  # fmt: skip
    body = "".join(each._repr_html_() for each in displays)
    style = f"background:{ground};color:{text};margin:8px"
    own = '<table><tr><td id="cell">own</td></tr></table>'
    page = look(
        f'<!doctype html><meta charset="utf-8"><body style="{style}">{own}{body}{PROBE}', tmp_path
    )
    assert len(page["seen"]) == len(displays)
    assert page["alerted"] is False
    assert page["resources"] == 0
    assert (page["cell"], page["summary"]) == ("1px", "0px")  # the page's own elements are unstyled
    for each in page["seen"]:
        assert each["height"] > 10
        assert each["right"] <= 892  # wider tables scroll inside of the display
        assert each["colour"] == text
        assert each["foreign"] == 0
    run, table, empty, composed, _, tree, batch, labelled, scores, *_ = page["seen"]
    assert run["badge"] == table["badge"] == ["rgb(255, 255, 255)"]
    assert run["curve"][1] == "rgb(58, 135, 200)"
    assert empty["text"].strip() == "no runs"
    assert "default 0" in composed["text"]
    assert "<script>window.alerted = true</script>" in composed["text"]  # shown as text
    assert "MultiHeadAttention" not in tree["text"]  # inside of a closed node
    assert "example 4" in batch["text"]
    assert "<img src=x onerror" in labelled["text"]
    assert scores["heat"].startswith("rgba(0, 114, 178, ")
