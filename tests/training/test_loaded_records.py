"""Loading of records: moved, found by a prefix, listed in tables, and with untrusted classes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from etude.api import load_run, runs, train
from etude.errors import RequestError

MINE = '''
from pathlib import Path

from etude.nn.attention import MultiHeadAttention

Path(__file__).with_name("imported").touch()


class Halved(MultiHeadAttention):
    """Attention that counts half."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) / 2
'''


def test_an_attention_of_ones_own(
    words: Callable, etude: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "code" / "my_pkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MINE)
    group = tmp_path / "conf" / "model" / "attention"
    group.mkdir(parents=True)
    (group / "halved.yaml").write_text("_target_: my_pkg.Halved\n_partial_: true\n")
    monkeypatch.syspath_prepend(tmp_path / "code")

    asked = words(tmp_path / "runs", "model/attention=halved", "trainer.max_steps=4")
    with_conf = [f"--config-dir={tmp_path / 'conf'}", *asked]
    refused = etude("train", *with_conf)
    assert refused.code == 2
    assert "config, set extensions=[my_pkg]; to allow it" in refused.err
    assert not (package / "imported").exists()
    answer = etude("train", *with_conf, "extensions=[my_pkg]")
    assert answer.code == 0, answer.err
    assert (package / "imported").exists()
    (path,) = (tmp_path / "runs" / "tiny").iterdir()

    (package / "imported").unlink()
    monkeypatch.delitem(sys.modules, "my_pkg")
    with pytest.raises(RequestError, match=r"model\.attention\._target_ = 'my_pkg\.Halved'"):
        load_run(path)
    assert "my_pkg" not in sys.modules
    assert not (package / "imported").exists()

    model = load_run(path, trust=["my_pkg"]).model()
    assert type(model.module.blocks[0].attention).__module__ == "my_pkg"
    monkeypatch.delitem(sys.modules, "my_pkg", raising=False)


def test_a_moved_record(small: Callable, tmp_path: Path) -> None:
    run = train(small(tmp_path / "runs", "trainer.max_steps=8"))
    ids = torch.arange(8)
    before, rows = run.model()(ids), run.metrics
    moved = shutil.move(run.path, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "runs")
    found = load_run(moved)
    assert torch.equal(found.model()(ids), before)
    assert found.metrics.equals(rows)
    assert found.status == "finished"
    assert found.config.trainer.max_steps == 8
    assert found.evaluate().keys() == {"loss", "perplexity", "bits_per_byte"}


def test_metrics_and_frame(small: Callable, tmp_path: Path) -> None:
    more = ["trainer.max_steps=8", "trainer.val_check_interval=4"]
    made = [train(small(tmp_path, *more, f"seed={seed}")) for seed in (3, 4)]
    metrics = made[0].metrics
    assert list(metrics.step) == [4, 8]
    assert list(metrics.columns) == [
        "step",
        "tokens",
        "train/loss",
        "val/loss",
        "val/perplexity",
        "val/bits_per_byte",
        "train/grad_norm",
        "lr",
        "perf/tokens_per_second",
        "perf/flops_per_second",
        "perf/mfu",
        "time",
    ]
    table = runs(tmp_path).frame().set_index("seed")
    assert sorted(table.index) == [3, 4]
    for run, seed in zip(made, (3, 4), strict=True):
        row = table.loc[seed]
        assert row["signature"] == run.path.name
        assert row["status"] == "finished"
        assert row["optimizer.lr"] == 1e-3
        assert row["model.position"] == "learned"
        assert row["val/loss"] == run.metrics["val/loss"].iloc[-1]
        assert row["best/val/loss"] == run.metrics["val/loss"].min()


def test_found_by_name_and_prefix(small: Callable, tmp_path: Path) -> None:
    first, second = (train(small(tmp_path, "trainer.max_steps=1", f"seed={n}")) for n in (0, 1))
    assert load_run(first.path.name[:6], root=tmp_path).path == first.path
    assert load_run(second.path.name, root=tmp_path).path == second.path
    assert load_run("tiny", root=tmp_path).path == second.path  # the latest
    with pytest.raises(RequestError, match="a run's path, its name, or the first characters"):
        load_run("tinny", root=tmp_path)
    twin = first.path.with_name(first.path.name[:6] + "0" * 6)
    shutil.copytree(first.path, twin)
    with pytest.raises(RequestError, match="enough characters of a signature to select one run"):
        load_run(first.path.name[:6], root=tmp_path)
