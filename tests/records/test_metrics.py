"""Tests of `metrics.jsonl`: complete lines in the order of steps, however the writer ended."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etude.records.metrics_file import MetricsFile, read_frame, read_latest, read_rows

VALUES = st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none())
ROWS = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=6)


def readable(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=ROWS)
def test_rows_come_back_with_null_for_what_json_lacks(tmp_path: Path, rows: list) -> None:
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    file = MetricsFile(path)
    for row in rows:
        file.append(row)
    assert read_rows(path) == [{k: readable(v) for k, v in row.items()} for row in rows]


def test_each_line_is_json_for_any_reader(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path).append({"step": 1, "train/loss": math.nan, "time": math.inf})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "step": 1,
        "train/loss": None,
        "time": None,
    }


def written(path: Path, steps: range) -> MetricsFile:
    file = MetricsFile(path)
    for step in steps:
        file.append({"step": step, "val/loss": 1 / (step + 1)})
    return file


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(4))
    content = path.read_bytes()
    path.write_bytes(content[: -cut - 1])
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2]


@pytest.mark.parametrize(("step", "left"), [(-1, 0), (0, 1), (2, 3), (3, 4), (99, 4)])
def test_cut_after_keeps_the_step_itself(tmp_path: Path, step: int, left: int) -> None:
    path = tmp_path / "metrics.jsonl"
    file = written(path, range(4))
    before = path.read_text().splitlines()
    file.truncate_after(step)
    assert path.read_text().splitlines() == before[:left]


def test_after_a_cut_the_next_row_stands_on_its_own_line(tmp_path: Path) -> None:
    """Also after a killed process left a partial line."""
    path = tmp_path / "metrics.jsonl"
    file = written(path, range(4))
    with path.open("a") as stream:
        stream.write('{"step": 4, "val/lo')
    file.truncate_after(2)
    file.append({"step": 3})
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2, 3]
    assert len(path.read_text().splitlines()) == 4


def test_no_file_has_no_rows_and_a_cut_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path).truncate_after(5)
    assert read_rows(path) == []
    assert not path.exists()


# -- as a table -------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(), st.none())
TRAINED = st.fixed_dictionaries(
    {"step": st.integers(0, 2**40), "train/loss": st.floats()},
    optional={"val/loss": NUMBERS, "lr": st.floats(0, 1), "note": st.text(max_size=9)},
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(TRAINED, max_size=6) | ROWS, cut=st.integers(0, 30))
def test_the_table_is_that_of_the_rows(tmp_path: Path, rows: list, cut: int) -> None:
    """Both readers give equal columns, types and values, bit for bit, even if truncated."""
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    for row in rows:
        MetricsFile(path).append(row)
    if cut and rows:
        path.write_bytes(path.read_bytes()[:-cut])
    pd.testing.assert_frame_equal(read_frame(path), pd.DataFrame(read_rows(path)), check_exact=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"step": 1}\n{"step": 2}\nnot json\n{"step": 3}\n',
        '{"step": 1}\n\n{"step": 2}\n',
        '{"step": 1}\n7\n{"step": 2}\n',
        '{"step": 1}{"step": 2}\n',
        '{"step": 1, "x": {"y": 2}}\n',
        '{"step": 1, "x": "2026-01-01"}\n{"step": 2, "x": "2026-01-02"}\n',
        '{"step": 1, "x": 1}\n{"step": 2, "x": "one"}\n',
        '{"step": 1, "x": true}\n{"step": 2, "x": null}\n',
        '{"step": 1, "step": 2}\n',
        '{"step": 1}\r\n{"step": 2}\r\n',
        '{"step": 1, "x": NaN}\n',
        '{"step": 1, "x\udcf9": 2}\n{"step": 2}\n',  # not UTF-8
        '{"step": 1, "x": "\udcf9"}\n{"step": 2}\n',
        "",
    ],
)
def test_the_table_of_odd_lines_is_that_of_the_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    pd.testing.assert_frame_equal(read_frame(path), pd.DataFrame(read_rows(path)))


def test_the_latest_values_come_from_the_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_latest(path) == {}
    written(path, range(5000))
    MetricsFile(path).append({"step": 5000, "lr": 0.5})
    with path.open("a") as file:
        file.write('{"step": 50')
    assert read_latest(path) == {"step": 5000, "val/loss": 1 / 5000, "lr": 0.5}


MANY = 5_000_000
READ = """
import sys
from pathlib import Path
from etude.records.metrics_file import iter_rows, read_frame, read_latest
def status(key):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if key in x)
    return int(line.split()[1]) * 1024
file = Path(sys.argv[1])
last = read_latest(file)
before = status("VmRSS")
count = sum(1 for _ in iter_rows(file))
streamed = status("VmHWM") - before
frame = read_frame(file)
print(count, last["train/loss"], streamed, len(frame), frame["train/loss"].sum(), status("VmHWM"))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_five_million_rows(tmp_path: Path) -> None:
    """Rows are streamed in constant memory, and become a table within 3 GB."""
    file = tmp_path / "metrics.jsonl"
    with file.open("w") as stream:
        for step in range(1, MANY + 1):
            stream.write(f'{{"step": {step}, "time": {step / 8}, "train/loss": {1 / step!r}}}\n')
    command = [sys.executable, "-c", READ, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, last, streamed, rows, total, peak = done.stdout.split()
    assert (int(count), float(last), int(rows)) == (MANY, 1 / MANY, MANY)
    harmonic = math.log(MANY) + 0.5772156649015329 + 1 / (2 * MANY)
    assert float(total) == pytest.approx(harmonic, rel=1e-9)
    assert int(streamed) < 50e6
    assert int(peak) < 3e9
