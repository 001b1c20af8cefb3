"""After a power cut at any time, the run continues and ends with all rows, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from comparing import assert_same
from disk import Disk, listing
from omegaconf import DictConfig

from etude.analysis.verify import verify
from etude.records.record import Record
from etude.training.run import train
from older_records import as_older
from quick_first import quick_first

Small = Callable[..., DictConfig]
STEPS = "trainer.max_steps=13"
"""The run validates at steps 7 and 13, saves at 5, 7, 10 and 13, logs at 4, 7, 8, 12 and 13."""


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"), STEPS)).record


@pytest.fixture(scope="module")
def cuts(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Roots after power cuts at each time of one run, each state once.

    `least` contains only flushed data; in `mixed`, each file and folder is flushed or not.
    """
    top = tmp_path_factory.mktemp("cuts")
    found: dict[str, list[Path]] = {"least": [], "mixed": []}
    seen: dict[str, set] = {"least": set(), "mixed": set()}
    draw = random.Random(0)

    def keep(kind: str, draw: random.Random | None) -> None:
        place = top / f"{kind}-{len(found[kind])}"
        disk.after_a_power_cut(place, draw)
        if (state := listing(place)) in seen[kind]:
            shutil.rmtree(place)
        else:
            seen[kind].add(state)
            found[kind].append(place)

    def before() -> None:
        keep("least", None)
        keep("mixed", draw)

    root = top / "root"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, patch, before)
        try:
            train(small(root, STEPS))
            before()
        finally:
            disk.close()
    return found


def goes_on(small: Small, root: Path, whole: Record) -> int:
    """Continues a run after a power cut; returns the step from which it continued."""
    record = train(small(root, STEPS)).record
    assert_same(record, whole)
    assert verify(record.path).faults == []
    step: int = record.info["starts"][-1]["step"]
    return step


def test_after_a_power_cut(small: Small, whole: Record, cuts: dict[str, list[Path]]) -> None:
    """At a sample of times: the rows of a checkpoint are on the disk before the checkpoint."""
    chosen = cuts["least"][::5]
    assert len(chosen) >= 4
    steps = [goes_on(small, root, whole) for root in chosen]
    assert steps == sorted(steps)  # nothing that was reached is lost
    assert steps[0] == 0
    assert steps[-1] >= 7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["least", "mixed"])
def test_after_a_power_cut_at_each_moment(
    small: Small, whole: Record, cuts: dict[str, list[Path]], kind: str, tmp_path: Path
) -> None:
    assert len(cuts[kind]) >= 18
    steps = []
    for number, cut in enumerate(cuts[kind]):
        root = tmp_path / f"{number}"
        shutil.copytree(cut, root)
        steps.append(goes_on(small, root, whole))
    assert set(steps) == {0, 5, 7, 10, 13}
    print(f"{len(steps)} states, from steps {sorted(set(steps))}")


@pytest.mark.parametrize("older", quick_first([False, True]))
@pytest.mark.parametrize(
    ("left", "resumed"), quick_first([(4, 5), (8, 10), (7, 7), (0, 0), (None, 0)])
)
def test_rows_that_are_gone_are_trained_again(
    small: Small, whole: Record, tmp_path: Path, older: bool, left: int | None, resumed: int
) -> None:
    """Records of older versions, or on a disk that doesn't flush."""
    record = train(small(tmp_path, STEPS, "run.stop_at_step=12", "run.keep_every=5")).record
    assert [step for step, _ in record.checkpoints()] == [5, 7, 10, 12]
    if older:
        as_older(record.path)
    if left is None:
        record.metrics.path.unlink()
    else:
        record.metrics.truncate_after(left)
    again = train(small(tmp_path, STEPS)).record
    assert again.info["starts"][-1]["step"] == resumed
    assert_same(again, whole)
    assert verify(again.path).faults == []


def test_rows_at_another_interval_are_no_gap(small: Small, tmp_path: Path) -> None:
    """`trainer.log_every_n_steps` is not in the signature and may change during a run."""
    train(small(tmp_path, STEPS, "run.stop_at_step=5"))
    record = train(small(tmp_path, STEPS, "trainer.log_every_n_steps=3")).record
    assert [row["step"] for row in record.rows()] == [4, 6, 7, 9, 12, 13]
    assert verify(record.path).faults == []


def test_the_rows_are_on_the_disk_before_the_checkpoint_has_its_name(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, rename = os.fsync, os.rename

    def noted(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        events.append(f"rename {new}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", renamed)
    record = train(small(tmp_path, STEPS, "run.stop_at_step=5")).record
    folder = record.checkpoint("last")
    metrics, named = events.index(str(record.metrics.path)), events.index(f"rename {folder}")
    assert metrics < named
    assert str(record.path) in events[metrics:named]  # and so is the file's name
