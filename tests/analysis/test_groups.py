"""Tests of groups of runs over seeds: numbers, figures and tables."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_comparison import fabricate, losses

from etude.analysis.group_tests import limits_of_tests
from etude.analysis.heat import heat_map
from etude.analysis.run_groups import Groups
from etude.errors import RequestError
from etude.records.record import Record

VALUES = {"rotary": [2.0, 2.2, 2.7], "alibi": [3.0, 3.1, 3.3], "none_": [4.0]}


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Two position encodings with three seeds each, and one with a single seed."""
    made = []
    for position, values in VALUES.items():
        for seed, value in enumerate(values):
            rows = losses(value + 1, value + 0.5, value)
            made.append(
                fabricate(
                    tmp_path / "experiments",
                    f"{position[:2]}{seed}0000".encode().hex()[:12],
                    rows,
                    seed=seed,
                    group=f"group-{position}",
                    label=f"position={position} seed={seed}",
                    config={"vars.position": position, "seed": seed, "model.dim": 8},
                    best={"metric": "val/loss", "value": value, "step": 30},
                    final={"val/loss": value, "step": 30},
                )
            )
    return made


def test_runs_with_the_same_seed_in_one_group_are_reported(
    records: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    Groups(records)
    Groups(records, by=["vars.position"])
    assert caplog.text == ""
    Groups(records, by=["model.dim"])
    assert "several runs with the same seed, which differ in vars.position" in caplog.text


def test_the_numbers(records: list[Record]) -> None:
    groups = Groups(records)
    assert groups.metric == "best/val/loss"
    assert [group.name for group in groups.groups] == [f"position={name}" for name in VALUES]
    frame = groups.frame()
    assert list(frame["n"]) == [3, 3, 1]
    for row, values in zip(frame.to_dict("records"), VALUES.values(), strict=True):
        assert row["mean"] == pytest.approx(sum(values) / len(values))
        assert row["median"] == pytest.approx(sorted(values)[len(values) // 2])
        if len(values) > 1:
            assert row["std"] == pytest.approx(statistics.stdev(values))
            assert min(values) <= row["low"] <= row["mean"] <= row["high"] <= max(values)
    assert frame["std"].isna().tolist() == [False, False, True]
    assert frame["low"].isna().tolist() == [False, False, True]


def test_other_groups_and_metrics(records: list[Record]) -> None:
    (one,) = Groups(records, by=["model.dim"]).groups
    assert one.keys == {"model.dim": 8}
    assert len(one.values) == 7
    seeds = Groups(records, by=["seed"], metric="val/loss")
    assert sorted(len(group.values) for group in seeds.groups) == [2, 2, 3]
    with pytest.raises(RequestError, match=r"by = 'model.dmi'.*model.dim"):
        Groups(records, by=["model.dmi"])
    with pytest.raises(RequestError, match=r"metric = 'val/los'.*val/loss"):
        Groups(records, metric="val/los")
    with pytest.raises(RequestError, match="at least one finished run"):
        Groups([])


def test_bands_are_one_deviation(records: list[Record]) -> None:
    figure = Groups(records).plot()
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {f"position={name}" for name in VALUES}
    assert np.allclose(lines["position=rotary"].get_ydata(), [3.3, 2.8, 2.3])
    bands = [c.get_paths()[0].get_extents() for c in axes.collections]
    assert len(bands) == 2  # a single run has none
    spread = statistics.stdev(VALUES["rotary"])
    lowest = min(band.y0 for band in bands)
    assert lowest == pytest.approx(2.3 - spread)
    with pytest.raises(RequestError, match="a metric that a run has logged"):
        Groups(records).plot("train/accuracy")


def test_groups_are_compared_over_seeds(records: list[Record], etude: Any, tmp_path: Path) -> None:
    """Three seeds each: 2 of 20 assignments are as extreme; one seed against three: 2 of 4."""
    groups = Groups(records)
    frame = groups.comparison()
    assert frame["vars.position"].tolist() == ["alibi", "none_"]
    assert frame["difference"].tolist() == pytest.approx([9.4 / 3 - 6.9 / 3, 4 - 6.9 / 3])
    assert frame["p"].tolist() == pytest.approx([2 / 20, 2 / 4])
    assert frame["holm"].tolist() == pytest.approx([0.2, 0.5])
    with pytest.raises(RequestError, match="none_ has the seeds 0"):
        groups.comparison(paired=True)
    both = Groups([r for r in records if "none_" not in r.label])
    paired = both.comparison(paired=True)
    assert paired["p"].tolist() == pytest.approx([2 / 8])  # 2 of 8 swaps within pairs
    assert limits_of_tests(paired, both.best, against="best", paired=True) == [
        "with 3 seeds per group, paired by seed, the smallest possible p-value is 0.25"
    ]
    other_seeds = [record for record in records if record.label.startswith("position=alibi")]
    for number, record in enumerate(other_seeds, start=7):
        record.info["seed"] = number
    unpaired = Groups([r for r in records if "none_" not in r.label])
    assert unpaired.comparison()["p"].tolist() == pytest.approx([2 / 20])
    assert limits_of_tests(unpaired.comparison(), unpaired.best, against="best") == [
        "with 3 seeds per group, the smallest possible p-value is 0.1"
    ]
    with pytest.raises(RequestError, match="seeds 0, 1, 2; position=alibi has the seeds 7, 8, 9"):
        unpaired.comparison(paired=True)
    first = Groups([*other_seeds, *records[:3]]).comparison("first")
    assert first["difference"].tolist() == pytest.approx([6.9 / 3 - 9.4 / 3])
    with pytest.raises(RequestError, match="best or first"):
        groups.comparison("last")
    answer = etude("runs", "group", "nano", "--by", "vars.position", cwd=tmp_path)
    assert "differences from the best group, position=rotary (exact permutation test" in answer.out
    assert "with 1 to 3 seeds per group, the smallest possible p-value is 0.1" in answer.out
    assert "the best group was selected with the values that are tested" in answer.out
    single = [str(records[0].path), str(records[3].path)]
    answer = etude("runs", "group", *single, cwd=tmp_path)
    assert "no comparison, because a test needs several seeds per group" in answer.out
    answer = etude("runs", "group", "nano", "--json", "--against", "first", cwd=tmp_path)
    compared = json.loads(answer.out)["comparison"]
    assert compared["against"] == "first"
    assert len(compared["groups"]) == 2


def test_the_best_group_has_the_highest_accuracy(records: list[Record]) -> None:
    for record in records:
        record.info["final"]["val/accuracy"] = record.info["best"]["value"]
    groups = Groups(records, metric="val/accuracy")
    assert groups.best.name == "position=none_"


def test_a_metric_over_a_key(records: list[Record]) -> None:
    figure = Groups(records).plot(x="seed")
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {f"position={name}" for name in VALUES}
    for name, values in VALUES.items():
        assert np.allclose(lines[f"position={name}"].get_xdata(), range(len(values)))
        assert np.allclose(lines[f"position={name}"].get_ydata(), values)
    assert figure.axes[0].get_xlabel() == "seed"
    (one,) = Groups(records, by=["model.dim"]).plot(x="seed", log="y").axes[0].get_lines()
    mean_of_second = statistics.fmean(v[1] for v in VALUES.values() if len(v) > 1)
    assert one.get_ydata()[1] == pytest.approx(mean_of_second)
    with pytest.raises(RequestError, match=r"x = 'sed'.*did you mean seed"):
        Groups(records).plot(x="sed")
    with pytest.raises(RequestError, match=r"x = 'vars.position=.*a key with numeric values"):
        Groups(records).plot(x="vars.position")


def test_a_part_and_its_argument_that_differ(tmp_path: Path) -> None:
    """Two optimizers with two learning rates each: four groups with unique names."""
    values = {("AdamW", 0.1): 1.0, ("AdamW", 0.2): 2.0, ("SGD", 0.1): 3.0, ("SGD", 0.3): 5.0}
    made = []
    for number, ((kind, rate), value) in enumerate(values.items()):
        for seed in (0, 1):
            config = {
                "optimizer._target_": f"etude.optim.{kind}",
                "optimizer.lr": rate,
                "seed": seed,
            } | ({"optimizer.momentum": 0.9} if kind == "SGD" else {})
            made.append(
                fabricate(
                    tmp_path / "experiments",
                    f"{number}{seed}0000000000",
                    losses(4, 3, value + seed),
                    seed=seed,
                    group=f"group-{number}",
                    config=config,
                    best={"metric": "val/loss", "value": value + seed, "step": 30},
                    final={"val/loss": value + seed, "step": 30},
                )
            )
    groups = Groups(made)
    names = [group.name for group in groups.groups]
    assert names == [
        f"optimizer={kind} lr={rate}" for kind, rate in values
    ]  # momentum differs with the optimizer
    lines = {line.get_label(): line for line in groups.plot().axes[0].get_lines()}
    assert set(lines) == set(names)
    figure = groups.plot(x="optimizer.lr")
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"optimizer=AdamW", "optimizer=SGD"}
    assert lines["optimizer=SGD"].get_ydata().tolist() == [3.5, 5.5]
    assert "mean of 2 seeds" in figure.legends[0].get_title().get_text()
    pooled = Groups(made, by=["optimizer"]).plot(x="seed")
    assert "mean of 2 runs" in pooled.legends[0].get_title().get_text()
    with pytest.raises(RequestError, match="the key is missing in 4 of 8 runs"):
        groups.plot(x="optimizer.momentum")


def test_a_heat_map_shows_each_mean(records: list[Record]) -> None:
    figure = Groups(records).heat("seed", "vars.position")
    axes = figure.axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["alibi", "none_", "rotary"]
    assert np.allclose(shown[2], VALUES["rotary"])
    assert np.isnan(shown[1, 1:].astype(float)).all() or np.ma.is_masked(axes.images[0].get_array())
    assert len(axes.texts) == 7
    small = heat_map({(1, 1): 1e-9, (2, 1): 2e-9}, x="a", y="b", metric="m")
    assert [text.get_text() for text in small.axes[0].texts] == ["1.00e-09", "2.00e-09"]
    same = heat_map({(1, "a"): 2.0}, x="x_1", y="$y", metric="m")
    assert same.axes[0].texts[0].get_text() == "2.00"


def test_long_labels_of_a_heat_map_do_not_overlap() -> None:
    columns = ["sliding_window_128", "grouped_query_attention", "x" * 99, "中文" * 8]
    figure = heat_map({(name, 1): 0.5 for name in columns}, x="x", y="y", metric="m")
    figure.draw_without_rendering()
    (axes, _) = figure.axes
    labels = axes.get_xticklabels()
    assert {label.get_rotation() for label in labels} == {45.0}
    corners = [label.get_transform().transform(label.get_position()) for label in labels]
    gaps = [right[0] - left[0] for left, right in itertools.pairwise(corners)]
    assert min(gaps) * np.sin(np.pi / 4) > 1.2 * labels[0].get_fontsize() * figure.dpi / 72
    assert axes.get_window_extent().height > 0.4 * figure.dpi  # the row has room for its text
    assert all(label.get_window_extent().x0 >= 0 for label in labels[1:])


def test_tables(records: list[Record]) -> None:
    groups = Groups(records)
    rows = list(csv.DictReader(io.StringIO(groups.export("csv"))))
    assert [float(row["mean"]) for row in rows] == [g.mean for g in groups.groups]
    assert rows[2]["low"] == ""
    latex = groups.export("latex")
    assert r"none\_ & 1 & 4.0000 & -" in latex
    assert r"rotary & 3 & 2.30 $\pm$ 0.36 & [2.00, 2.70] \\" in latex  # one group has no interval
    assert r"Position & Runs & Best validation loss & 95 \% CI \\" in latex
    assert r"\caption{Best validation loss of nano: mean $\pm$ standard deviation over" in latex
    assert r"\label{tab:nano-best-val-loss}" in latex
    assert latex.endswith("\\end{tabular}\n\\end{table}\n")
    separate = Groups(records[:6])  # [2.00, 2.70] and [3.0, 3.3]
    latex = separate.export("latex", caption="50 % of_all", label="tab:a-b")
    assert r"rotary & 3 & \textbf{2.30 $\pm$ 0.36} & [2.00, 2.70] \\" in latex
    assert r"\caption{50 \% of\_all}" in latex
    assert r"\label{tab:a-b}" in latex
    assert separate.export("latex", caption="", label="").startswith(r"\begin{tabular}")
    markdown = separate.export("markdown", caption="All")
    assert markdown.startswith("Table: All\n\n| Position | Runs | Best validation loss | 95 % CI |")
    assert "| rotary | 3 | **2.30 ± 0.36** | [2.00, 2.70] |" in markdown
    for record in records[3:6]:
        record.info["best"]["value"] -= 0.5  # [2.5, 2.8] overlaps
    assert "**" not in Groups(records[:6]).export("markdown")
    assert "**" not in Groups(records[:3]).export("markdown")
    with pytest.raises(RequestError, match="no value with form=csv"):
        groups.export("csv", label="x")
    with pytest.raises(RequestError, match=r"label = 'tab:a}b': .* \(for example 'tab:a-b'\)"):
        groups.export("latex", label="tab:a}b")
    with pytest.raises(RequestError, match="did you mean latex"):
        groups.export("latx")


def test_the_commands(records: list[Record], etude: Any, tmp_path: Path) -> None:
    answer = etude("runs", "group", "nano", "--json", cwd=tmp_path)
    told = json.loads(answer.out)
    assert told["metric"] == "best/val/loss"
    assert [group["n"] for group in told["groups"]] == [3, 3, 1]
    answer = etude("runs", "group", "nano", "--metric", "val/loss", cwd=tmp_path)
    assert answer.out.splitlines()[0] == "val/loss"
    assert "no confidence interval for groups of fewer than three runs" in answer.out
    answer = etude("runs", "plot", "nano", "--output", "a/b.png", cwd=tmp_path)
    assert answer.code == 0
    assert (tmp_path / "a" / "b.png").stat().st_size > 5000
    answer = etude("runs", "plot", "nano", "--heat", "seed,vars.position", cwd=tmp_path)
    assert answer.out.startswith("figure  experiments/_comparisons/")
    answer = etude("runs", "export", "nano", "--format", "latex", "--output", "t.tex", cwd=tmp_path)
    assert (tmp_path / "t.tex").read_text().startswith(r"\begin{table}")
    assert r"\begin{tabular}{lrrr}" in (tmp_path / "t.tex").read_text()
    for words, said in [
        (["plot", "nano", "--heat", "seed"], "--heat = 'seed': expected two keys"),
        (["plot", "nano", "--x", "epoch"], "--x = 'epoch': expected one of step, tokens, time, or"),
        (
            ["plot", "nano", "--x", "seed", "--log", "x"],
            "--log = 'x': expected a linear x axis (some",
        ),
        (
            ["plot", "nano", "--x", "seed", "--heat", "seed,vars.position"],
            "no value together with --heat",
        ),
        (["plot", "nano", "--output", "a.xyz"], "a.xyz: expected a figure file with one of"),
        (["group", "nano", "--by", "seeed"], "did you mean seed?"),
        (["export", "nano", "--format", "pdf"], "--format = 'pdf'"),
        (["group", "nobody"], "RUN = 'nobody'"),
    ]:
        answer = etude("runs", *words, cwd=tmp_path)
        assert answer.code == 2, words
        assert said in answer.err


def test_a_sweeps_folder_names_its_runs(records: list[Record], etude: Any, tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "_sweeps" / "abc"
    folder.mkdir(parents=True)
    jobs = [{"path": f"elsewhere/nano/{r.path.name}"} for r in records[:3]] + [{"status": "failed"}]
    (folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    answer = etude("runs", "group", folder, "--json", cwd=tmp_path)
    assert [group["n"] for group in json.loads(answer.out)["groups"]] == [3]


def test_jobs_of_a_sweep_that_are_not_there_are_named(
    records: list[Record], etude: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "experiments" / "_sweeps" / "abc"
    folder.mkdir(parents=True)
    paths = [f"nano/{records[0].path.name}", "/etc", "../../../x", "nano/gone"]
    jobs = [{"key": f"k{n}", "path": path} for n, path in enumerate(paths)]
    (folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    answer = etude("runs", "group", folder, "--json", cwd=tmp_path)
    assert [group["n"] for group in json.loads(answer.out)["groups"]] == [1]
    assert "the runs of 3 jobs are missing in" in answer.err
    assert "k1 (/etc), k2 (../../../x), k3 (nano/gone)" in answer.err


def test_of_a_step_with_two_rows_the_last_counts(records: list[Record]) -> None:
    before = Groups(records).plot().axes[0].lines
    file = records[0].path / "metrics.jsonl"
    first, *rest = file.read_text().splitlines()
    other = json.dumps(json.loads(first) | {"val/loss": 9.0})
    file.write_text("\n".join([other, first, *rest]) + "\n")
    after = Groups(records).plot().axes[0].lines
    for one, two in zip(before, after, strict=True):
        assert np.array_equal(one.get_xydata(), two.get_xydata())


def test_a_run_counts_once(records: list[Record], tmp_path: Path, caplog: Any) -> None:
    """Linked, copied, or trained again: the run is not a further seed."""
    link = tmp_path / "experiments" / "nano" / "link"
    link.symlink_to(records[0].path)
    copy = shutil.copytree(records[1].path, tmp_path / "elsewhere" / "nano" / "copy")
    more = [Record.read(link), Record.read(copy)]
    records[1].info["signature"] = more[1].info["signature"] = "the same"
    again = Groups([*records, *more])
    once = Groups(records).groups
    assert [sorted(g.values) for g in again.groups] == [sorted(g.values) for g in once]
    assert list(again.frame()["n"]) == [3, 3, 1]
    assert f"ignored {records[0].path}, {records[1].path}" in caplog.text


@pytest.mark.slow
def test_significance_of_real_runs(etude, corpus: Path, tiny, tmp_path: Path) -> None:
    import etude as package

    words = tiny(corpus, tmp_path / "experiments", "run.samples=0")
    assert etude("train", "-m", *words, "optimizer.lr=1e-3,1e-1", "seed=0,1").code == 0
    runs = package.runs(tmp_path / "experiments")
    scores = {run.path: run.scores() for run in runs}
    for run in runs:  # windows of one length: their mean is the whole loss
        assert np.mean(scores[run.path][:-1]) == pytest.approx(run.evaluate()["loss"], abs=0.05)
        (file,) = (run.path / "predictions").iterdir()
        kept = json.loads(file.read_text())
        assert kept["loss"] == scores[run.path]
    frame = runs.significance()
    assert len(frame) == 3
    assert (frame["holm"] >= frame["permutation"]).all()
    (sweep,) = (tmp_path / "experiments" / "_sweeps").iterdir()
    answer = etude("runs", "significance", sweep, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)["others"]) == 3
    answer = etude("runs", "significance", *(run.path for run in runs[:2]), cwd=tmp_path)
    assert "p (Holm)" in answer.out
    assert "the tests compare only these trained models, not the methods" in answer.out
    assert "`etude runs group`" in answer.out
    one = runs[0].path
    assert etude("runs", "significance", one, cwd=tmp_path).code == 2
    answer = etude("runs", "significance", one, runs[1].path, runs[1].path, cwd=tmp_path)
    assert answer.code == 2
    assert "expected each run only once" in answer.err


def test_no_positive_value_no_logarithmic_axis(tmp_path: Path) -> None:
    rows = losses(-3, -2, -1)
    record = fabricate(tmp_path / "experiments", "a" * 12, rows, final={"val/loss": -1.0})
    with pytest.raises(RequestError, match="no value is positive"):
        Groups([record], metric="val/loss").plot(log="y")


def test_unfinished_runs_of_a_name_are_counted(
    records: list[Record], etude: Any, tmp_path: Path
) -> None:
    file = records[-1].path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "diverged"}))
    answer = etude("runs", "group", "nano", cwd=tmp_path)
    assert answer.err == "nano: the runs that are not finished are left out (1 diverged)\n"


def test_json_has_full_precision(records: list[Record], etude: Any, tmp_path: Path) -> None:
    groups = json.loads(etude("runs", "group", "nano", "--json", cwd=tmp_path).out)["groups"]
    assert [row["mean"] for row in groups] == [group.mean for group in Groups(records).groups]
