from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from etude.data import prepare
from etude.data.prepare import Passage, Prepared, Split, prepare_text
from etude.data.tokenizer import BPE, Byte, Char, Recipe
from etude.errors import RequestError

TRAIN = ["The quick brown fox ", "jumps.", "", "Über\n"]
VAL = ["é quick ☕☕ fox☕", "yes"]


def passages(split: Split) -> Iterator[Passage]:
    """The first training document arrives in two pieces; the second is empty."""
    if split == "train":
        yield from zip((0, 0, 1, 2), TRAIN, strict=True)
    else:
        yield from enumerate(VAL)


def prepared(cache: Path, recipe: Recipe, content: str = "c", **settings: object) -> Prepared:
    return prepare_text(cache, passages=passages, content=content, settings=settings, recipe=recipe)


def ids(data: Prepared, split: Split) -> list[int]:
    return np.fromfile(data.folder / f"{split}.bin", dtype=data.meta.dtype).tolist()


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
        file = data.split("val")
        assert file.ids.tolist() == ids(data, "val")
        assert pickle.loads(pickle.dumps(file)).ids.tolist() == ids(data, "val")
        assert len(pickle.dumps(file)) < 1000  # the path, not the contents
        assert type(file.ids) is np.ndarray

    def test_meta_counts_what_is_there(self, recipe: Recipe, tmp_path: Path) -> None:
        data = prepared(tmp_path, recipe)
        for split, texts, documents in (("train", TRAIN, 2), ("val", VAL, 2)):
            meta = data.meta.splits[split]
            assert meta.bytes == len("".join(texts).encode())
            assert meta.characters == len("".join(texts))
            assert meta.documents == documents
            assert meta.tokens == len(ids(data, split))  # type: ignore[arg-type]
            raw = (data.folder / f"{split}.bin").read_bytes()
            assert meta.sha256 == hashlib.sha256(raw).hexdigest()
        assert data.meta.vocab_size == data.tokenizer.vocab_size
        assert data.meta.tokenizer == data.tokenizer.fingerprint

    def test_long_texts_go_through_in_batches(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = prepared(tmp_path / "whole", recipe)
        monkeypatch.setattr(prepare, "BATCH", 1)
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


def test_first_token_bytes_are_those_of_the_split(tmp_path: Path) -> None:
    assert prepared(tmp_path, Char()).meta.splits["val"].first_token_bytes == 2  # é, unknown
    assert prepared(tmp_path, Byte()).meta.splits["val"].first_token_bytes == 1


def test_a_vocabulary_beyond_16_bits_takes_32(tmp_path: Path) -> None:
    letters = "".join(chr(0x10000 + i) for i in range(66_000))

    def many(split: Split) -> Iterator[Passage]:
        yield 0, letters if split == "train" else letters[-2:]

    data = prepare_text(tmp_path, passages=many, content="", settings={}, recipe=Char())
    assert data.meta.dtype == "<u4"
    assert ids(data, "val") == [65_998, 65_999]


class TestIdentity:
    def test_the_same_request_is_prepared_once(self, tmp_path: Path) -> None:
        folder = prepared(tmp_path, Char()).folder
        stamp = (folder / "train.bin").stat().st_mtime_ns
        assert prepared(tmp_path, Char()).folder == folder
        assert (folder / "train.bin").stat().st_mtime_ns == stamp

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

    def test_a_folder_has_the_four_files(self, tmp_path: Path) -> None:
        folder = prepared(tmp_path, Char()).folder
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["meta.json", "tokenizer.json", "train.bin", "val.bin"]
        assert json.loads((folder / "meta.json").read_text())["format"] == prepare.FORMAT

    @pytest.mark.parametrize("name", ["meta.json", "tokenizer.json", "train.bin", "val.bin"])
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

    data = prepare_text(tmp_path, passages=only_train, content="", settings={}, recipe=Char())
    assert data.split("val").ids.tolist() == []
    assert data.meta.splits["val"].documents == 0
