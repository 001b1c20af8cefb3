"""Tables on terminals and in pipes."""

from __future__ import annotations

import re
from unicodedata import east_asian_width

import pytest

from etude.records.text_tables import format_metric, metric_grid, print_columns

COLUMNS = ("run", "status", "best", "label")
ROWS = [
    ("nano/aaaa00000000", "finished", "1.5 loss", "data=垃圾邮件分类训练集 lr=0.1"),
    ("中文/bbbb00000000", "failed", "", "data=短"),
    ("nano/cccc00000000", "running", "2.5 loss", "seed=1"),
    ("nano/dddd00000000", "interrupted", "2.5 loss", "seed=2"),
]


def show_on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, *, no_color: str = "") -> None:
    """Makes standard output a terminal."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", no_color)


def cells(text: str) -> int:
    """Returns the width of a text in a terminal: East Asian wide characters are two cells."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)


def positions(text: str, words: tuple[str, ...]) -> list[int]:
    return [cells(text[: text.index(word)]) for word in words]


def test_statuses_have_colours_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_on_terminal(monkeypatch, 60)
    print_columns(COLUMNS, ROWS)
    coloured = capsys.readouterr().out
    colours = dict(re.findall(r"\x1b\[(3\d)m(\w+) *\x1b\[0m", coloured))
    assert colours == {"32": "finished", "31": "failed", "33": "running"}
    assert len(re.findall(r"\x1b\[1m", coloured)) == len(COLUMNS)
    show_on_terminal(monkeypatch, 60, no_color="1")
    print_columns(COLUMNS, ROWS)
    plain = capsys.readouterr().out
    without = re.sub(r"\x1b\[\d+m", "", coloured)
    assert plain.splitlines() == [line.rstrip() for line in without.splitlines()]


def test_wide_characters_are_two_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_on_terminal(monkeypatch, 60, no_color="1")
    print_columns(COLUMNS, ROWS)
    head, *lines = capsys.readouterr().out.splitlines()
    assert max(map(cells, lines)) in (59, 60)  # a wide character may not fit in the last cell
    assert lines[0].endswith("…")
    starts = positions(head, ("status", "label"))
    assert positions(lines[0], ("finished", "data")) == starts
    assert positions(lines[1], ("failed", "data")) == starts


def test_a_pipe_gets_everything(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns(COLUMNS, [("n/a", "finished", "1", 300 * "x")])
    assert capsys.readouterr().out.splitlines()[1] == f"n/a  finished  1     {300 * 'x'}"


def test_a_narrow_terminal_keeps_the_start_of_a_signature(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_on_terminal(monkeypatch, 40, no_color="1")
    row = ("shakespeare/0123456789ab", "finished", "1.5 loss", "seed=1")
    print_columns(COLUMNS, [row])
    name, status, *_ = capsys.readouterr().out.splitlines()[1].split()
    assert re.fullmatch(r"sh\w*…/01234567\w*", name)
    assert status == "finished"


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_a_grid_fits_its_width(width: int) -> None:
    metrics = [(f"val/metric_{i}", f"{i}.5000") for i in range(7)]
    lines = metric_grid(metrics, width)
    cell = len("val/metric_0  0.5000")
    fitting = max(1, (width + 4) // (cell + 4))
    assert len(lines) == -(-7 // fitting)
    assert max(map(len, lines)) <= max(width, cell)
    words = " ".join(lines).split()
    assert dict(zip(words[::2], words[1::2], strict=True)) == dict(metrics)


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.0, False, "0.00000"),
        (2.5, False, "2.50000"),
        (2.5, True, "+2.50000"),
        (-0.001, True, "-0.00100"),
        (3.2e-6, True, "+3.2e-06"),
        (-3.2e-6, True, "-3.2e-06"),
        (12345678.0, False, "1.235e+07"),
        (float("nan"), False, "nan"),
        (float("-inf"), True, "-inf"),
    ],
)
def test_small_metrics_are_not_shown_as_zero(value: float, sign: bool, text: str) -> None:
    assert format_metric(value, decimals=5, sign=sign) == text
