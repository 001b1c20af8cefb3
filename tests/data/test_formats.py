"""Files of rows and compressed files give the documents that went into them; damage is told."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data import formats, rows
from etude.data.formats import format_of, open_bytes
from etude.data.rows import split_rows
from etude.data.text import Batch
from etude.data.text_files import TextFiles
from etude.data.tokenizer import BPE, Byte
from etude.errors import RequestError

DOCUMENTS = [
    "one line",
    "two\nlines, a comma",
    'a "quote"',
    "☕ Naïve \u2028 𝄞",
    "  spaces\t",
    "NA",
    "007",
    "2020-01-01",
    "null",
    "1e5",
    "e\u0301\0",
    "x" * 5000,
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def data(path: Any, **arguments: Any) -> TextFiles:
    stated = {"tokenizer": Byte(), "sequence_length": 8, "batch": Batch(examples=2)} | arguments
    return TextFiles(path=path if isinstance(path, list) else str(path), **stated)


def prepare(source: TextFiles, folder: Path) -> None:
    """What a run does with its data before anything else."""
    source.check()
    source.prepare(folder / "cache")


def as_jsonl(documents: list[str], column: str = "text") -> bytes:
    lines = [
        json.dumps({"id": i, column: text}, ensure_ascii=i % 2 == 0)
        for i, text in enumerate(documents)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def as_json(documents: list[str], column: str = "text") -> bytes:
    return json.dumps([{"id": i, column: d} for i, d in enumerate(documents)], indent=1).encode()


def as_csv(documents: list[str], column: str = "text", separator: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator)
    writer.writerow(["id", column])
    writer.writerows((i, text) for i, text in enumerate(documents))
    return file.getvalue().encode()


def as_tsv(documents: list[str], column: str = "text") -> bytes:
    return as_csv(documents, column, "\t")


def as_parquet(documents: list[str], column: str = "text") -> bytes:
    file = io.BytesIO()
    table = pd.DataFrame({"id": range(len(documents)), column: documents})
    table.to_parquet(file, row_group_size=5)
    return file.getvalue()


WRITERS = {
    "jsonl": as_jsonl,
    "ndjson": as_jsonl,
    "json": as_json,
    "csv": as_csv,
    "tsv": as_tsv,
    "parquet": as_parquet,
}
COMBINATIONS = [
    (suffix, compression)
    for suffix in WRITERS
    for compression in COMPRESS
    if suffix != "parquet" or not compression
]


def in_order(source: TextFiles) -> list[str]:
    """All documents, the held-out ones put back where they were taken from."""
    train, val = iter(source.documents("train")), iter(source.documents("val"))
    v = source.validation
    result: list[str] = []
    while True:
        i = len(result)
        held_out = math.floor((i + 1) * v) > math.floor(i * v)
        document = next(val if held_out else train, None)
        if document is None:
            assert next(train, None) is None
            assert next(val, None) is None
            return result
        result.append(document)


class TestRows:
    @pytest.mark.parametrize(("suffix", "compression"), COMBINATIONS)
    def test_every_format_gives_the_documents_that_went_in(
        self, suffix: str, compression: str, tmp_path: Path
    ) -> None:
        documents = [f"{i}: {text}" if i % 2 else text for i, text in enumerate(DOCUMENTS * 3)]
        raw = WRITERS[suffix](documents)
        path = tmp_path / f"a [1] *.{suffix}{compression}"
        path.write_bytes(COMPRESS[compression](raw))
        source = data(path, validation=0.25)
        source.check()
        assert in_order(source) == documents
        meta = source.prepare(tmp_path / "cache").meta.splits
        assert meta["train"].documents + meta["val"].documents == len(documents)
        size = sum(len(document.encode()) for document in documents)
        assert meta["train"].bytes + meta["val"].bytes == size

    @settings(deadline=None, max_examples=25)
    @given(documents=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=12))
    @pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
    def test_any_text(
        self, suffix: str, documents: list[str], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("rows") / f"a.{suffix}"
        path.write_bytes(WRITERS[suffix](documents))
        source = data(path, validation=0.999)  # the first is for training, nearly all others not
        train = list(source.documents("train"))
        val = list(source.documents("val")) if len(documents) > 1 else []
        expected = [text.replace("\r\n", "\n").replace("\r", "\n") for text in documents]
        assert train[:1] + val + train[1:] == expected

    def test_a_json_file_may_hold_a_line_an_object(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(b"\n \n" + as_jsonl(DOCUMENTS))
        assert in_order(data(tmp_path / "a.json")) == DOCUMENTS

    def test_a_folder_is_its_files_one_after_the_other(self, tmp_path: Path) -> None:
        (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(as_jsonl(DOCUMENTS[4:8])))
        (tmp_path / "a.csv").write_bytes(as_csv(DOCUMENTS[:4]))
        (tmp_path / "c.parquet").write_bytes(as_parquet(DOCUMENTS[8:]))
        (tmp_path / "empty.jsonl").touch()
        (tmp_path / "header.csv").write_text("id,text\n")
        assert in_order(data(tmp_path, validation=0.5)) == DOCUMENTS

    def test_keys_and_types_may_come_later(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        lines = [{"text": "one"}] * 500 + [{"text": "two", "more": {"deep": [1, "x"]}}, {"n": 5}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert in_order(data(path)) == ["one"] * 500 + ["two"]

    def test_rows_without_text_are_no_documents(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = ["a", None, "b", "", None, "c"]
        frame = pd.DataFrame({"text": pd.Series(rows, dtype=object)})
        frame.to_parquet(tmp_path / "a.parquet")
        frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
        for name in ("a.parquet", "a.jsonl"):
            caplog.clear()
            with caplog.at_level("INFO", "etude.data"):
                assert in_order(data(tmp_path / name, validation=0.5)) == ["a", "b", "c"]
            told = [record.getMessage() for record in caplog.records]
            assert told == ["skipped 2 rows without text"]

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
    def test_a_windows_file_gives_the_documents_of_its_unix_twin(
        self, suffix: str, tmp_path: Path
    ) -> None:
        documents = [f"line {i}\nof ☕" for i in range(20)]
        raw = WRITERS[suffix](documents).replace(b"\r\n", b"\n")
        (tmp_path / f"unix.{suffix}").write_bytes(raw)
        twin = tmp_path / f"windows.{suffix}"
        twin.write_bytes(codecs.BOM_UTF8 + raw.replace(b"\n", b"\r\n"))
        assert in_order(data(twin)) == in_order(data(tmp_path / f"unix.{suffix}")) == documents

    def test_a_line_end_within_a_row_is_a_newline(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "a\\r\\nb\\rc"}\n{"text": "d"}\n')
        assert in_order(data(tmp_path / "a.jsonl", validation=0.5)) == ["a\nb\nc", "d"]

    def test_a_document_between_files_ends(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in/a.jsonl").write_bytes(as_jsonl(["one", "two"]))
        (tmp_path / "in/b.jsonl").write_bytes(as_jsonl(["three", "four"]))
        source = data(tmp_path / "in", validation=0.4, sequence_length=2)
        source.prepare(tmp_path / "cache")
        ids = source.store.column("train", "tokens").values.tolist()
        assert ids == [*b"one", 256, *b"two", 256, *b"four"]
        assert source.store.column("val", "tokens").values.tolist() == [*b"three"]

    def test_the_library_is_the_source(self, tmp_path: Path) -> None:
        """The same rows as `load_dataset` gives, where its guesses about types do no harm."""
        import datasets

        documents = [f"{i}: {text}" for i, text in enumerate(DOCUMENTS)]
        for suffix, kind in {"jsonl": "json", "csv": "csv", "parquet": "parquet"}.items():
            path = tmp_path / f"a.{suffix}"
            path.write_bytes(WRITERS[suffix](documents))
            files = {"data_files": str(path), "cache_dir": str(tmp_path / "hf")}
            theirs = datasets.load_dataset(kind, split="train", **files)["text"]
            assert in_order(data(path)) == list(theirs)


class TestSplit:
    @given(count=st.integers(2, 300), validation=st.floats(0.01, 0.99))
    def test_a_document_stays_in_its_split_when_others_are_added(
        self, count: int, validation: float
    ) -> None:
        def held_out(n: int) -> list[str]:
            documents = [str(i) for i in range(n)]
            return list(split_rows(documents, held_out=True, validation=validation))

        more = held_out(count + 300)
        assert len(more) == math.floor((count + 300) * validation)
        try:
            assert held_out(count) == more[: math.floor(count * validation)]
        except RequestError:
            assert math.floor(count * validation) == 0
        train = list(split_rows(map(str, range(count)), held_out=False, validation=validation))
        assert sorted(train + more[: count - len(train)], key=int) == list(map(str, range(count)))

    def test_every_tenth_by_default(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(as_jsonl([str(i) for i in range(30)]))
        assert list(data(tmp_path / "a.jsonl").documents("val")) == ["9", "19", "29"]

    def test_too_few_rows_for_the_part(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(as_jsonl(["some text"] * 7))
        with pytest.raises(RequestError, match=r"one of the 7 .*data\.validation=0\.143"):
            data(tmp_path / "a.jsonl").prepare(tmp_path / "cache")
        data(tmp_path / "a.jsonl", validation=0.143).prepare(tmp_path / "cache")
        (tmp_path / "b.jsonl").write_bytes(as_jsonl(["some text"]))
        with pytest.raises(RequestError, match=r"data\.validation = 0\.1: .*one of the 1 rows"):
            data(tmp_path / "b.jsonl").prepare(tmp_path / "cache")


class TestColumns:
    @pytest.mark.parametrize("suffix", WRITERS)
    def test_the_one_that_is_stated(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(WRITERS[suffix](DOCUMENTS, "body"))
        assert in_order(data(path, column="body")) == DOCUMENTS
        with pytest.raises(RequestError, match=r"has the columns id.*, body; did you mean body\?"):
            data(path, column="bdy").check()

    @pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
    def test_the_only_one_of_text(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(WRITERS[suffix](DOCUMENTS, "body"))
        assert in_order(data(path)) == DOCUMENTS

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", "title,body\na,b\n", "the name of the text column .*columns title, body"),
            ("a.jsonl", '{"a": "x", "b": "y"}\n', "the name of the text column .*columns a, b"),
            ("a.jsonl", '{"a": 1, "b": null}\n', r"a column with .*a \(no text\), b \(no text\)"),
            ("a.jsonl", '{"a": 1}\n{"a": "x"}\n', r"a column with text .*a \(no text\)"),
        ],
    )
    def test_none_that_is_clear(
        self, name: str, content: str, message: str, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(RequestError, match=message) as caught:
            data(tmp_path / name).check()
        assert caught.value.problems[0].where == "data.column"

    def test_each_file_must_have_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(as_jsonl(DOCUMENTS))
        (tmp_path / "b.jsonl").write_bytes(as_jsonl(DOCUMENTS, "body"))
        with pytest.raises(RequestError, match=r"b\.jsonl has the columns id \(no text\), body"):
            data(tmp_path).check()

    def test_plain_text_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("text")
        with pytest.raises(RequestError, match=r"data\.column = 'text': expected null"):
            data(tmp_path / "a.txt", column="text").check()


class TestPlainText:
    @pytest.mark.parametrize("compression", [c for c in COMPRESS if c])
    @pytest.mark.parametrize("name", ["a.txt", "a.md", "a"])
    def test_compressed_text_is_text(self, name: str, compression: str, tmp_path: Path) -> None:
        text = "Naïve ☕\n\n" * 400
        path = tmp_path / f"{name}{compression}"
        raw = codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode()
        path.write_bytes(COMPRESS[compression](raw))
        source = data(path)
        source.check()
        border = int(len(text) * 0.9)
        assert list(source.documents("train")) == [text[:border]]
        assert list(source.documents("val")) == [text[border:]]

    def test_with_rows_beside_it_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("about")
        (tmp_path / "a.jsonl").write_bytes(as_jsonl(DOCUMENTS))
        with pytest.raises(
            RequestError, match=r"not both \(.*README.md is plain text, .*jsonl has rows; s"
        ):
            data(tmp_path).check()
        data(tmp_path / "*.jsonl").check()


class TestFingerprint:
    @pytest.mark.parametrize(("suffix", "compression"), COMBINATIONS)
    def test_one_byte_changes_it(self, suffix: str, compression: str, tmp_path: Path) -> None:
        path = tmp_path / f"a.{suffix}{compression}"
        path.write_bytes(COMPRESS[compression](WRITERS[suffix](["some words", "more"] * 20)))
        before = data(path).content_fingerprint()
        assert before == data(path).content_fingerprint()
        words = WRITERS[suffix](["some wordz", "more"] * 20)
        path.write_bytes(COMPRESS[compression](words))
        assert data(path).content_fingerprint() != before

    def test_the_column_is_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,other\na,b\n")
        prints = {
            data(tmp_path / "a.csv", column=c).content_fingerprint() for c in ("text", "other")
        }
        assert len(prints) == 2
        assert data(tmp_path / "a.csv").content_fingerprint() in prints

    def test_files_are_read_for_it_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.jsonl").write_bytes(as_jsonl(DOCUMENTS))
        source = data(tmp_path)
        source.check()
        before = source.content_fingerprint()
        monkeypatch.setattr(Path, "open", None)
        monkeypatch.setattr("builtins.open", None)
        assert source.content_fingerprint() == before


class TestDamage:
    @pytest.mark.parametrize("compression", [c for c in COMPRESS if c])
    @pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv"])
    @pytest.mark.parametrize("keep", [0.5, 0.999])
    def test_a_compressed_file_that_is_cut_short(
        self, suffix: str, compression: str, keep: float, tmp_path: Path
    ) -> None:
        words = [f"document {i * 7919 % 1000}" for i in range(2000)]
        raw = "\n".join(words).encode() if suffix == "txt" else WRITERS[suffix](words)
        path = tmp_path / f"a.{suffix}{compression}"
        whole = COMPRESS[compression](raw)
        path.write_bytes(whole[: int(len(whole) * keep)])
        source = data(path)
        with pytest.raises(RequestError, match=f"expected a complete {compression} file") as caught:
            prepare(source, tmp_path)
        assert caught.value.problems[0].where == str(path)
        assert [entry.suffix for entry in (tmp_path / "cache").glob("*")] in ([], [".lock"])

    @pytest.mark.parametrize("frames", [1, 2, 5])
    def test_all_frames_of_a_zst_file_are_read(self, frames: int, tmp_path: Path) -> None:
        raw = as_jsonl([str(i) for i in range(1000)])
        compress = COMPRESS[".zst"]
        size = len(raw) // frames + 1
        parts = [compress(raw[i : i + size]) for i in range(0, len(raw), size)]
        (tmp_path / "a.jsonl.zst").write_bytes(b"".join(parts))
        with open_bytes(tmp_path / "a.jsonl.zst") as stream:
            assert stream.read() == raw
        assert in_order(data(tmp_path / "a.jsonl.zst")) == [str(i) for i in range(1000)]

    @pytest.mark.parametrize(
        ("content", "where", "expected"),
        [
            (b'{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', "line 2, column 13", "JSON"),
            (b'{"text": "a"}\n\n"b"\n', "line 3", "one object per line"),
            (b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", "line 2", "JSON"),
            (b'{"text": "a"}\n{"text": 5}\n', "line 2, column text", "text or null"),
            (b'{"text": "a"}\n{"text": ["b"]}\n', "line 2, column text", "text or null"),
            (b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2, column text", "surrogate"),
            (b'{"text": "a"}\n{"text": "\xe9"}\n', "line 2, byte 24", "UTF-8 text"),
        ],
    )
    @pytest.mark.parametrize("late", [False, True])
    def test_a_bad_line_is_named(
        self, content: bytes, where: str, expected: str, late: bool, tmp_path: Path
    ) -> None:
        if late:  # behind what says which columns there are
            more = 1000
            content = b'{"text": "a"}\n' * more + content
            line = int(where.split(",")[0].removeprefix("line "))
            where = where.replace(f"line {line}", f"line {line + more}")
            where = where.replace("byte 24", f"byte {24 + 14 * more}")
        path = tmp_path / "a.jsonl"
        path.write_bytes(content)
        with pytest.raises(RequestError, match=expected) as caught:
            prepare(data(path, column="text"), tmp_path)
        assert caught.value.problems[0].where == f"{path}, {where}"

    @pytest.mark.parametrize(
        ("content", "where", "hint"),
        [
            (b"id,text\n1,a\n2,b,c\n", ", line 3", "2 cells, as in the header, not 3"),
            (b"text\na, b\nc\n", ", line 2", "quotation marks around a cell"),
            (b'id,text\n1,"open\n2,b\n', ", line 2", "a closing quotation mark"),
            (b"id,text\n1,caf\xe9\n", ", line 2, byte 13", "iconv"),
        ],
    )
    def test_a_bad_line_of_csv(self, content: bytes, where: str, hint: str, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(content)
        with pytest.raises(RequestError, match=hint) as caught:
            prepare(data(path, column="text"), tmp_path)
        assert caught.value.problems[0].where == f"{path}{where}"

    @pytest.mark.parametrize("damage", ["cut", "zeros", "text"])
    def test_a_damaged_parquet_file(self, damage: str, tmp_path: Path) -> None:
        whole = as_parquet([f"document {i}" for i in range(5000)])
        contents = {
            "cut": whole[: len(whole) // 2],
            "zeros": whole[:200] + bytes(len(whole) // 2) + whole[200 + len(whole) // 2 :],
            "text": b"this is no table",
        }
        path = tmp_path / "a.parquet"
        path.write_bytes(contents[damage])
        with pytest.raises(RequestError, match=r"a (readable|valid \.parquet) file") as caught:
            prepare(data(path), tmp_path)
        assert caught.value.problems[0].where == str(path)

    def test_numbers_are_no_text(self, tmp_path: Path) -> None:
        pd.DataFrame({"n": [1, 2], "text": ["a", "b"]}).to_parquet(tmp_path / "a.parquet")
        source = data(tmp_path / "a.parquet", column="n")
        source.check()
        with pytest.raises(RequestError, match=r"row 1, column n = 1: expected text or null"):
            source.prepare(tmp_path / "cache")

    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.jsonl", b"\n\n"), ("a.csv", b"id,text\n"), ("a.json", b"[]"), ("a.jsonl.gz", b"")],
    )
    def test_a_file_without_rows(self, name: str, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        with pytest.raises(RequestError, match=r"data\."):
            prepare(data(path), tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("text", "")),
        ("a.JSONL.GZ", ("json", ".gz")),
        ("a.b.csv", ("csv", "")),
        ("a.tsv.zst", ("csv", ".zst")),
        ("a.parquet", ("parquet", "")),
        ("a.parquet.gz", None),
        ("a.tar.gz", None),
        ("a.py", None),
        ("a", None),
        ("a.gz", None),
    ],
)
def test_a_name_tells_the_format(name: str, expected: tuple[str, str] | None) -> None:
    found = format_of(Path(name))
    assert (found and (found.kind, found.compression)) == expected


def test_line_ends_and_places_hold_across_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "GROUP", 3)
    monkeypatch.setattr(formats, "STEP", 5)
    documents = [f"{i}: {text}" for i, text in enumerate(DOCUMENTS * 4)]
    (tmp_path / "a.jsonl.zst").write_bytes(COMPRESS[".zst"](as_jsonl(documents)))
    (tmp_path / "b.csv").write_bytes(as_csv(documents))
    tokenizers = [
        data(tmp_path / name, tokenizer=BPE(300)).prepare(tmp_path / "cache").tokenizer
        for name in ("a.jsonl.zst", "b.csv")
    ]
    assert tokenizers[0].fingerprint == tokenizers[1].fingerprint
