"""Tests of comparisons of runs: the numbers behind the figure, and the drawn curves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

import etude
from etude.analysis.comparison import Comparison
from etude.analysis.curves import (
    COLOUR_MAP,
    COLOURS,
    FEW,
    Curve,
    draw_curves,
    shorten,
    to_finite_floats,
)
from etude.errors import RequestError
from etude.records.record import FORMAT, Record


def fabricate(
    root: Path, signature: str, rows: list[dict[str, Any]], name: str = "nano", **changes: Any
) -> Record:
    folder = root / name / signature
    folder.mkdir(parents=True)
    facts = {"format": FORMAT, "name": name, "label": "", "status": "finished"} | changes
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Record.read(folder)


def losses(*values: float | None) -> list[dict[str, Any]]:
    return [
        {"step": i * 10, "tokens": i * 80, "time": i * 60.0, "val/loss": value}
        for i, value in enumerate(values, start=1)
    ]


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    return [
        fabricate(tmp_path, "aaaa00000000", losses(3, 2, 1), label="lr=1", config={"model.dim": 8}),
        fabricate(
            tmp_path, "bbbb00000000", losses(3, None, 2), label="lr=2", config={"model.dim": 9}
        ),
    ]


def lines_of(figure: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def test_the_lines_are_the_rows(records: list[Record]) -> None:
    for x, scale in (("step", 10), ("tokens", 80), ("time", 1)):  # minutes
        lines = lines_of(Comparison(records, x=x).figure())
        assert lines["lr=1"].get_xdata() == pytest.approx([scale, 2 * scale, 3 * scale])
        assert lines["lr=1"].get_ydata() == pytest.approx([3, 2, 1])
        assert lines["lr=2"].get_xdata() == pytest.approx([scale, 3 * scale])  # null is not drawn


def test_the_legend_is_in_the_order_of_the_ends(records: list[Record]) -> None:
    figure = Comparison(records).figure()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["lr=2   2", "lr=1   1"]


def test_tables(records: list[Record]) -> None:
    comparison = Comparison(records)
    assert comparison.config.to_dict() == {"model.dim": {"lr=1": 8, "lr=2": 9}}
    assert comparison.metrics["val/loss"].to_dict() == {"lr=1": 1, "lr=2": 2}
    assert "data:image/png;base64," in comparison._repr_html_()


def test_runs_without_the_metric_are_told(records: list[Record], tmp_path: Path) -> None:
    rows = [{"step": 1, "tokens": 8, "time": 1.0, "train/loss": 4.0}]
    third = fabricate(tmp_path, "cccc00000000", rows, label="new")
    comparison = Comparison([*records, third], metrics=["val/loss", "train/loss"])
    assert comparison.without == {"val/loss": ["new"], "train/loss": ["lr=1", "lr=2"]}
    assert len(comparison.figure().legends[0].get_texts()) == 3
    with pytest.raises(RequestError, match="did you mean val/loss"):
        Comparison(records, metrics=["val/los"])


def test_names_tell_all_runs_apart(tmp_path: Path) -> None:
    rows = losses(1)
    same = [
        fabricate(tmp_path, "aaaa00000000", rows, label="lr=1"),
        fabricate(tmp_path, "bbbb00000000", rows, label="lr=1", name="other"),
    ]
    assert Comparison(same).names == ["nano lr=1", "other lr=1"]
    same.append(fabricate(tmp_path, "cccc00000000", rows, label="lr=1"))
    assert Comparison(same).names == [
        "nano lr=1 aaaa0000",
        "other lr=1 bbbb0000",
        "nano lr=1 cccc0000",
    ]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=450))
def test_thinning_keeps_the_mean(values: list[float]) -> None:
    y = np.array(values)
    whole = Curve("a", np.arange(len(y), dtype=float), y)
    thin = whole.thin()
    assert len(thin.y) <= 100
    assert thin.x[0] >= whole.x[0]
    assert np.all(np.diff(thin.x) > 0)
    each = -(-len(y) // 100)
    counts = np.minimum(each, len(y) - each * np.arange(len(thin.y)))
    assert float(thin.y @ counts) == pytest.approx(float(y.sum()), abs=1e-3)


def curves(count: int, top: float = 3.0) -> list[Curve]:
    x = np.arange(1, 11, dtype=float)
    return [Curve(f"run {i}", x, top / x + i / 50) for i in range(count)]


def test_few_runs_differ_in_colour_and_style_many_in_shade() -> None:
    for count in (2, 8, FEW, 40):
        figure = draw_curves({"val/loss": curves(count)}, x="step")
        looks = {(str(x.get_color()), str(x._dash_pattern)) for x in figure.axes[0].get_lines()}
        assert len(looks) == count
    assert len(set(COLOURS)) == 8
    many = draw_curves({"val/loss": curves(100)}, x="step").legends[0].get_texts()
    assert [text.get_text() for text in many if "more" in text.get_text()] == ["... 60 more ..."]


def test_no_run_that_ends_at_a_usual_value_is_cut_away() -> None:
    flat = [Curve(f"short {i}", np.array([20.0, 40.0]), np.array([3.2, 3.195])) for i in range(3)]
    long = Curve("long", np.array([500.0, 2500.0]), np.array([4.97, 4.15]))
    axes = draw_curves({"val/loss": [*flat, long]}, x="step").axes[0]
    assert axes.get_ylim()[1] > 4.15


def test_a_run_that_explodes_does_not_flatten_the_others() -> None:
    wild = Curve("wild", np.array([1.0, 10.0]), np.array([3.0, 1e9]))
    axes = draw_curves({"val/loss": [*curves(3), wild]}, x="step").axes[0]
    low, high = axes.get_ylim()
    assert low <= 0.3 < 1e9 <= high  # nothing is cut
    assert axes.get_yscale() == "log"
    assert draw_curves({"val/loss": curves(3)}, x="step").axes[0].get_yscale() == "linear"
    negative = Curve("wild", np.array([1.0, 10.0]), np.array([-3.0, 1e9]))
    axes = draw_curves({"val/loss": [*curves(3), negative]}, x="step").axes[0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] <= -3 < 1e9 <= axes.get_ylim()[1]


def test_noise_does_not_fill_the_height() -> None:
    """A loss of 2 ± 0.001: its curve takes a fiftieth of an axis of height 0.1, plus margins."""
    x = np.arange(100.0)
    flat = Curve("flat", x, 2 + 0.001 * np.cos(x))
    low, high = draw_curves({"val/loss": [flat]}, x="step").axes[0].get_ylim()
    assert high - low == pytest.approx(1.1 * 0.05 * float(flat.y.max()), rel=1e-3)
    assert (low + high) / 2 == pytest.approx(2, abs=1e-3)
    falling = Curve("falling", x, 3 - x / 99)
    low, high = draw_curves({"val/loss": [falling]}, x="step").axes[0].get_ylim()
    assert (low, high) == pytest.approx((2 - 0.05, 3 + 0.05))  # 5 % margins, and no more


def test_from_a_notebook(records: list[Record], tmp_path: Path) -> None:
    found = etude.runs(tmp_path)
    assert [run.label for run in found.filter("val/loss<1.5", "model.dim>=8")] == ["lr=1"]
    assert len(found.filter("label~lr").compare("val/loss", x="tokens", log="y").names) == 2
    with pytest.raises(RequestError, match="did you mean val/loss"):
        found.filter("val/los<1")
    with pytest.raises(RequestError, match="at least one run"):
        found.filter("label~nothing").compare()


def test_what_is_no_number_is_no_point() -> None:
    column = pd.Series([1, 2.5, "x", [1], None, 10**400, float("inf"), {}], dtype=object)
    assert to_finite_floats(column).dropna().tolist() == [1.0, 2.5]
    assert to_finite_floats(pd.Series([1, 2])).tolist() == [1.0, 2.0]
    assert to_finite_floats(pd.Series([1.5, float("-inf")])).dropna().tolist() == [1.5]


def seeds(root: Path, position: str, values: dict[int, list[float]]) -> list[Record]:
    return [
        fabricate(
            root,
            f"{position}{seed}".encode().hex()[:12].ljust(12, "0"),
            losses(*rows),
            seed=seed,
            group=f"group-{position}",
            label=f"position={position} seed={seed}",
        )
        for seed, rows in values.items()
    ]


def test_seeds_are_drawn_as_their_mean_with_a_band(tmp_path: Path) -> None:
    rope = seeds(tmp_path, "rope", {0: [3, 2, 1], 1: [5, 4, 2], 2: [4, 3, 3]})
    alibi = seeds(tmp_path, "alibi", {0: [7, 6, 6], 1: [7, 8, 8]})
    figure = Comparison([*rope, *alibi]).figure()
    lines = lines_of(figure)
    assert set(lines) == {"position=rope", "position=alibi"}
    assert lines["position=rope"].get_ydata() == pytest.approx([4, 3, 2])
    band, _ = figure.axes[0].collections
    assert band.get_paths()[0].get_extents().y0 == pytest.approx(2 - 1)  # the deviation of 1, 2, 3
    low, high = figure.axes[0].get_ylim()
    assert low < 1
    assert high > 7 + 2**0.5  # the top of the other band
    assert figure.legends[0].get_title().get_text().splitlines() == [
        "2 groups, ordered by last value",
        "mean of 2 to 3 seeds, ± one standard deviation",
    ]
    single = Comparison([rope[0], alibi[0]]).figure()
    assert set(lines_of(single)) == {"position=rope", "position=alibi"}
    assert not single.axes[0].collections


def test_a_seed_that_trained_longer_is_not_cut(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "rope", {0: [3, 2], 1: [5, 4, 9]})
    figure = Comparison(runs).figure()
    mean, rest = figure.axes[0].get_lines()
    assert mean.get_ydata() == pytest.approx([4, 3])
    assert rest.get_ydata() == pytest.approx([3, 9])
    assert rest.get_linestyle() == ":"
    assert figure.axes[0].get_ylim()[1] > 9


def test_titles_are_one_short_line(tmp_path: Path) -> None:
    runs = [
        fabricate(tmp_path, f"{n:012x}", losses(2, 1), name=f"{n} " + "long name " * 9)
        for n in range(4)
    ]
    title = Comparison(runs).figure().get_suptitle()
    assert len(title) <= 64
    assert title.endswith("…")
    assert shorten("中" * 40) == "中" * 31 + "…"


_LINEAR_TO_LMS = np.array(
    [[0.31399022, 0.63951294, 0.04649755], [0.15537241, 0.75789446, 0.08670142],
     [0.01775239, 0.10944209, 0.87256922]]
)  # fmt: skip
_DICHROMATS = {  # Viénot, Brettel & Mollon 1999
    "protan": np.array([[0, 1.05118294, -0.05116099], [0, 1, 0], [0, 0, 1]]),
    "deutan": np.array([[1, 0, 0], [0.9513092, 0, 0.04866992], [0, 0, 1]]),
}


@pytest.mark.parametrize("kind", _DICHROMATS)
def test_colours_differ_for_colour_blind_readers(kind: str) -> None:
    """Red-green blindness is simulated; the first six colours then differ by 10 units of CIELAB."""
    seen = np.array([_lab(colour, _DICHROMATS[kind]) for colour in COLOURS[:6]])
    for first, second in itertools.combinations(seen, 2):
        assert np.linalg.norm(first - second) > 10
    assert np.linalg.norm(_lab("#ff0000", _DICHROMATS[kind]) - _lab("#ff0000", np.eye(3))) > 30
    shades = [_lab(to_hex(colormaps[COLOUR_MAP](x)), _DICHROMATS[kind])[0] for x in (0.0, 0.5, 1.0)]
    assert shades[0] + 20 < shades[1] < shades[2] - 20  # lighter is more


def _lab(colour: str, matrix: Any) -> Any:
    values = np.array(to_rgb(colour))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.linalg.inv(_LINEAR_TO_LMS) @ matrix @ _LINEAR_TO_LMS @ linear
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(np.clip(to_xyz @ linear, 0.009, None) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
