"""Pairs, catalogs, tagged sentences, parties: what each source reads, and what it refuses."""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from etude.data.examples import tables
from etude.data.examples.base import ExampleData
from etude.data.examples.labelled import LabelledFiles
from etude.data.examples.pairs import Catalogs, Pairs
from etude.data.examples.parties import SotuParties
from etude.data.examples.tagged import HKCanCor, Tagged
from etude.data.objective import IGNORE
from etude.data.text import Batch
from etude.data.tokenizer import BPE, Char
from etude.data.wordpiece import WordPiece
from etude.errors import RequestError
from etude.tasks.classification import LabelObjective
from etude.tasks.tagging import TagObjective
from etude.tasks.translation import PairObjective

SIZES: dict[str, Any] = {"sequence_length": 48, "batch": Batch(examples=4)}

CONLLU = """# sent_id = 1
1	The	the	DET	DT	_	2	det	_	_
2-3	foxes	_	_	_	_	_	_	_	_
2	fox	fox	NOUN	NN	_	0	root	_	_
2.1	is	be	AUX	_	_	_	_	_	_
3	es	es	X	XX	_	2	dep	_	_

1	Run	run	VERB	VB	_	0	root	_	_

"""
CONLL = """-DOCSTART- -X- O

U.N. NNP B-ORG
official NN O
Ekeus NNP B-PER

Baghdad NNP B-LOC
. . O
"""


def repeated(text: str, path: Path, times: int = 12) -> Path:
    path.write_text(text * times, encoding="utf-8")
    return path


def prepared(data: ExampleData, objective: Any, cache: Path) -> Any:
    data.for_task(objective)
    data.check()
    data.prepare(cache)
    return data


class TestTagged:
    def sentences(self, path: Path, **more: Any) -> list[tuple[list[str], list[str]]]:
        data = Tagged(path=str(path), tokenizer=WordPiece(60), **SIZES, **more)
        return [(row.values["words"], row.values["tags"]) for row in data._read_rows("train")]

    def test_conllu(self, tmp_path: Path) -> None:
        path = repeated(CONLLU, tmp_path / "a.conllu", 1)
        assert self.sentences(path) == [
            (["The", "fox", "es"], ["DET", "NOUN", "X"]),
            (["Run"], ["VERB"]),
        ]
        assert self.sentences(path, tags="deprel")[0][1] == ["det", "root", "dep"]
        with pytest.raises(RequestError, match="did you mean upos"):
            self.sentences(path, tags="upso")

    def test_conll(self, tmp_path: Path) -> None:
        path = repeated(CONLL, tmp_path / "eng.train", 1)
        assert self.sentences(path) == [
            (["U.N.", "official", "Ekeus"], ["B-ORG", "O", "B-PER"]),
            (["Baghdad", "."], ["B-LOC", "O"]),
        ]
        assert self.sentences(path, tags=1)[1][1] == ["NNP", "."]
        with pytest.raises(RequestError, match=r"eng\.train, line 3.*its tag in column 7"):
            self.sentences(path, tags=7)

    def test_a_line_of_conll_with_a_word_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "words.txt"
        path.write_text("cats N\nrun\n\n" * 20)
        with pytest.raises(RequestError, match=r"line 2 = 'run': expected a word in column 0"):
            self.sentences(path)

    def test_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"words": ["a", "b"], "tags": ["X", "Y"]}) + "\n")
        assert self.sentences(path) == [(["a", "b"], ["X", "Y"])]
        path.write_text(json.dumps({"words": ["a", "b"], "tags": ["X"]}) + "\n")
        with pytest.raises(RequestError, match=r"a\.jsonl, row 1.*of the same length"):
            self.sentences(path)

    @pytest.mark.parametrize("recipe", [WordPiece(60), BPE(270), Char()])
    def test_a_tag_stands_at_the_first_token_of_its_word(self, tmp_path: Path, recipe: Any) -> None:
        path = repeated(CONLL, tmp_path / "eng.train")
        made = Tagged(path=str(path), tokenizer=recipe, **SIZES)
        data = prepared(made, TagObjective(), tmp_path)
        example = data.table("train")[0]
        assert example["labels"][0] == example["labels"][-1] == IGNORE  # special tokens
        places = [n for n, tag in enumerate(example["labels"]) if tag != IGNORE]
        assert [data.labels[example["labels"][n]] for n in places] == ["B-ORG", "O", "B-PER"]
        ends = [*places[1:], len(example["tokens"]) - 1]
        decode = data.tokenizer_.decode
        words = [decode(example["tokens"][a:b].tolist()) for a, b in zip(places, ends, strict=True)]
        plain = [word.strip().replace(" ", "").lower() for word in words]
        assert plain == ["u.n.", "official", "ekeus"]

    def test_a_word_without_tokens_has_its_tag(self, tmp_path: Path) -> None:
        path = repeated("\u200b S\nsad A\n\u200b S\nugly B\n\n", tmp_path / "a.conll", 20)
        made = Tagged(path=str(path), tokenizer=WordPiece(60), **SIZES)
        data = prepared(made, TagObjective(), tmp_path)
        example = data.table("train")[0]
        tags = [data.labels[tag] for tag in example["labels"] if tag != IGNORE]
        assert tags == ["S", "A", "S", "B"]

    def test_compressed_conllu_is_conllu(self, tmp_path: Path) -> None:
        path = repeated(CONLLU, tmp_path / "a.conllu", 1)
        packed = tmp_path / "b.CONLLU.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert self.sentences(packed) == self.sentences(path)

    def test_what_is_not_utf8_is_told_by_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "a.conll"
        path.write_bytes(b"x B\n\ncaf\xe9 O\n\n")
        with pytest.raises(RequestError, match=r"a\.conll, line 3, byte 8.*UTF-8"):
            self.sentences(path)

    def test_a_column_that_is_none_is_told_by_its_key(self, tmp_path: Path) -> None:
        path = repeated(CONLLU, tmp_path / "a.conllu", 1)
        with pytest.raises(RequestError, match=r"data\.words = 'frm'.*did you mean form"):
            self.sentences(path, words="frm")

    def test_a_long_sentence_in_pieces(self, tmp_path: Path) -> None:
        words = [f"w{n}" for n in range(60)]
        path = tmp_path / "a.jsonl"
        rows = [{"words": words, "tags": [w[-1] for w in words]}] * 20
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sizes = {**SIZES, "sequence_length": 16}
        made = Tagged(path=str(path), tokenizer=WordPiece(40), **sizes)
        data = prepared(made, TagObjective(), tmp_path)
        assert data.meta.splits["train"].examples > 18
        table, row_numbers = data.table("train"), data.row_numbers("train")
        first = [
            tag for n in range(len(table)) if row_numbers[n] == 0 for tag in table[n]["labels"]
        ]
        names = [data.labels[tag] for tag in first if tag != IGNORE]
        assert names == [w[-1] for w in words]


def test_hkcancor(tmp_path: Path) -> None:
    data = prepared(HKCanCor(tokenizer=Char(), **SIZES), TagObjective(), tmp_path)
    splits = data.meta.splits
    assert sum(split.rows + split.empty for split in splits.values()) == 16162
    words = sum(len(words) for _, each in data.conversations for words, _ in each)
    assert words == sum(sum(split.labels) for split in splits.values()) == 153656
    assert {name: round(split.rows / 16162, 2) for name, split in splits.items()} == {
        "train": 0.77,
        "val": 0.12,
        "test": 0.12,
    }


def test_hkcancor_in_universal_tags() -> None:
    own, universal = (
        HKCanCor(tokenizer=Char(), tagset=tagset, **SIZES) for tagset in ("own", "universal")
    )
    assert own.content_fingerprint() != universal.content_fingerprint()
    (row, taken), *_ = zip(own.rows("train"), universal.rows("train"), strict=True)
    assert "".join(row.values["words"]) == "".join(taken.values["words"]) == "喂遲啲去唔去旅行啊?"
    assert row.values["tags"] == ["e", "a", "u", "v", "d", "v", "vn", "y", "?"]
    assert taken.values["tags"] == [
        "INTJ", "ADJ", "PART", "VERB", "ADV", "VERB", "NOUN", "PART", "PUNCT",
    ]  # fmt: skip
    assert (len(own.stated_labels or ()), len(universal.stated_labels or ())) == (102, 15)


class TestPairs:
    def test_both_sides_end(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        rows = [{"en": f"one {n}", "zh": f"一 {n}"} for n in range(40)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = Pairs(path=str(path), source="en", target="zh", tokenizer=BPE(270), **SIZES)
        data = prepared(made, PairObjective(), tmp_path)
        example, end = data.table("train")[0], data.tokenizer_.end_of_text
        assert example["source"][-1] == example["labels"][-1] == end
        assert data.tokenizer_.decode(example["labels"][:-1].tolist()) == "一 0"
        assert data.tokenizer_.backend.num_special_tokens_to_add(False) == 0  # a text is bare

    def test_an_empty_side_is_no_pair(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        rows = [{"source": f"one {n}", "target": "" if n == 3 else "x"} for n in range(40)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = Pairs(path=str(path), tokenizer=BPE(270), **SIZES)
        data = prepared(made, PairObjective(), tmp_path)
        assert data.meta.splits["train"].empty == 1


def catalog(path: Path, messages: dict[str, str]) -> None:
    """Writes a `.mo` file: two tables of lengths and offsets, then the texts (GNU gettext manual,
    section 10.3).
    """
    messages = {"": "Content-Type: text/plain; charset=UTF-8\n", **messages}
    keys = sorted(messages, key=str.encode)
    ids = [key.encode() for key in keys]
    texts = [messages[key].encode() for key in keys]
    count, head = len(keys), 28
    offset = head + 16 * count
    tables = b""
    body = b""
    for group in (ids, texts):
        for each in group:
            tables += struct.pack("<II", len(each), offset + len(body))
            body += each + b"\0"
    path.parent.mkdir(parents=True)
    header = struct.pack("<IIIIIII", 0x950412DE, 0, count, head, head + 8 * count, 0, 0)
    path.write_bytes(header + tables + body)


def test_catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "spoken"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('it was run')\n")
    messages = {f"Open file {n}": f"打开文件 {n}" for n in range(60)}
    messages |= {"same": "same", "menu\x04Save": "保存", "%d file\0%d files": "%d 个文件"}
    catalog(package / "locale" / "zh_CN" / "LC_MESSAGES" / "django.mo", messages)
    monkeypatch.syspath_prepend(tmp_path)
    more: dict[str, Any] = {"tokenizer": BPE(270), **SIZES}
    data = Catalogs(packages=["spoken"], locale="zh_CN", validation=0.1, test=0.1, **more)
    prepared(data, PairObjective(), tmp_path / "cache")
    found = dict(data.messages)
    assert found["Save"] == "保存"
    assert found["%d file"] == "%d 个文件"
    assert "same" not in found
    assert len(found) == 62
    splits = [sum(1 for _ in data.rows(name)) for name in ("train", "val", "test")]
    assert splits == [50, 6, 6]
    with pytest.raises(RequestError, match="an installed package"):
        Catalogs(packages=["no_such_thing"], locale="zh_CN", **more).check()
    with pytest.raises(RequestError, match="no catalogs for fr"):
        Catalogs(packages=["spoken"], locale="fr", **more).check()


class TestParties:
    def made(self, **more: Any) -> SotuParties:
        options = {"parties": ["Democratic", "Republican"], "tokenizer": BPE(400), **SIZES, **more}
        return SotuParties(**options)

    def test_no_president_in_two_splits(self) -> None:
        data = self.made()
        found = {
            split: {row.values["president"] for row in data.rows(split)}
            for split in ("train", "val", "test")
        }
        assert all(len(names) >= 3 for names in found.values())
        assert not found["train"] & found["val"]
        assert not found["train"] & found["test"]
        assert not found["val"] & found["test"]
        for split in found:
            assert {row.values["party"] for row in data.rows(split)} == {"Democratic", "Republican"}

    def test_passages_are_the_speech(self) -> None:
        data = self.made()
        speech = data.speeches[-1]
        passages = list(data._passages(speech))
        text = speech.path.read_text(encoding="utf-8")
        assert "".join("".join(passages).split()) == "".join(text.split())
        assert min(len(passage.split()) for passage in passages[:-1]) >= 150

    def test_a_party_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="did you mean Democratic"):
            prepared(self.made(parties=["Democratc", "Republican"]), LabelObjective(), tmp_path)


@pytest.mark.parametrize("duplicates", ["warn", "drop"])
def test_a_file_is_parsed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duplicates: Any
) -> None:
    """Splits, labels, the tokenizer's texts and the examples come from one pass over it."""
    rows = tmp_path / "rows.csv"
    lines = [f"text {number},{'ab'[number % 2]}" for number in range(2500)]
    rows.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    data = LabelledFiles(
        path=str(rows), tokenizer=Char(), sequence_length=16, batch=Batch(examples=4),
        validation=0.2, test=0.1, duplicates=duplicates,
    )  # fmt: skip
    data.for_task(LabelObjective())
    counts: Counter[str] = Counter()
    original = tables.iterate_rows

    def counted(file: Path, *more: Any) -> Any:
        counts["begun"] += 1
        for record in original(file, *more):
            counts["rows"] += 1
            yield record

    monkeypatch.setattr(tables, "iterate_rows", counted)
    data.check()
    data.prepare(tmp_path / "cache")
    assert counts == {"begun": 1, "rows": 2500}
    splits = data.meta.splits
    assert [splits[name].rows for name in ("train", "val", "test")] == [1750, 500, 250]
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert not list(folder.glob("rows.*"))
