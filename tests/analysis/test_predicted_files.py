"""Tests of the texts that `etude predict --file` reads from a file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from etude.analysis.predicting import Predictor
from etude.data.examples.labelled import LabelledFiles
from etude.data.examples.tagged import Tagged
from etude.data.examples.word_data import WORD
from etude.data.text import Batch
from etude.data.tokenizer import Char
from etude.errors import RequestError


def predictor(source: type, **more: Any) -> Predictor:
    data = source(
        path="x.csv", tokenizer=Char(), sequence_length=8, batch=Batch(examples=2), **more
    )
    made: Predictor = object.__new__(Predictor)
    made.data = data
    return made


def labels(**more: Any) -> Predictor:
    return predictor(LabelledFiles, **more)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a", "a.log"])
def test_lines_end_at_line_ends_alone(name: str, tmp_path: Path) -> None:
    raw = "\ufeffone\u2028line\r\ntwo\x0b\x85lines\n".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert list(labels().read(path)) == ["one\u2028line", "two\x0b\x85lines"]


def test_a_table_is_read_as_the_run_reads_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"said"\n')
    with pytest.raises(
        RequestError, match=r"line 2: expected data\.quoting set to csv or none, because a cell"
    ):
        list(labels().read(path))
    assert list(labels(quoting="csv").read(path)) == ["said"]
    assert list(labels(quoting="none").read(path)) == ['"said"']
    assert list(labels(quoting="none").read(path, "csv")) == ["said"]
    assert list(labels().read(path, "none")) == ['"said"']


def test_the_line_without_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"two\nlines"\n2,\n')
    with pytest.raises(RequestError, match=rf"{path}, line 4: expected non-empty text"):
        list(labels().read(path))


def test_words_of_conll_need_no_tags(tmp_path: Path) -> None:
    made = predictor(Tagged)
    path = tmp_path / "a.conll"
    path.write_text("10\u00a0000\n#\n\nyes\n")
    assert list(made.read(path)) == [["10\u00a0000", "#"], ["yes"]]
    path.write_text("# sent_id = 1\nNew York\tNNP\n\n")
    assert list(made.read(path)) == [["New York"]]
    path = tmp_path / "a.conllu"
    path.write_text("\t".join(["1", "Rome", *["_"] * 8]) + "\n")
    assert list(made.read(path)) == [["Rome"]]


def test_a_no_break_space_belongs_to_its_word() -> None:
    assert WORD.findall(" 10\u00a0000 people\tin\nOslo ") == ["10\u00a0000", "people", "in", "Oslo"]
