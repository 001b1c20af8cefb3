from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.data.loading import evaluation_positions
from etude.data.splits import Split
from etude.data.text import Batch, TextData
from etude.data.tokenizer import BPE, Byte, Char, Recipe
from etude.data.wordpiece import WordPiece
from etude.errors import InvalidArguments, RequestError
from etude.tasks.causal_lm import language_model_metrics

TRAIN = ["To be, or not to be, that is the question. " * 8, "Whether 'tis nobler ☕\n" * 12]
VAL = ["in the mind to suffer; " * 9, "é" * 20]


class Corpus(TextData):
    """Documents in memory."""

    def __init__(self, train: list[str], val: list[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.texts = {"train": train, "val": val}

    def documents(self, split: Split) -> Iterator[str]:
        yield from self.texts[split]

    def content_fingerprint(self) -> str:
        return hashlib.sha256(repr(self.texts).encode()).hexdigest()

    def split_settings(self) -> dict[str, object]:
        return {}

    def check(self) -> None:
        pass


def corpus(
    recipe: Recipe | None = None,
    *,
    length: int = 16,
    train: list[str] = TRAIN,
    val: list[str] = VAL,
    **arguments: Any,
) -> Corpus:
    stated = {"batch": Batch(examples=6)} | arguments
    return Corpus(train, val, tokenizer=recipe or Char(), sequence_length=length, **stated)


def steps(data: TextData, **changes: Any) -> list[list[tuple[list[Any], list[Any], int]]]:
    data.attach(**{"seed": 1, "micro_batch": None, "total_steps": 5, **changes})
    return [
        [(m["tokens"].tolist(), m["targets"].tolist(), m["step_targets"]) for m in step]
        for step in data.train_dataloader()
    ]


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"length": 0}, "sequence_length = 0: expected a positive number"),
            ({"batch": Batch()}, "exactly one of tokens and examples"),
            ({"batch": Batch(tokens=16, examples=1)}, "exactly one of tokens and examples"),
            ({"batch": Batch(examples=0)}, "batch.examples = 0"),
            ({"batch": Batch(tokens=0)}, r"batch.tokens = 0.*nearest is 16"),
            ({"batch": Batch(tokens=39)}, r"multiple of sequence_length = 16.*nearest is 32"),
            ({"batch": Batch(tokens=41)}, r"batch.tokens = 41.*nearest is 48"),
            ({"order": "random"}, "order = 'random': expected windows or epochs"),
            ({"workers": -1}, "workers = -1"),
        ],
    )
    def test_a_mistake_is_named(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidArguments, match=message):
            corpus(**arguments)

    def test_all_mistakes_come_at_once(self) -> None:
        with pytest.raises(InvalidArguments) as caught:
            corpus(length=-1, workers=-1, order="x", batch=Batch())
        where = [problem.where for problem in caught.value.problems]
        assert where == ["sequence_length", "order", "workers", "batch"]

    def test_it_builds_under_the_meta_device(self) -> None:
        with torch.device("meta"):
            assert corpus().examples_per_step == 6


class TestSizes:
    @pytest.mark.parametrize("batch", [Batch(examples=6), Batch(tokens=96)])
    def test_both_units_give_the_same_step(self, batch: Batch, tmp_path: Path) -> None:
        data = corpus(batch=batch)
        assert data.examples_per_step == 6
        assert data.tokens_per_step == 96
        data.prepare(tmp_path)
        train = len("".join(TRAIN)) + 1  # one end-of-text between two documents
        assert data.meta.splits["train"].tokens == train
        assert data.steps_per_epoch == pytest.approx((train - 1) // 16 / 6)

    def test_an_epoch_of_steps_reads_every_window_once(self, tmp_path: Path) -> None:
        data = corpus(order="epochs", batch=Batch(examples=1))
        data.prepare(tmp_path)
        rows = [step[0][0][0] for step in steps(data, total_steps=int(data.steps_per_epoch))]
        ids = data.store.column("train", "tokens").values.tolist()
        windows = [ids[i : i + 16] for i in range(0, len(ids) - 16, 16)]
        assert sorted(rows) == sorted(windows)

    @pytest.mark.parametrize("recipe", [Char(), Byte(), BPE(280)])
    def test_bytes_predicted_are_all_but_the_first_tokens(
        self, recipe: Recipe, tmp_path: Path
    ) -> None:
        data = corpus(recipe, val=["é" + VAL[0], VAL[1]])
        data.prepare(tmp_path)
        whole = len(("é" + "".join(VAL)).encode())
        first = data.tokenizer_.encode("é" + VAL[0])[0]
        if isinstance(recipe, Char):
            assert first == data.tokenizer_.unknown
            assert data.bytes_predicted("val") == whole - 2
        else:  # no merge for é was learnt, so its first byte is the first token
            assert data.bytes_predicted("val") == whole - 1

    def test_no_bytes_where_the_tokens_do_not_spell_the_text(self, tmp_path: Path) -> None:
        data = corpus(WordPiece(80))
        data.prepare(tmp_path)
        assert data.bytes_predicted("val") is None
        assert language_model_metrics(2.0, 1, None).keys() == {"loss", "perplexity"}


class TestPreparation:
    def test_the_tokenizer_knows_the_training_split_alone(self, tmp_path: Path) -> None:
        for recipe in (Char(), BPE(280)):
            one, other = corpus(recipe), corpus(recipe, val=["entirely other text ☃" * 9])
            one.prepare(tmp_path)
            other.prepare(tmp_path)
            assert one.tokenizer_.fingerprint == other.tokenizer_.fingerprint
            assert one.store.folder != other.store.folder

    def test_a_window_longer_than_the_split_is_refused(self, tmp_path: Path) -> None:
        tokens = len("".join(TRAIN)) + 1
        data = corpus(length=tokens - 1)
        data.prepare(tmp_path)
        assert steps(data, total_steps=1)  # the longest window there is
        with pytest.raises(RequestError, match=rf"data\.sequence_length = {tokens}.*{tokens}"):
            corpus(length=tokens).prepare(tmp_path)

    def test_a_validation_split_without_a_target_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="at least 2 tokens in the validation split, not 1"):
            corpus(val=["x"]).prepare(tmp_path)

    def test_steps_in_the_wrong_order_are_said(self) -> None:
        with pytest.raises(RuntimeError, match="prepare"):
            _ = corpus().meta
        with pytest.raises(RuntimeError, match="attach"):
            corpus().train_dataloader()


class TestTraining:
    @pytest.mark.parametrize("order", ["windows", "epochs"])
    def test_targets_are_the_tokens_after(self, order: str, tmp_path: Path) -> None:
        data = corpus(order=order)
        data.prepare(tmp_path)
        text = "".join(chr(i) for i in data.store.column("train", "tokens").values)
        for step in steps(data):
            for tokens, targets, step_targets in step:
                assert step_targets == 96
                for row, after in zip(tokens, targets, strict=True):
                    window = "".join(map(chr, [*row, after[-1]]))
                    assert row[1:] == after[:-1]
                    assert window in text

    @pytest.mark.parametrize("order", ["windows", "epochs"])
    def test_neither_workers_nor_a_stop_change_the_steps(self, order: str, tmp_path: Path) -> None:
        data, shared = corpus(order=order), corpus(order=order, workers=2)
        data.prepare(tmp_path)
        shared.prepare(tmp_path)
        whole = steps(data, micro_batch=4)
        assert steps(shared, micro_batch=4) == whole
        assert steps(shared, micro_batch=4, start_step=2) == whole[2:]
        assert len(shared.train_dataloader()) == 5
        assert steps(data, micro_batch=4, seed=2) != whole

    def test_loading_leaves_the_global_random_numbers_alone(self, tmp_path: Path) -> None:
        data = corpus(workers=1)
        data.prepare(tmp_path)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        steps(data)
        list(data.val_dataloader())
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_step_that_cannot_be_shared_is_refused(self, tmp_path: Path) -> None:
        data = corpus()
        data.prepare(tmp_path)
        with pytest.raises(RequestError) as caught:
            data.attach(seed=0, micro_batch=0, total_steps=1, world=4)
        where = [problem.where for problem in caught.value.problems]
        assert where == ["data.batch.examples", "trainer.micro_batch"]


class TestEvaluation:
    @pytest.mark.parametrize("length", [None, 1, 7, 16, 5000])
    def test_the_whole_split_is_scored_at_any_length(
        self, length: int | None, tmp_path: Path
    ) -> None:
        data = corpus()
        data.prepare(tmp_path)
        batches = list(data.evaluation_batches("val", length))
        targets = torch.cat([batch["targets"].flatten() for batch in batches])
        assert targets.tolist() == data.store.column("val", "tokens").values.tolist()[1:]
        assert {batch["section"] for batch in batches} == {0}

    def test_a_missing_split_is_refused(self, tmp_path: Path) -> None:
        data = corpus()
        data.prepare(tmp_path)
        with pytest.raises(RequestError, match="expected one of train, val"):
            data.evaluation_batches("test")
        with pytest.raises(RequestError, match="expected one of train, val"):
            data.evaluation_batches(["val"])

    def test_batches_hold_about_8192_targets(self, tmp_path: Path) -> None:
        data = corpus(val=["x" * 50_000])
        data.prepare(tmp_path)
        for length, examples in ((64, 128), (1000, 8), (9000, 1)):
            first = next(iter(data.evaluation_batches("val", length)))
            assert tuple(first["tokens"].shape) == (examples, length)

    def test_the_validation_loader_is_the_whole_validation_split(self, tmp_path: Path) -> None:
        data = corpus()
        data.prepare(tmp_path)
        data.attach(seed=0, micro_batch=None, total_steps=1, rank=1, world=2)
        loader = data.val_dataloader()
        targets = sum(batch["targets"].numel() for batch in loader)
        assert targets == data.meta.splits["val"].tokens - 1
        assert len(loader) == len(list(loader))


def test_a_corpus_must_say_what_it_is() -> None:
    with pytest.raises(TypeError, match="abstract"):
        TextData(tokenizer=Char(), sequence_length=1, batch=Batch(examples=1))  # type: ignore[abstract]


def test_a_batch_of_evaluation_has_room_for_its_logits() -> None:
    assert [evaluation_positions(v) for v in (65, 16384, 32768, 2**28)] == [8192, 8192, 4096, 1]


def test_another_reader_is_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of one's own class is seen, though the file that it reads is the same."""
    monkeypatch.syspath_prepend(tmp_path)
    code = Path(__file__).read_text(encoding="utf-8")
    corpus_class = code[code.index("class Corpus(TextData)") : code.index("def corpus(")]
    head = "import hashlib\nfrom etude.data.text import TextData\n\n"
    head += "Iterator = list\nSplit = Any = object\n"
    body = corpus_class.replace("-> Iterator[str]", "").replace("dict[str, object]", "dict")
    kept = []
    for name, change in (("one", ""), ("two", ".upper()")):
        text = body.replace("yield from self.texts[split]", f"yield self.texts[split][0]{change}")
        (tmp_path / f"reader_{name}.py").write_text(head + text)
        module = __import__(f"reader_{name}")
        made = module.Corpus(TRAIN, VAL, tokenizer=Char(), sequence_length=4,
                             batch=Batch(examples=2))  # fmt: skip
        kept.append(made.prepare(tmp_path / "cache"))
        (tmp_path / "reader_two.py").write_text("")
    one, two = (store.tokenizer.decode(store.column("train", "tokens")[0][:30]) for store in kept)
    assert two == one.upper() != one


def test_a_document_that_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"Corpus.documents = 'tuple': expected documents of type str"
    ):
        corpus(train=[("a", "b")]).prepare(tmp_path)  # type: ignore[list-item]
