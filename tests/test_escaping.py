"""Untrusted texts are shown literally in terminals, Markdown, CSV, LaTeX and figures."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from etude.analysis.exports import latex as table
from etude.analysis.run_groups import Group, Groups
from etude.console import SafeStream, guarded, raw_stdout, rich_console, start_live
from etude.escaping import csv_cell, figure_label, latex, markdown, markdown_code, printable
from etude.records.text_tables import csv_text, markdown_table

ANY = st.text(st.characters(), max_size=30)
PLAIN = "naïve 日本語 ‏"[:-1] + "שלום می‌خواهم 👩‍👩‍👧 🩷 e\u0301\u00a0x\n\ty"


@given(ANY)
def test_what_a_terminal_gets_has_no_control_character(text: str) -> None:
    shown = printable(text)
    odd = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert set(odd) <= {"\n", "\t", "\u200c", "\u200d"}
    assert not set(printable(text, line=True)) & {"\n", "\t"}
    assert printable(shown) == shown
    shown.encode()


def test_every_character_that_terminals_obey() -> None:
    obeyed = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u200b", "\ufeff", "\udc80"]
    obeyed += [*map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2066, 0x2070)), "\u200f", "\xad"]
    for character in obeyed:
        if character not in "\n\t":
            assert printable(f"a{character}b").isascii(), hex(ord(character))


def test_what_people_write_stays() -> None:
    assert printable(PLAIN) == PLAIN


def test_json_stays_json() -> None:
    value = {"a": "\x7f\x9b\u202e\x1b\U000e0041"}
    shown = printable(json.dumps(value, ensure_ascii=False)).replace("\\x7f", "\\u007f")
    found = json.loads(shown.replace("\\U000e0041", "\U000e0041"))
    assert found == value


HTML = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@given(st.text("ab _*`[]()<>!|~&;#$\\-+1.:/'\"\n\x1b", max_size=20))
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    plain = printable(" ".join(text.split()))
    tokens = HTML.parseInline(markdown(text))[0].children or []
    assert {token.type for token in tokens} <= {"text", "text_special"}
    assert "".join(token.content for token in tokens) == plain
    (code,) = HTML.parseInline("x" + markdown_code(text) + "x")[0].children[1:-1]
    assert (code.type, code.content.strip()) == ("code_inline", plain.strip() if plain else "")


def test_a_cell_stays_a_cell() -> None:
    shown = HTML.render(markdown_table(["a", "b"], [[markdown("x|y\\|<b>\nz"), "2"]]))
    assert shown.count("<td>") == 2
    assert "<td>x|y\\|&lt;b&gt; z</td>" in shown
    assert markdown("val/bits_per_byte") == "val/bits_per_byte"


@pytest.mark.parametrize("text", ["=cmd|'/c calc'!A1", "+1+1", "-x", "@SUM(1)", "\t=1", "  =1"])
def test_no_formula_in_a_csv_file(text: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_text(["k"], [[text]]).partition("\n")[2]))
    assert row == [f"'{text}"]


@pytest.mark.parametrize("value", ["-1e-3", "+2", "-inf", -1.5, None, "lr=-1", "", "a-b"])
def test_what_is_no_formula_stays(value: Any) -> None:
    assert csv_cell(value) == value


def test_latex_carries_out_nothing() -> None:
    assert latex("\\input{/etc/passwd}\n\n%$x_1$") == (
        r"\textbackslash{}input\{/etc/passwd\} \%\$x\_1\$"
    )
    rows = table(["k"], [["[1em] x"], ["*"]]).splitlines()[4:6]
    assert rows == [r"{}[1em] x \\", r"{}* \\"]


@pytest.mark.parametrize("text", ["$", "$x_1$ and $", "\\$", r"$\frac$", "_hidden", "\x1b[0m"])
def test_a_figure_shows_a_label_as_it_is(text: str, tmp_path: Path) -> None:
    """Unbalanced `$` raise in matplotlib, and legends omit labels that start with `_`."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label=figure_label(text))
    axes.set_title(figure_label(text))
    legend = axes.legend()
    assert len(legend.get_texts()) == 1
    assert axes.title._preprocess_math(axes.title.get_text())[0].strip() == printable(text)
    figure.savefig(tmp_path / "x.svg")


class Terminal(io.StringIO):
    """A stream that reports to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_of_other_libraries_keep_their_line() -> None:
    from tqdm import tqdm

    screen = Terminal()
    for _ in tqdm(range(2), file=SafeStream(screen, errors=True), desc="a\x1b[31mb", mininterval=0):
        pass
    written = screen.getvalue()
    assert written.count("\r") >= 2
    assert "a\\x1b[31mb: 100%" in written
    assert "\x1b[31m" not in written


@pytest.mark.parametrize("errors", [False, True])
def test_in_a_pipe(errors: bool) -> None:
    pipe = io.StringIO()
    SafeStream(pipe, errors=errors).write("\rx\x1b[A")
    assert pipe.getvalue() == ("\\rx\\x1b[A" if errors else "\rx\x1b[A")


def test_rich_draws_and_the_texts_between_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.live import Live
    from rich.text import Text

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    with guarded():
        live = Live(Text("bar \x1b[5m \x9b", style="red"), console=rich_console(), transient=True)
        start_live(live)
        print("printed \x1b[35;5m \x1b]8;;http://x\x1b\\link", file=raw_stdout())
        live.stop()
    written = screen.getvalue()
    assert "\x1b[31m" in written  # ours
    assert "bar \\x1b[5m \\u009b" in written
    assert "printed \\x1b[35;5m \\x1b]8;;http://x\\x1b\\link" in written
    assert not {"\x1b[35;5m", "\x1b[5m", "\x1b]", "\x9b"} & {
        part for part in ("\x1b[35;5m", "\x1b[5m", "\x1b]", "\x9b") if part in written
    }


def test_a_notebook_shows_names_as_they_are() -> None:
    groups = object.__new__(Groups)
    groups.metric = "<script>x</script>"
    groups.groups = [Group({"<b>key": "<i>value"}, [], [1.0, 2.0])]
    shown = groups._repr_html_()
    assert not [tag for tag in ("<script", "<b>", "<i>") if tag in shown]
    assert "&lt;script&gt;x" in shown
