from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from windows import window_steps

from etude.data.columns import Column
from etude.data.order import EveryExampleOnce, RandomWindows
from etude.data.steps import EvaluationBatches, MicroBatch, Share, Steps

TOKENS, LENGTH, BATCH = 1000, 8, 6
Step = list[MicroBatch]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Column:
    """Token i of the file is i, so a batch shows where it came from."""
    path = tmp_path_factory.mktemp("tokens") / "train"
    return column(path, TOKENS)


def column(path: Path, tokens: int) -> Column:
    np.arange(tokens, dtype="<u2").tofile(path.with_name(f"{path.name}.values"))
    return Column(path, "<u2")


def steps(
    file: Column, kind: type = RandomWindows, start_step: int = 0, **changes: object
) -> Steps:
    share = Share(seed=3, **changes)  # type: ignore[arg-type]
    order = kind(TOKENS, LENGTH, BATCH, seed=3)
    return Steps(window_steps(file, order, share, LENGTH, BATCH), start_step, 7)


def starts(step: Step) -> list[int]:
    return [start for micro in step for start in micro["tokens"][:, 0].tolist()]


def plain(loaded: object) -> list[list[tuple[list[list[int]], list[list[int]], int]]]:
    return [
        [(m["tokens"].tolist(), m["targets"].tolist(), m["step_targets"]) for m in step]
        for step in loaded  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("kind", [RandomWindows, EveryExampleOnce])
class TestWindowSteps:
    def test_a_step_is_the_windows_that_the_order_names(self, file: Column, kind: type) -> None:
        order = kind(TOKENS, LENGTH, BATCH, seed=3)
        for number, (micro,) in enumerate(steps(file, kind)):
            expected = [
                list(range(start, start + LENGTH)) for start in order.starts(number).tolist()
            ]
            assert micro["tokens"].tolist() == expected
            assert torch.equal(micro["targets"], micro["tokens"] + 1)
            assert micro["tokens"].dtype == micro["targets"].dtype == torch.int64
            assert micro["tokens"].is_contiguous()
            assert micro["targets"].is_contiguous()
            assert micro["step_targets"] == BATCH * LENGTH

    @pytest.mark.parametrize("workers", [1, 2])
    def test_workers_change_nothing(self, file: Column, kind: type, workers: int) -> None:
        alone = steps(file, kind, micro_batch=4)
        shared = DataLoader(alone, batch_size=None, num_workers=workers, collate_fn=as_it_is)
        assert plain(shared) == plain(alone)

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("start", [0, 1, 6, 7])
    def test_going_on_meets_the_same_steps(
        self, file: Column, kind: type, start: int, workers: int
    ) -> None:
        rest = steps(file, kind, start_step=start)
        loader = DataLoader(rest, batch_size=None, num_workers=workers, collate_fn=as_it_is)
        assert plain(loader) == plain(steps(file, kind))[start:]
        assert len(loader) == 7  # the whole run, wherever it begins

    @pytest.mark.parametrize("world", [1, 2, 3, 6])
    def test_ranks_share_a_step(self, file: Column, kind: type, world: int) -> None:
        whole = [starts(step) for step in steps(file, kind)]
        ranks = [list(steps(file, kind, rank=rank, world=world)) for rank in range(world)]
        for number, expected in enumerate(whole):
            shares = [starts(rank[number]) for rank in ranks]
            assert [start for share in shares for start in share] == expected
            assert {len(share) for share in shares} == {BATCH // world}
            assert all(rank[number][0]["step_targets"] == BATCH * LENGTH for rank in ranks)

    @pytest.mark.parametrize(
        ("micro_batch", "sizes"), [(1, [1] * 6), (3, [3, 3]), (4, [4, 2]), (6, [6]), (99, [6])]
    )
    def test_micro_batches_make_up_the_step(
        self, file: Column, kind: type, micro_batch: int, sizes: list[int]
    ) -> None:
        whole = [starts(step) for step in steps(file, kind)]
        parts = list(steps(file, kind, micro_batch=micro_batch))
        assert [starts(step) for step in parts] == whole
        assert [len(micro["tokens"]) for micro in parts[0]] == sizes
        targets = sum(micro["targets"].numel() for micro in parts[0])
        assert {micro["step_targets"] for micro in parts[0]} == {targets}


class TestEvaluationBatches:
    @settings(deadline=None)
    @given(tokens=st.integers(0, TOKENS), length=st.integers(1, 120), examples=st.integers(1, 20))
    def test_every_target_comes_once_in_order(
        self, tmp_path_factory: pytest.TempPathFactory, tokens: int, length: int, examples: int
    ) -> None:
        part = column(tmp_path_factory.getbasetemp() / "part", tokens)
        dataset = EvaluationBatches(part, length=length, examples=examples)
        batches = list(dataset)
        targets = [i for batch in batches for i in batch["targets"].flatten().tolist()]
        inputs = [i for batch in batches for i in batch["tokens"].flatten().tolist()]
        assert targets == list(range(1, tokens))
        assert inputs == list(range(max(tokens - 1, 0)))
        assert len(dataset) == len(batches)
        for batch in batches:
            assert batch["tokens"].shape == batch["targets"].shape
            assert len(batch["tokens"]) <= examples
        assert all(batch["tokens"].shape[1] == length for batch in batches[:-1])

    @given(
        lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5),
        length=st.integers(1, 30),
        examples=st.integers(1, 5),
    )
    def test_no_window_reaches_from_one_text_into_the_next(
        self, file: Column, lengths: list[int], length: int, examples: int
    ) -> None:
        starts = [sum(lengths[:number]) for number in range(len(lengths))]
        places = list(zip(starts, lengths, strict=True))
        dataset = EvaluationBatches(file, length=length, examples=examples, places=places)
        batches = list(dataset)
        assert len(dataset) == len(batches)
        for section, (start, tokens) in enumerate(places):
            own = [batch for batch in batches if batch["section"] == section]
            targets = [i for batch in own for i in batch["targets"].flatten().tolist()]
            assert targets == list(range(start + 1, start + tokens))
            assert all(torch.equal(batch["targets"], batch["tokens"] + 1) for batch in own)

    def test_a_shorter_last_window_stands_alone(self, file: Column) -> None:
        shapes = [
            tuple(batch["tokens"].shape)
            for batch in EvaluationBatches(file, length=300, examples=2)
        ]
        assert shapes == [(2, 300), (1, 300), (1, 99)]


def test_a_file_is_mapped_not_read(tmp_path: Path) -> None:
    # A sparse file of 40 GB: reading or copying it would not end well.
    path = tmp_path / "huge.values"
    tokens = 20_000_000_000
    with path.open("wb") as stream:
        stream.truncate(2 * tokens)
    file = Column(tmp_path / "huge", "<u2")
    order = EveryExampleOnce(tokens, 64, 12, seed=0)
    whole = window_steps(file, order, Share(seed=0), 64, 12)
    assert [whole.step(number)[0]["tokens"].sum().item() for number in range(3)] == [0, 0, 0]


def as_it_is(step: Step) -> Step:
    return step
