from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.config.checks import check
from etude.config.compose import compose
from etude.data.mixture import CHUNK, Mixture, MixtureOrder, Shares, _seed_of
from etude.data.order import ORDERS
from etude.data.splits import SectionMeta
from etude.data.text import Batch
from etude.data.text_files import TextFiles
from etude.data.tokenizer import BPE, Char, Recipe
from etude.errors import InvalidArguments, RequestError

weights_of_sources = st.lists(
    st.one_of(st.integers(1, 9).map(float), st.floats(0.001, 1000.0)), min_size=1, max_size=6
).map(tuple)


def one_after_the_other(weights: tuple[float, ...], examples: int) -> list[int]:
    """Each example goes to the source with the largest weight / (2 count + 1): Sainte-Laguë."""
    exact = [Fraction(repr(weight)) for weight in weights]
    counts = [0] * len(weights)
    given = []
    for _ in range(examples):
        claims = [weight / (2 * count + 1) for weight, count in zip(exact, counts, strict=True)]
        given.append(claims.index(max(claims)))
        counts[given[-1]] += 1
    return given


class TestShares:
    @given(weights_of_sources, st.integers(0, 200))
    def test_they_are_those_of_sainte_lague(
        self, weights: tuple[float, ...], examples: int
    ) -> None:
        shares = Shares(weights)
        expected = one_after_the_other(weights, examples)
        assert shares.sources(shares.counts(0), examples) == expected
        counts = Counter(expected)
        assert shares.counts(examples) == [counts[k] for k in range(len(weights))]

    @given(weights_of_sources, st.integers(0, 10**12), st.integers(1, 50))
    def test_any_example_is_known_without_those_before(
        self, weights: tuple[float, ...], first: int, number: int
    ) -> None:
        shares = Shares(weights)
        before, after = shares.counts(first), shares.counts(first + number)
        between = Counter(shares.sources(before, number))
        assert [b + between[k] for k, b in enumerate(before)] == after
        assert sum(before) == first
        for weight, count in zip(weights, before, strict=True):
            share = Fraction(repr(weight)) / sum(Fraction(repr(w)) for w in weights)
            assert abs(count - first * share) <= (1 + len(weights) * share) / 2

    def test_the_long_run_is_exact(self) -> None:
        assert Shares((0.7, 0.2, 0.1)).counts(10**9) == [7 * 10**8, 2 * 10**8, 10**8]
        assert Shares((7.0, 2.0, 1.0)).units == Shares((0.7, 0.2, 0.1)).units == (7, 2, 1)


SECTIONS = {
    "big": SectionMeta(0, 100_000, 0, 0),
    "small": SectionMeta(100_000, 90, 0, 0),
    "third": SectionMeta(100_090, 5000, 0, 0),
}
WEIGHTS = {"big": 2.0, "small": 1.0, "third": 0.5}


def order(within: str = "windows", batch: int = 12, seed: int = 3) -> MixtureOrder:
    return MixtureOrder(SECTIONS, [(0, WEIGHTS)], length=8, batch=batch, seed=seed, within=within)


def by_source(starts: np.ndarray) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in SECTIONS}
    for start in starts.tolist():
        for name, section in SECTIONS.items():
            if section.start <= start < section.start + section.tokens:
                assert start + 8 + 1 <= section.start + section.tokens  # never across a border
                found[name].append(start - section.start)
    return found


@pytest.mark.parametrize("within", ["windows", "epochs"])
class TestOrder:
    def test_a_source_gives_its_own_windows_in_its_own_order(self, within: str) -> None:
        steps = [order(within).starts(step) for step in range(200)]
        found = by_source(np.concatenate(steps))
        for name, section in SECTIONS.items():
            own = ORDERS[within](section.tokens, 8, CHUNK, _seed_of(name, 3))
            number = len(found[name])
            chunks = [own.starts(chunk) for chunk in range(number // CHUNK + 1)]
            assert found[name] == np.concatenate(chunks)[:number].tolist()
        assert [len(given) for given in found.values()] == Shares((2, 1, 0.5)).counts(2400)

    def test_steps_can_be_asked_in_any_order(self, within: str) -> None:
        forwards = [order(within).starts(step).tolist() for step in range(40)]
        one = order(within)
        assert [one.starts(step).tolist() for step in reversed(range(40))] == forwards[::-1]

    def test_a_source_keeps_its_windows_when_another_goes(self, within: str) -> None:
        left = {name: SECTIONS[name] for name in ("big", "third")}
        without = MixtureOrder(left, [(0, WEIGHTS)], length=8, batch=12, seed=3, within=within)
        one = by_source(np.concatenate([order(within).starts(step) for step in range(100)]))
        other = by_source(np.concatenate([without.starts(step) for step in range(100)]))
        for name in left:
            common = min(len(one[name]), len(other[name]))
            assert one[name][:common] == other[name][:common]
        assert other["small"] == []

    def test_seeds_differ_and_sources_are_shuffled_within_a_step(self, within: str) -> None:
        assert order(within, seed=4).starts(0).tolist() != order(within).starts(0).tolist()
        first = [int(order(within, seed=seed).starts(0)[0] < 100_000) for seed in range(100)]
        assert 0.4 < sum(first) / 100 < 0.75  # 2 / 3.5 of them, at every place of the step

    def test_it_never_changes(self, within: str) -> None:
        """Recorded runs are continued with these numbers: they must stay the same for good."""
        assert order(within, batch=5).starts(7).tolist() == GOLDEN[within]


GOLDEN = {
    "windows": [100013, 104463, 38025, 71428, 39600],
    "epochs": [100072, 102578, 14320, 66904, 58352],
}


def files(folder: Path, **texts: str) -> dict[str, Callable[..., TextFiles]]:
    sources = {}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
        sources[name] = partial(TextFiles, path=str(folder / f"{name}.txt"), validation=0.25)
    return sources


def mixture(
    folder: Path, recipe: Recipe | None = None, weights: dict[str, float] | None = None, **more: Any
) -> Mixture:
    sources = files(folder, lower="abcdefgh" * 40, upper="ABCDEFGH" * 20)
    stated: dict[str, Any] = {"sequence_length": 8, "batch": Batch(examples=6), **more}
    return Mixture(
        sources=dict(sources),
        weights=weights or {"lower": 2.0, "upper": 1.0},
        tokenizer=recipe or Char(),
        **stated,
    )


def steps(data: Mixture, **changes: Any) -> list[list[list[Any]]]:
    data.attach(**{"seed": 1, "micro_batch": 4, "total_steps": 9, **changes})
    return [[m["tokens"].tolist() for m in step] for step in data.train_dataloader()]


class TestData:
    def test_texts_are_mixed_by_weight_and_never_within_a_window(self, tmp_path: Path) -> None:
        data = mixture(tmp_path)
        data.check()
        data.prepare(tmp_path / "cache")
        rows = [row for step in steps(data) for micro in step for row in micro]
        texts = [data.tokenizer_.decode(row) for row in rows]
        assert len(texts) == 54
        assert sum(text.islower() for text in texts) == 36
        assert sum(text.isupper() for text in texts) == 18

    @pytest.mark.parametrize("within", ["windows", "epochs"])
    def test_neither_workers_nor_a_stop_change_the_steps(self, within: str, tmp_path: Path) -> None:
        data, shared = (mixture(tmp_path, order=within, workers=w) for w in (0, 2))
        data.prepare(tmp_path / "cache")
        shared.prepare(tmp_path / "cache")
        whole = steps(data)
        assert steps(shared) == whole
        assert steps(shared, start_step=4) == whole[4:]
        halves = [steps(data, rank=rank, world=2, micro_batch=None) for rank in (0, 1)]
        joined = [a[0] + b[0] for a, b in zip(*halves, strict=True)]
        assert joined == [[row for micro in step for row in micro] for step in whole]

    def test_one_tokenizer_knows_all_training_splits(self, tmp_path: Path) -> None:
        data = mixture(tmp_path, BPE(262), sequence_length=1)
        data.prepare(tmp_path / "cache")
        tokenizer = data.tokenizer_
        lower, upper = "abcdefgh" * 30, "ABCDEFGH" * 15
        assert tokenizer.fingerprint == BPE(262).train([lower, upper]).fingerprint
        train = data.meta.splits["train"]
        ids = data.store.column("train", "tokens").values
        first, second = train.sections["lower"], train.sections["upper"]
        assert tokenizer.decode(ids[: first.tokens].tolist()) == lower
        assert tokenizer.decode(ids[second.start :].tolist()) == upper  # no mark between the two
        assert (second.start, train.tokens) == (first.tokens, first.tokens + second.tokens)

    @pytest.mark.parametrize("length", [None, 1, 7, 100])
    def test_validation_takes_every_target_of_every_source_once(
        self, length: int | None, tmp_path: Path
    ) -> None:
        data = mixture(tmp_path)
        data.prepare(tmp_path / "cache")
        batches = list(data.evaluation_batches("val", length))
        assert len(batches) == len(data.evaluation_batches("val", length))
        for section, text in enumerate(("abcdefgh" * 10, "ABCDEFGH" * 5)):
            own = [batch["targets"].flatten() for batch in batches if batch["section"] == section]
            assert data.tokenizer_.decode(torch.cat(own).tolist()) == text[1:]
        assert data.bytes_predicted("val") == 79 + 39
        assert data.steps_per_epoch == pytest.approx((239 // 8 + 119 // 8) / 6)

    def test_weights_prepare_nothing_anew(self, tmp_path: Path) -> None:
        one, other = mixture(tmp_path), mixture(tmp_path, weights={"lower": 1, "upper": 5})
        assert one.prepare(tmp_path / "c").folder == other.prepare(tmp_path / "c").folder

    def test_the_fingerprint_is_that_of_all_sources(self, tmp_path: Path) -> None:
        before = mixture(tmp_path).content_fingerprint()
        assert mixture(tmp_path).content_fingerprint() == before
        data = mixture(tmp_path)
        (tmp_path / "upper.txt").write_text("ABCDEFGH" * 20 + "I")
        assert data.content_fingerprint() != before

    def test_the_order_in_which_sources_are_written_means_nothing(self, tmp_path: Path) -> None:
        data = mixture(tmp_path)
        data.prepare(tmp_path / "cache")
        sources = files(tmp_path, upper="ABCDEFGH" * 20, lower="abcdefgh" * 40)
        other = Mixture(
            sources=dict(sources),
            weights={"upper": 1, "lower": 2},
            tokenizer=Char(),
            sequence_length=8,
            batch=Batch(examples=6),
        )
        assert other.prepare(tmp_path / "cache").folder == data.store.folder
        assert steps(other) == steps(data)


class TestMistakes:
    def test_names_and_weights_are_compared(self, tmp_path: Path) -> None:
        weights = {"lower": 0.0, "uper": 1.0}
        with pytest.raises(InvalidArguments) as caught:
            mixture(tmp_path, weights=weights, sequence_length=0)
        told = {problem.where: problem.hint for problem in caught.value.problems}
        assert set(told) == {"weights.lower", "weights.upper", "weights.uper", "sequence_length"}
        assert told["weights.uper"] == "did you mean upper?"

    @pytest.mark.parametrize("weight", [-1.0, 0.0, float("nan"), float("inf")])
    def test_a_weight_is_a_positive_number(self, weight: float, tmp_path: Path) -> None:
        with pytest.raises(InvalidArguments, match=r"weights\.upper = .*a positive number"):
            mixture(tmp_path, weights={"lower": 1.0, "upper": weight})

    def test_no_source_and_strange_names_are_refused(self) -> None:
        sizes: dict[str, Any] = {"sequence_length": 8, "batch": Batch(examples=6)}
        with pytest.raises(InvalidArguments, match="at least one source"):
            Mixture(sources={}, weights={}, tokenizer=Char(), **sizes)
        sources = {"a/b": partial(TextFiles, path="x.txt")}
        with pytest.raises(InvalidArguments, match="a name of letters"):
            Mixture(sources=sources, weights={"a/b": 1.0}, tokenizer=Char(), **sizes)

    def test_what_sources_lack_is_told_under_their_names(self, tmp_path: Path) -> None:
        sources = {name: partial(TextFiles, path=str(tmp_path / name)) for name in ("a", "b")}
        data = Mixture(
            sources=dict(sources),
            weights={"a": 1, "b": 1},
            tokenizer=Char(),
            sequence_length=8,
            batch=Batch(examples=6),
        )
        with pytest.raises(RequestError) as caught:
            data.check()
        where = [problem.where for problem in caught.value.problems]
        assert where == ["data.sources.a.path", "data.sources.b.path"]

    def test_a_window_longer_than_a_source_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            RequestError,
            match="below 120, the number of tokens in the training split of the source upper",
        ):
            mixture(tmp_path, sequence_length=120).prepare(tmp_path / "cache")


FROM_THE_COMMAND = """
defaults:
  - tokenizer: char
  - _self_
_target_: etude.data.mixture.Mixture
sources:
  lower: {_target_: etude.data.text_files.TextFiles, _partial_: true, path: LOWER}
  upper: {_target_: etude.data.text_files.TextFiles, _partial_: true, path: UPPER}
weights: {lower: 2, upper: 1}
sequence_length: 8
batch: {examples: 4}
"""


@pytest.fixture
def own_config(tmp_path: Path) -> Path:
    """A folder of configs with `data=mine`, a mixture of two files."""
    text = FROM_THE_COMMAND
    for name, letters in (("lower", "abc def "), ("upper", "ABC DEF ")):
        (tmp_path / f"{name}.txt").write_text(letters * 60)
        text = text.replace(f"path: {name.upper()}", f"path: {tmp_path / name}.txt")
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(text)
    return tmp_path / "conf"


def test_a_run_validates_on_all_and_on_each(
    etude: Callable[..., Any], own_config: Path, tmp_path: Path
) -> None:
    words = [
        "--config-dir",
        own_config,
        "experiment=debug",
        "data=mine",
        "name=mix",
        "model.dim=8",
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "schedule.warmup_steps=0",
        "run.samples=0",
        f"run.root={tmp_path / 'runs'}",
        "callbacks=early_stopping",
        "callbacks.early_stopping.monitor=val/upper/loss",
    ]
    answer = etude("train", *words)
    assert answer.code == 0, answer.err
    (record,) = (tmp_path / "runs" / "mix").iterdir()
    last = json.loads((record / "metrics.jsonl").read_text().splitlines()[-1])
    targets = {"lower": 47, "upper": 47}  # a tenth of 480 characters, less the first
    mean = sum(last[f"val/{name}/loss"] * n for name, n in targets.items()) / sum(targets.values())
    assert last["val/loss"] == pytest.approx(mean)
    assert last["val/lower/loss"] != last["val/upper/loss"]
    info = json.loads((record / "run.json").read_text())
    assert info["data"]["splits"]["train"]["sections"]["upper"]["tokens"] == 432
    assert etude("train", *words).code == 0  # found, not trained again
    changed = etude("train", *words, "data.weights.uper=3")
    assert changed.code == 2
    assert "data.weights.uper" in changed.err


def test_a_source_is_checked_like_any_data_node(own_config: Path) -> None:
    def mistakes(*overrides: str) -> dict[str, str | None]:
        words = ["experiment=debug", "data=mine", *overrides]
        with pytest.raises(RequestError) as caught:
            check(compose(words, config_dir=own_config))
        return {problem.where: problem.hint for problem in caught.value.problems}

    assert mistakes("+data.sources.lower.batch={examples: 3}") == {
        "data.sources.lower.batch": "the data sets this argument; to change it, set data.batch"
    }
    assert mistakes("+data.sources.lower.validaton=0.5") == {
        "data.sources.lower.validaton": "did you mean validation?"
    }
    assert "data.sources.lower.path" in mistakes("~data.sources.lower.path")
    assert "data.weights" in mistakes("data.weights.lower=heavy")
