"""Sizes of steps and weights of a mixture that change as a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparing import Given
from test_mixture import SECTIONS, by_source

from etude.data.curriculum import Curriculum, Sizes, Stages
from etude.data.mixture import Mixture, MixtureOrder
from etude.data.splits import Passage, Split
from etude.data.steps import Share
from etude.data.text import Batch, TextData
from etude.data.tokenizer import Byte
from etude.errors import InvalidArguments, RequestError
from etude.tasks.masked_lm import MaskObjective
from etude.tasks.span_denoising import SpanObjective

TEXT = "".join(chr(33 + i % 90) for i in range(641))
ROWS = 640 // 16


class Text(Given):
    def __init__(self, text: str = TEXT, **arguments: Any) -> None:
        def passages(split: Split) -> Iterator[Passage]:
            yield 0, text

        super().__init__(Byte(), {"": passages}, text, {})
        self.text = text
        for name, value in arguments.items():
            setattr(self, name, value)

    def documents(self, split: Split) -> Iterator[str]:
        yield self.text


def text(curriculum: Curriculum | None, batch: int = 8, order: str = "epochs") -> TextData:
    sized = Text(sequence_length=16, batch=Batch(examples=batch), order=order)
    sized.curriculum = curriculum
    return sized


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    def make(curriculum: Curriculum | None, **arguments: Any) -> TextData:
        data = text(curriculum, **arguments)
        data.prepare(tmp_path)
        return data

    return make


def steps(data: TextData, **changes: Any) -> list[list[Any]]:
    data.attach(**{"seed": 1, "micro_batch": None, "total_steps": 12, **changes})
    return list(data.train_dataloader())


def rows(step: list[Any], name: str = "tokens") -> list[list[int]]:
    return [row for micro in step for row in micro[name].tolist()]


@given(
    usual=st.integers(1, 9),
    changes=st.dictionaries(st.integers(0, 30), st.integers(1, 9), max_size=5),
    step=st.integers(0, 40),
)
def test_examples_before_a_step(usual: int, changes: dict[int, int], step: int) -> None:
    sizes, now, before = Sizes(usual, changes), usual, 0
    for number in range(step):
        now = changes.get(number, now)
        assert sizes.at(number) == now
        before += now
    assert sizes.before(step) == before


def test_before_the_first_change_the_usual_value_holds() -> None:
    assert [Stages(7, {2: 5, 4: 6}).at(step) for step in range(6)] == [7, 7, 5, 5, 6, 6]
    assert Stages(7, {0: 5}).at(0) == 5


class TestSizes:
    def test_steps_grow_and_each_window_is_read_once_an_epoch(self, prepared: Any) -> None:
        data = prepared(Curriculum(batch={0: 2, 3: 4, 5: 8}))
        found = steps(data)
        assert [len(rows(step)) for step in found] == [2, 2, 2, 4, 4, *[8] * 7]
        seen = [row[0] for step in found for row in rows(step)]
        ids = [*TEXT.encode()]
        epoch = sorted(seen[:ROWS])
        assert epoch == sorted(ids[16 * number] for number in range(ROWS))
        assert [micro["step_tokens"] for (micro,) in found[:4]] == [32, 32, 32, 64]
        assert [micro["step_targets"] for (micro,) in found[:4]] == [32, 32, 32, 64]
        assert data.tokens_in(0, 4) == 32 * 3 + 64
        assert data.tokens_in(4, 6) == 64 + 128

    @pytest.mark.parametrize("order", ["epochs", "windows"])
    def test_without_changes_nothing_changes(self, prepared: Any, order: str) -> None:
        usual = steps(prepared(None, order=order))
        same = Curriculum(batch={0: 8}, sequence_length={3: 16})
        stated = steps(prepared(same, order=order))
        assert [[*map(rows, [step])] for step in stated] == [[*map(rows, [step])] for step in usual]

    def test_a_size_in_tokens(self, tmp_path: Path) -> None:
        data = Text(sequence_length=16, batch=Batch(tokens=64))
        data.curriculum = Curriculum(batch={0: 16, 2: 32})
        data.prepare(tmp_path)
        assert [len(rows(step)) for step in steps(data)[:4]] == [1, 1, 2, 2]

    def test_ranks_share_each_step(self, prepared: Any) -> None:
        data = prepared(Curriculum(batch={0: 2, 3: 4}, sequence_length={0: 4, 6: 8}))
        whole = [rows(step) for step in steps(data)]
        ranks = [steps(data, rank=rank, world=2) for rank in (0, 1)]
        assert [rows(a) + rows(b) for a, b in zip(*ranks, strict=True)] == whole

    def test_goes_on_anywhere(self, prepared: Any) -> None:
        data = prepared(Curriculum(batch={0: 2, 3: 4}, sequence_length={0: 4, 6: 8}))
        whole = [rows(step) for step in steps(data)]
        for start in (1, 3, 5, 6, 11):
            assert [rows(step) for step in steps(data, start_step=start)] == whole[start:]


class TestLengths:
    def test_the_windows_are_cut(self, prepared: Any) -> None:
        usual = steps(prepared(None))
        short = steps(prepared(Curriculum(sequence_length={0: 4, 6: 8})))
        assert [len(rows(step)[0]) for step in short] == [4] * 6 + [8] * 6
        for name in ("tokens", "targets"):
            for one, other in zip(usual, short, strict=True):
                flat = [[n for row in rows(step, name) for n in row] for step in (one, other)]
                assert flat[0] == flat[1]
        assert {micro["step_tokens"] for step in short for micro in step} == {8 * 16}

    def test_micro_batches_hold_as_many_positions(self, prepared: Any) -> None:
        found = steps(prepared(Curriculum(sequence_length={0: 4, 6: 8})), micro_batch=3)
        shapes = [[tuple(micro["tokens"].shape) for micro in step] for step in found]
        assert shapes[0] == [(12, 4), (12, 4), (8, 4)]
        assert shapes[6] == [(6, 8), (6, 8), (4, 8)]

    def test_masks(self, prepared: Any) -> None:
        data = text(Curriculum(sequence_length={0: 4}))
        data.for_task(MaskObjective(rate=0.5))
        data.prepare(prepared(None).store.folder.parent)
        for (micro,) in steps(data)[:3]:
            assert micro["tokens"].shape == (8 * 7, 4)  # 2 of each 4 stand for [CLS] and [SEP]
            assert micro["step_targets"] == int((micro["labels"] != -100).sum())
            assert micro["step_tokens"] == 8 * 7 * 4
        places = data.assembly(Share(1)).places(0)
        read = sorted(n for each in places for place in each for n in range(place.first, place.end))
        assert len(read) == len(set(read)) == 8 * 14  # all that the windows hold

    def test_spans_leave_at_most_the_rest(self, tmp_path: Path) -> None:
        data = text(Curriculum(sequence_length={0: 8}))
        data.for_task(SpanObjective())
        data.prepare(tmp_path)
        (micro,) = steps(data)[0]
        pieces = data.window // data.objective.raw(8)
        assert len(micro["source"]) == 8 * pieces
        assert pieces >= 1


class TestWeights:
    def order(self, stages: list[tuple[int, Mapping[str, float]]]) -> MixtureOrder:
        return MixtureOrder(SECTIONS, stages, length=8, batch=12, seed=3, within="epochs")

    def test_each_stage_has_its_shares(self) -> None:
        early = {"big": 3.0, "small": 1.0, "third": 0.0}
        late = {"big": 0.0, "small": 1.0, "third": 2.0}
        order = self.order([(0, early), (120, late)])
        first = by_source(np.concatenate([order.starts(step) for step in range(10)]))
        second = by_source(np.concatenate([order.starts(step) for step in range(10, 20)]))
        assert {name: len(found) for name, found in first.items()} == {
            "big": 90, "small": 30, "third": 0,
        }  # fmt: skip
        assert {name: len(found) for name, found in second.items()} == {
            "big": 0, "small": 40, "third": 80,
        }  # fmt: skip

    def test_a_source_goes_on_in_its_own_order(self) -> None:
        even = {"big": 1.0, "small": 1.0, "third": 1.0}
        changed = self.order([(0, even), (36, {**even, "big": 4.0}), (60, even)])
        usual = self.order([(0, even)])
        found = [
            by_source(np.concatenate([order.starts(step) for step in range(30)]))
            for order in (changed, usual)
        ]
        for name in SECTIONS:
            count = min(len(each[name]) for each in found)
            assert count > 50
            assert found[0][name][:count] == found[1][name][:count]

    def test_of_a_mixture(self, tmp_path: Path) -> None:
        data = Mixture(
            tokenizer=Byte(),
            sequence_length=4,
            batch=Batch(examples=4),
            sources={"a": partial(letters, "a"), "b": partial(letters, "b")},
            weights={"a": 1, "b": 1},
            curriculum=Curriculum(weights={2: {"a": 0, "b": 1}, 4: {"a": 3, "b": 1}}),
        )
        data.prepare(tmp_path)
        counts = [[letter[0] for letter in rows(step)].count(ord("a")) for step in steps(data)[:6]]
        assert counts == [2, 2, 0, 0, 3, 3]


def letters(letter: str, **arguments: Any) -> TextData:
    return Text(letter * 100)


class TestRefused:
    @pytest.mark.parametrize(
        ("stated", "said"),
        [
            (
                {"sequence_length": {0: 5}},
                "a divisor of data.sequence_length = 16 (the nearest",
            ),
            ({"sequence_length": {0: 32}}, "expected a divisor of data.sequence_length = 16"),
            (
                {"sequence_length": {-1: 4}},
                "expected a step number as key: a non-negative whole number",
            ),
            ({"batch": {0: 16}}, "expected a positive number, at most 8 (the size in data.batch)"),
            ({"batch": {0: 0}}, "expected a positive number"),
            ({"weights": {0: {"a": 1.0}}}, "no weights (the data is not a mixture)"),
            ({"batch": {True: 4}}, "expected a step number as key: a non-negative whole number"),
            ({"batch": {1.0: 4}}, "expected a step number as key: a non-negative whole number"),
            ({"batch": {1: True}}, "curriculum.batch.1 = True: expected a whole number"),
            ({"sequence_length": {1: "4"}}, "expected a whole number"),
        ],
    )
    def test_values(self, stated: dict[str, Any], said: str) -> None:
        from etude.errors import Checks

        checks = Checks()
        Curriculum(**stated).validate(checks, length=16, batch=8, unit=1, sources={})
        with pytest.raises(InvalidArguments) as caught:
            checks.done()
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("weights", "said"),
        [
            ({"a": 1.0}, "curriculum.weights.3.b: expected a weight for the source b"),
            ({"a": 1.0, "b": 1.0, "c": 1.0}, "expected the name of a source"),
            ({"a": 0.0, "b": 0.0}, "a positive weight"),
            ({"a": -1.0, "b": 1.0}, "a non-negative number"),
            ({"a": "x", "b": 1.0}, "weights.3.a = 'x': expected a non-negative number"),
            ({"a": float("inf"), "b": 1.0}, "a non-negative number"),
            ({"a": True, "b": 1.0}, "a non-negative number"),
        ],
    )
    def test_weights(self, weights: dict[str, float], said: str) -> None:
        with pytest.raises(InvalidArguments, match=said):
            Mixture(
                tokenizer=Byte(),
                sequence_length=4,
                batch=Batch(examples=4),
                sources={"a": partial(letters, "a"), "b": partial(letters, "b")},
                weights={"a": 1, "b": 1},
                curriculum=Curriculum(weights={3: weights}),
            )

    def test_processes_that_cannot_share_a_step(self, prepared: Any) -> None:
        data = prepared(Curriculum(batch={0: 3}))
        with pytest.raises(
            RequestError,
            match=r"data.curriculum.batch.0 = 3: expected a number of examples divisible by",
        ):
            data.attach(seed=0, micro_batch=None, total_steps=3, world=2)

    def test_a_run_in_epochs(self) -> None:
        (problem,) = text(Curriculum(batch={0: 4})).misfits(1, max_epochs=2)
        assert problem.where == "trainer.max_epochs"
        assert not list(text(Curriculum(sequence_length={0: 4})).misfits(1, max_epochs=2))

    @pytest.mark.parametrize("length", [1, 2])
    @pytest.mark.parametrize("objective", [MaskObjective(), SpanObjective()], ids=repr)
    def test_lengths_that_the_task_cannot_take(
        self, length: int, objective: Any, tmp_path: Path
    ) -> None:
        data = text(Curriculum(sequence_length={3: length}))
        data.for_task(objective)
        with pytest.raises(RequestError, match=r"data\.curriculum\.sequence_length\.3 = [12]: exp"):
            data.prepare(tmp_path)
