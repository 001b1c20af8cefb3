from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from preparing import prepare_text
from tokenizers import normalizers

from etude.data import split_writer, store
from etude.data.pretrained import Pretrained
from etude.data.splits import Part, Passage, Split, TextSplitMeta
from etude.data.store import Store, open_store
from etude.data.tokenizer import BPE, Byte, Char, Recipe
from etude.data.unigram import Unigram
from etude.data.wordpiece import WordPiece
from etude.errors import RequestError

TRAIN = ["The quick brown fox ", "jumps.", "", "Über\n"]
VAL = ["é quick ☕☕ fox☕", "yes"]


def passages(split: Split) -> Iterator[Passage]:
    """The first training document arrives in two pieces; the second is empty."""
    if split == "train":
        yield from zip((0, 0, 1, 2), TRAIN, strict=True)
    else:
        yield from enumerate(VAL)


def prepared(cache: Path, recipe: Recipe, content: str = "c", **settings: object) -> Store:
    return prepare_text(
        cache, parts={"": passages}, content=content, settings=settings, recipe=recipe
    )


def ids(data: Store, split: Split) -> list[int]:
    return np.fromfile(
        data.folder / f"{split}.tokens.values", dtype=data.meta.columns["tokens"]
    ).tolist()


@pytest.mark.parametrize("recipe", [Char(), Byte(), BPE(270)])
class TestContents:
    def test_documents_are_joined_by_end_of_text(self, recipe: Recipe, tmp_path: Path) -> None:
        data = prepared(tmp_path, recipe)
        end = [data.tokenizer.end_of_text]
        encode = data.tokenizer.encode
        expected = encode("The quick brown fox jumps.") + end + encode("Über\n")
        assert ids(data, "train") == expected
        assert ids(data, "val") == encode(VAL[0]) + end + encode(VAL[1])

    def test_the_mapped_file_is_the_file(self, recipe: Recipe, tmp_path: Path) -> None:
        data = prepared(tmp_path, recipe)
        column = data.column("val", "tokens")
        assert column.values.tolist() == ids(data, "val")
        assert column.windows(2).tolist() == [[*pair] for pair in pairwise(ids(data, "val"))]
        assert pickle.loads(pickle.dumps(column)).values.tolist() == ids(data, "val")
        assert len(pickle.dumps(column)) < 1000  # the path, not the contents
        assert type(column.values) is np.ndarray

    def test_a_list_for_each_document(self, recipe: Recipe, tmp_path: Path) -> None:
        data = prepared(tmp_path, recipe)
        column, encode = data.column("train", "tokens"), data.tokenizer.encode
        assert len(column) == 2
        assert column[0].tolist() == encode("The quick brown fox jumps.")
        assert column[1].tolist() == [data.tokenizer.end_of_text, *encode("Über\n")]

    def test_meta_counts_what_is_there(self, recipe: Recipe, tmp_path: Path) -> None:
        data = prepared(tmp_path, recipe)
        for split, texts, documents in (("train", TRAIN, 2), ("val", VAL, 2)):
            meta = data.meta.splits[split]
            assert meta.bytes == len("".join(texts).encode())
            assert meta.characters == len("".join(texts))
            assert meta.documents == documents
            assert meta.tokens == len(ids(data, split))  # type: ignore[arg-type]
            raw = (data.folder / f"{split}.tokens.values").read_bytes()
            assert meta.sha256 == hashlib.sha256(raw).hexdigest()
        assert data.meta.vocab_size == data.tokenizer.vocab_size
        assert data.meta.tokenizer == data.tokenizer.fingerprint

    def test_long_texts_go_through_in_batches(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = prepared(tmp_path / "whole", recipe)
        monkeypatch.setattr(split_writer, "BATCH", 1)
        batches = prepared(tmp_path / "batches", recipe)
        assert batches.meta == whole.meta


def test_unknown_characters_are_counted_and_named(tmp_path: Path) -> None:
    splits = prepared(tmp_path, Char()).meta.splits
    assert (splits["train"].unknown, splits["train"].most_unknown) == (0, {})
    unseen = {c: VAL[0].count(c) + VAL[1].count(c) for c in "☕éy"}
    assert unseen == {"☕": 3, "é": 1, "y": 1}
    assert splits["val"].unknown == 5
    assert splits["val"].most_unknown == unseen
    assert list(splits["val"].most_unknown) == ["☕", "y", "é"]


def without_unknown(folder: Path, letters: str) -> Recipe:
    """Byte-pair encoding that leaves out what it does not know."""
    spec = json.loads(Char().train([letters]).backend.to_str())
    spec["model"]["unk_token"] = None
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return Pretrained(str(folder / "tokenizer.json"))


def test_characters_without_a_token_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = without_unknown(tmp_path, "".join(TRAIN))
    splits = prepared(tmp_path, recipe).meta.splits
    assert (splits["train"].unknown, splits["val"].unknown) == (0, 5)
    assert splits["val"].most_unknown == {"☕": 3, "é": 1, "y": 1}
    assert "val: dropped 5 characters for which the tokenizer has no token" in caplog.text
    assert not Char().train(TRAIN).loses
    assert not Byte().train(TRAIN).loses


def test_a_tokenizer_that_loses_most_of_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"29 of 31 characters, .* has neither a token nor"):
        prepared(tmp_path, without_unknown(tmp_path, "e"))


def test_first_token_bytes_are_those_of_the_split(tmp_path: Path) -> None:
    assert prepared(tmp_path, Char()).meta.splits["val"].first_token_bytes == 2  # é, unknown
    assert prepared(tmp_path, Byte()).meta.splits["val"].first_token_bytes == 1


def test_a_vocabulary_beyond_16_bits_takes_32(tmp_path: Path) -> None:
    letters = "".join(chr(0x10000 + i) for i in range(66_000))

    def many(split: Split) -> Iterator[Passage]:
        yield 0, letters if split == "train" else letters[-2:]

    data = prepare_text(tmp_path, parts={"": many}, content="", settings={}, recipe=Char())
    assert data.meta.columns == {"tokens": "<u4"}
    assert ids(data, "val") == [65_998, 65_999]


FILES = ["meta.json", "tokenizer.json"]
FILES += [f"{split}.tokens.{kind}" for split in ("train", "val") for kind in ("ends", "values")]


class TestIdentity:
    def test_the_same_request_is_prepared_once(self, tmp_path: Path) -> None:
        folder = prepared(tmp_path, Char()).folder
        stamp = (folder / "train.tokens.values").stat().st_mtime_ns
        assert prepared(tmp_path, Char()).folder == folder
        assert (folder / "train.tokens.values").stat().st_mtime_ns == stamp

    def test_each_thing_that_matters_has_a_folder_of_its_own(self, tmp_path: Path) -> None:
        folders = {
            prepared(tmp_path, Char()).folder,
            prepared(tmp_path, Byte()).folder,
            prepared(tmp_path, BPE(270)).folder,
            prepared(tmp_path, BPE(271)).folder,
            prepared(tmp_path, Char(), content="d").folder,
            prepared(tmp_path, Char(), validation=0.2).folder,
        }
        assert len(folders) == 6

    def test_a_folder_has_these_files(self, tmp_path: Path) -> None:
        folder = prepared(tmp_path, Char()).folder
        names = sorted(path.name for path in folder.iterdir())
        assert names == FILES
        assert json.loads((folder / "meta.json").read_text())["identity"]["format"] == store.FORMAT

    @pytest.mark.parametrize("name", FILES)
    def test_a_damaged_folder_is_refused_with_the_way_out(self, name: str, tmp_path: Path) -> None:
        folder = prepared(tmp_path, Char()).folder
        path = folder / name
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(RequestError, match=str(folder)):
            prepared(tmp_path, Char())


def test_an_empty_split_is_an_empty_file(tmp_path: Path) -> None:
    def only_train(split: Split) -> Iterator[Passage]:
        if split == "train":
            yield 0, "abc"

    data = prepare_text(tmp_path, parts={"": only_train}, content="", settings={}, recipe=Char())
    assert data.column("val", "tokens").values.tolist() == []
    assert data.meta.splits["val"].documents == 0


def test_unknown_ones_are_named_from_the_first_passages_and_counted_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_writer, "NAMED_FROM", 1)
    val = prepared(tmp_path, Char()).meta.splits["val"]
    assert val.unknown == 5
    assert val.most_unknown == {"☕": 3, "é": 1}  # the y is in the second


class TestSections:
    def sections(self, cache: Path, recipe: Recipe) -> Store:
        other: dict[Split, list[str]] = {"train": ["zwölf Boxkämpfer", "jagen"], "val": ["Über"]}
        parts = {"en": passages, "de": lambda split: iter(enumerate(other[split]))}
        return prepare_text(cache, parts=parts, content="c", settings={}, recipe=recipe)

    @pytest.mark.parametrize("recipe", [Char(), Byte(), BPE(270)])
    def test_parts_lie_one_after_the_other_without_a_mark(
        self, recipe: Recipe, tmp_path: Path
    ) -> None:
        data = self.sections(tmp_path, recipe)
        end, encode = [data.tokenizer.end_of_text], data.tokenizer.encode
        first = encode("The quick brown fox jumps.") + end + encode("Über\n")
        second = encode("zwölf Boxkämpfer") + end + encode("jagen")
        assert ids(data, "train") == first + second
        train = data.meta.splits["train"]
        assert list(train.sections) == ["en", "de"]
        places = [(section.start, section.tokens) for section in train.sections.values()]
        assert places == [(0, len(first)), (len(first), len(second))]
        assert sum(section.bytes for section in train.sections.values()) == train.bytes
        assert train.sections["de"].bytes == len("zwölf Boxkämpferjagen".encode())
        assert train.sections["de"].first_token_bytes == 1
        assert train.documents == 4
        assert open_store(data.folder, TextSplitMeta).meta == data.meta

    def test_a_text_of_one_part_has_none(self, tmp_path: Path) -> None:
        folder = prepared(tmp_path, Char()).folder
        assert json.loads((folder / "meta.json").read_text())["splits"]["val"]["sections"] == {}


def one_document(*texts: str) -> dict[str, Part]:
    return {"": lambda split: iter([(0, text) for text in texts])}


class TestCuts:
    def warnings(self, recipe: Recipe, cache: Path, caplog: pytest.LogCaptureFixture) -> int:
        texts = ["aaa bbb", "ccc ddd", " eee", "fff"]
        prepare_text(cache, parts=one_document(*texts), content="", settings={}, recipe=recipe)
        return sum("next to a cut" in record.message for record in caplog.records)

    @pytest.mark.parametrize(
        ("recipe", "expected"), [(Char(), 0), (Byte(), 0), (BPE(270), 2), (Unigram(270), 2)]
    )
    def test_one_that_may_change_tokens_is_told_once_a_split(
        self, recipe: Recipe, expected: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert self.warnings(recipe, tmp_path, caplog) == expected

    def test_of_a_foreign_tokenizer_nothing_is_known(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = BPE(270).train(["aaa bbb"]).backend
        backend.normalizer = normalizers.NFC()
        backend.save(str(tmp_path / "tokenizer.json"))
        recipe = Pretrained(str(tmp_path))
        assert self.warnings(recipe, tmp_path / "cache", caplog) == 2
        assert "with this tokenizer" in caplog.text

    def test_a_cut_at_a_space_is_not_worth_a_word(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        parts = one_document("aaa", " bbb", "\nccc")
        prepare_text(tmp_path, parts=parts, content="", settings={}, recipe=BPE(270))
        assert "next to a cut" not in caplog.text


def test_whether_the_ids_spell_the_text_is_measured(tmp_path: Path) -> None:
    backend = BPE(270).train(["aaa bbb"]).backend
    backend.normalizer = normalizers.NFC()
    backend.save(str(tmp_path / "tokenizer.json"))
    for text, lossless in (("aaa \u00e9", True), ("aaa e\u0301", False)):
        data = prepare_text(
            tmp_path / "cache",
            parts=one_document(text),
            content=text,
            settings={},
            recipe=Pretrained(str(tmp_path)),
        )
        assert data.meta.splits["val"].lossless is lossless
    assert prepared(tmp_path, Char()).meta.splits["val"].lossless  # unknown ones are counted


def test_a_folder_of_before_sections_is_still_read(tmp_path: Path) -> None:
    folder = prepared(tmp_path, Char()).folder
    values = json.loads((folder / "meta.json").read_text())
    for split in values["splits"].values():
        del split["sections"], split["lossless"]
    (folder / "meta.json").write_text(json.dumps(values))
    assert prepared(tmp_path, Char()).meta.splits["val"].lossless


def test_what_is_prepared_never_changes(tmp_path: Path) -> None:
    """Prepared data is found under these names, and trained on: the same for good."""
    found = {}
    for recipe in (Char(), Byte(), BPE(300), Unigram(280), WordPiece(60)):
        parts = one_document("the cat sat on the mat, that cat. " * 20)
        data = prepare_text(tmp_path, parts=parts, content="c", settings={}, recipe=recipe)
        digest = data.meta.splits["train"].sha256
        found[type(recipe).__name__] = (data.folder.name[:8], digest[:8])
    assert found == GOLDEN


GOLDEN = {
    "Char": ("1a0bedbb", "ecdbb39c"),
    "Byte": ("9f0cc029", "2fb3bbf2"),
    "BPE": ("c7c6459d", "7d747f02"),
    "Unigram": ("d46aa80b", "87ecff1c"),
    "WordPiece": ("8c223cfe", "f592349e"),
}
