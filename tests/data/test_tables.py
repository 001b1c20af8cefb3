"""Tables are read as their formats say, and what no format says is refused by file and line."""

from __future__ import annotations

import bz2
import csv
import datetime
import decimal
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data import json_rows
from etude.data.delimited import Quoting
from etude.data.examples.labelled import LabelledFiles
from etude.data.formats import format_of
from etude.data.rows import iterate_rows, read_columns
from etude.data.text import Batch
from etude.data.text_files import TextFiles
from etude.data.tokenizer import Char
from etude.errors import RequestError


def table(path: Path, quoting: Quoting | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    form = format_of(path)
    assert form is not None
    names = list(read_columns(path, form, quoting))
    rows = iterate_rows(path, form, names, quoting)
    return names, [tuple(row[name] for name in names) for _, row in rows]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, quoting: Quoting | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        table(path, quoting)
    return "\n".join(str(problem).removeprefix(f"{path}") for problem in caught.value.problems)


def as_pandas(path: Path, **options: Any) -> list[tuple[Any, ...]]:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, **options)
    return [tuple(row) for row in frame.itertuples(index=False)]


class TestTSV:
    def forty(self, path: Path) -> Path:
        """The sentences of a task in which some begin with a quotation mark, as GLUE's do."""
        lines = [f"{n}\tsentence {n}\t{n % 2}" for n in range(40)]
        lines[5] = '5\t"The quick brown fox\t1'
        lines[13] = '13\tand so on", she said\t0'
        lines[20] = '20\t5" or 6" of snow\t0'
        return written(path, "id\ttext\tlabel\n" + "\n".join(lines) + "\n")

    def test_a_quotation_mark_swallows_no_line(self, tmp_path: Path) -> None:
        path = self.forty(tmp_path / "a.tsv")
        names, rows = table(path)
        assert (names, len(rows)) == (["id", "text", "label"], 40)
        assert rows == as_pandas(path, sep="\t", quoting=csv.QUOTE_NONE)
        assert rows[5][1] == '"The quick brown fox'

    def test_tabs_and_line_ends_in_quotes_are_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tsv"
        texts = ["a\tb", 'say "x"', "two\nlines", '"', "plain"]
        pd.DataFrame({"id": range(5), "text": texts}).to_csv(path, sep="\t", index=False)
        assert [row[1] for row in table(path)[1]] == texts
        assert table(path)[1] == as_pandas(path, sep="\t")

    def test_two_readings_that_differ_have_to_be_decided(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.tsv", 'id\ttext\n1\tplain\n2\t"said"\n3\tmore\n')
        told = refused(path)
        assert told.startswith(", line 3: expected data.quoting set to csv or none, because a cell")
        assert "with data.quoting=csv the cell is 'said', with data.quoting=none '\"said\"'" in told
        assert table(path, "csv")[1][1] == ("2", "said")
        assert table(path, "none")[1][1] == ("2", '"said"')

    def test_lines_that_would_be_swallowed_have_to_be_decided(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.tsv", '1\ttext\tx\n2\t"foo\ty\n3\tbar"\tz\n4\tmore\tx\n')
        told = refused(path)
        assert told.startswith(", line 2")
        assert len(table(path, "none")[1]) == 3
        assert len(table(path, "csv")[1]) == 2

    @settings(deadline=None, max_examples=60)
    @given(
        rows=st.lists(
            st.lists(st.text('ab"\t\n ,', max_size=5), min_size=2, max_size=2),
            min_size=1,
            max_size=5,
        ),
        quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    )
    def test_what_a_program_writes_comes_back_or_is_asked_for(
        self, rows: list[list[str]], quoting: Any, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("tsv") / "a.tsv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=quoting)
            writer.writerows([["x", "y"], *rows])
        try:
            found = table(path)[1]
        except RequestError:
            assert "data.quoting" in refused(path)
            found = table(path, "csv")[1]
        assert found == [tuple(row) for row in rows]

    def test_stated_quoting_reads_csv_too(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", 'x,y\n"a",b"c\n')
        assert table(path, "none")[1] == [('"a"', 'b"c')]

    def test_it_is_an_option_of_every_source_of_tables(self, tmp_path: Path) -> None:
        lines = "".join(f'text {n}\t"a{n % 2}"\n' for n in range(20))
        path = written(tmp_path / "a.tsv", f"text\tlabel\n{lines}")
        common: dict[str, Any] = {
            "path": str(path), "tokenizer": Char(), "sequence_length": 8, "batch": Batch(examples=2)
        }  # fmt: skip
        for source in (LabelledFiles, TextFiles):
            more = {"column": "label"} if source is TextFiles else {}
            with pytest.raises(RequestError, match=r"data\.quoting"):
                source(**common, **more).check()
            for quoting in ("csv", "none"):
                made = source(**common, **more, quoting=quoting)
                made.check()
        data = LabelledFiles(**common, quoting="csv")
        assert [data.labels_of(row) for row in data.rows("val")] == [["a1"], ["a1"]]
        lines_only = written(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n')
        with pytest.raises(RequestError, match=r"data\.quoting = 'csv': expected null \(no file"):
            LabelledFiles(**common | {"path": str(lines_only)}, quoting="csv").check()


class TestCSV:
    def test_as_other_readers(self, tmp_path: Path) -> None:
        content = (
            '\ufeffid,text,more\r\n1,"a, b",\r\n2,"say ""hi""",NA\n\n3,"two\nlines", padded \n4,,x'
        )
        path = written(tmp_path / "a.csv", content)
        names, rows = table(path)
        assert names == ["id", "text", "more"]
        assert rows == as_pandas(path)
        options = arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        parse = arrow_csv.ParseOptions(newlines_in_values=True)
        theirs = arrow_csv.read_csv(path, convert_options=options, parse_options=parse)
        assert rows == [tuple(row.values()) for row in theirs.to_pylist()]

    def test_line_ends_in_cells_are_newlines(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.csv", 'x,y\r\n"a\r\nb",c\r\n"d\re",f\r\n')
        assert table(path)[1] == [("a\nb", "c"), ("d\ne", "f")]

    def test_the_index_of_pandas_is_no_column(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        pd.DataFrame({"text": ["a", "b"]}).to_csv(path)
        assert table(path) == (["text"], [("a",), ("b",)])

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("text,text\na,b\n", ", line 1 = 'text': expected a column name that occurs only once"),
            ("a,,b\n1,2,3\n", ", line 1 = '': expected a name for column 2"),
            ("a,b,,\n1,2,,\n", ", line 1 = '': expected a column name that occurs only once"),
            ("a,b\n1,2\n3\n", ", line 3: expected 2 cells, as in the header, not 1"),
            ("a,b\n1,2\n3,4,\n", ", line 3: expected 2 cells, as in the header, not 3"),
            ('a,b\n1,"x\n2,y\n', ", line 2: expected a closing quotation mark"),
            ('a,b\n1,"x"y\n', ", line 2: expected a valid CSV row"),
            ('a,b\n1,2\n1,x"y"\n', ", line 3: expected quotation marks only at the start and"),
            ('a,b\n1, "x"\n', ", line 2: expected quotation marks only at the start and"),
            ("a;b\n1;2\n", ", line 1 = 'a;b': expected column names separated by commas"),
            ("a\tb\n1\t2\n", ", line 1 = 'a\\tb': expected column names separated by commas"),
            ("a,b\n1,2\n".encode("utf-16"), ", line 1, byte 0 = '0xff': expected UTF-8 text"),
            ("a,b\n1,2\n".encode("utf-16-le"), "is UTF-16, convert it to UTF-8 with iconv"),
            (b"a,b\n1,2\n\xff,3\n", ", line 3, byte 8 = '0xff': expected UTF-8 text"),
        ],
    )
    def test_what_is_no_csv_is_refused_by_line(
        self, content: str | bytes, told: str, tmp_path: Path
    ) -> None:
        assert told in refused(written(tmp_path / "a.csv", content))

    def test_a_nul_in_a_cell_is_text(self, tmp_path: Path) -> None:
        assert table(written(tmp_path / "a.csv", "a,b\n1,x\0y\n"))[1] == [("1", "x\0y")]

    @settings(deadline=None, max_examples=60)
    @given(
        rows=st.lists(
            st.lists(st.text('ab",\n\r ;', max_size=5), min_size=2, max_size=2), max_size=5
        )
    )
    def test_what_the_standard_library_writes_comes_back(
        self, rows: list[list[str]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("csv") / "a.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["x", "y"], *rows])
        plain_ends = [
            tuple(c.replace("\r\n", "\n").replace("\r", "\n") for c in row) for row in rows
        ]
        assert table(path)[1] == plain_ends

    def test_a_long_cell_is_read(self, tmp_path: Path) -> None:
        long = "x" * 300_000  # the standard library's own limit is 131,072
        assert table(written(tmp_path / "a.csv", f"a,b\n1,{long}\n"))[1] == [("1", long)]


class TestJSON:
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (
                '{"text": "a"}\n{"text": "b", "text": "c"}\n',
                ", line 2: expected JSON with one object per line, or one list of objects "
                "(duplicate key 'text' in an object)",
            ),
            ('{"a": {"b": 1, "b": 2}}\n', ", line 1: expected JSON"),
            ('[{"a": 1},\n {"b": 1, "b": 2}]', ", row 2: expected JSON"),
            ('[{"a": 1},\n {"b": 1} {"c": 1}]', ", line 2, column 11: expected JSON"),
            ('[{"a": 1},\n {"b": x}]', ", line 2, column 8: expected JSON"),
            ('[{"a": 1},\n {"b": "x]', ", line 2, column 8: expected JSON"),
            ('[{"a": 1}, 5]', ", row 2 = 5: expected a JSON object"),
            ('[{"a": 1}] x', ", line 1, column 12: expected the end of the file"),
            ('[{"a": 1}', ", line 1, column 10"),
            ('{"a": 1}\n[1]\n', ", line 2 = [1]: expected JSON with one object per line"),
            ('{\n "a": 1\n}\n', ", line 1, column 2: expected JSON with one object per line"),
        ],
    )
    def test_what_no_rows_are_is_refused_by_line(
        self, content: str, told: str, tmp_path: Path
    ) -> None:
        assert told in refused(written(tmp_path / "a.json", content))

    @settings(deadline=None, max_examples=40)
    @given(
        rows=st.lists(
            st.dictionaries(
                st.sampled_from(["text", "n", "more"]),
                st.recursive(
                    st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner, max_size=3),
                    max_leaves=5,
                ),
            ),
            max_size=6,
        ),
        indent=st.sampled_from([None, 1]),
        ascii_=st.booleans(),
    )
    def test_a_list_is_read_in_pieces_of_any_size(
        self,
        rows: list[dict[str, Any]],
        indent: Any,
        ascii_: bool,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        path = tmp_path_factory.mktemp("json") / "a.json"
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_rows, "CHUNK", 3)
            assert [row for _, row in json_rows.rows(path)] == rows

    def test_nan_is_a_number_and_no_text(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", '{"text": "a", "score": NaN}\n')
        assert table(path)[1][0][0] == "a"


UNRELATED: dict[str, pa.Array] = {
    "decimal": pa.array([decimal.Decimal("1.5"), None], pa.decimal128(5, 2)),
    "wide decimal": pa.array([decimal.Decimal("1.5"), None], pa.decimal256(60, 2)),
    "time": pa.array([datetime.datetime(2020, 1, 1)] * 2, pa.timestamp("ns", "Europe/Zurich")),
    "duration": pa.array([datetime.timedelta(1), None], pa.duration("us")),
    "day": pa.array([datetime.date(2020, 1, 1)] * 2),
    "clock": pa.array([datetime.time(1, 2)] * 2, pa.time64("us")),
    "bytes": pa.array([b"\xff", None]),
    "fixed": pa.array([b"abc", None], pa.binary(3)),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "struct": pa.array([{"text": "no"}, None]),
    "half": pa.array([1.0, None], pa.float16()),
    "nothing": pa.nulls(2),
    "category": pa.array(["x", "y"]).dictionary_encode(),
    "lists": pa.array([[[1]], None]),
}
TEXTS = {
    "string": pa.array(["a", None]),
    "large": pa.array(["a", None], pa.large_string()),
    "view": pa.array(["a", None], pa.string_view()),
    "dictionary": pa.array(["a", None]).dictionary_encode(),
}


class TestParquet:
    @pytest.mark.parametrize("kind", UNRELATED)
    def test_other_columns_are_not_read(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": ["a", "b"], kind: UNRELATED[kind]}), path)
        form = format_of(path)
        assert form is not None
        assert read_columns(path, form) == {"text": True, kind: kind == "category"}
        rows = list(iterate_rows(path, form, ["text"]))
        assert [row for _, row in rows] == [{"text": "a"}, {"text": "b"}]

    @pytest.mark.parametrize("kind", TEXTS)
    def test_every_type_of_text(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": TEXTS[kind]}), path)
        form = format_of(path)
        assert form is not None
        assert read_columns(path, form) == {"text": True}
        assert table(path)[1] == [("a",), (None,)]

    def test_a_damaged_column_that_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        words = [f"word {n}" for n in range(2000)]
        columns = {"text": words, "other": [word[::-1] for word in words]}
        pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
        whole = bytearray(path.read_bytes())
        place = whole.index(b"drow", 2 * len(whole) // 3)  # behind the texts
        whole[place : place + 400] = bytes([255]) * 400
        path.write_bytes(whole)
        form = format_of(path)
        assert form is not None
        assert [row["text"] for _, row in iterate_rows(path, form, ["text"])] == words
        with pytest.raises(RequestError, match=r"a valid \.parquet file"):
            list(iterate_rows(path, form, ["other"]))

    def test_a_name_that_stands_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), path)
        assert "= 'text': expected a column name that occurs only once" in refused(path)


@pytest.mark.parametrize(("suffix", "module"), [(".bz2", bz2), (".xz", lzma)])
class TestCompression:
    def test_all_streams_are_read(self, suffix: str, module: Any, tmp_path: Path) -> None:
        lines = [f'{{"text": "{n}"}}\n'.encode() for n in range(300)]
        parts = [module.compress(b"".join(lines[n : n + 100])) for n in (0, 100, 200)]
        path = written(tmp_path / f"a.jsonl{suffix}", b"".join(parts))
        assert table(path)[1] == [(str(n),) for n in range(300)]

    @pytest.mark.parametrize("damage", ["text behind it", "the head of a stream"])
    def test_nothing_behind_a_stream_is_dropped(
        self, suffix: str, module: Any, damage: str, tmp_path: Path
    ) -> None:
        """The readers of the standard library end there in silence."""
        first = module.compress(b'{"text": "a"}\n')
        second = bytearray(module.compress(b'{"text": "b"}\n'))
        second[0] ^= 255
        raw = first + (b"no stream at all" if damage == "text behind it" else bytes(second))
        path = written(tmp_path / f"a.jsonl{suffix}", raw)
        assert len(module.open(path).read().splitlines()) == 1
        assert f"expected a complete {suffix} file" in refused(path)


class TestLongLines:
    @pytest.mark.parametrize(
        ("name", "content", "where"),
        [
            ("a.csv", "a,b\n1,2\n3,{}\n", "line 3"),
            ("a.csv", 'a,b\n1,2\n3,"{}\n{}"\n', "line 3"),
            ("a.tsv", "a\tb\n1\t2\n3\t{}\n", "line 3"),
            ("a.jsonl", '{{"a": "1"}}\n{{"a": "{}"}}\n', "line 2"),
            ("a.json", '[{{"a": "1"}},\n{{"a": "{}"}}]', "row 2"),
            ("a.json", '[{{"a": "1"}},\n{{"a": "{}', "row 2"),
        ],
    )
    def test_are_refused_by_line(
        self, name: str, content: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("text_io", "delimited", "json_rows", "parquet_rows"):
            monkeypatch.setattr(f"etude.data.{module}.LONGEST", 1000)
        monkeypatch.setattr(json_rows, "CHUNK", 100)
        path = written(tmp_path / name, content.format("x" * 900, "x" * 900))
        assert f", {where}: expected at most" in refused(
            written(path, content.format("x" * 1100, "x" * 1100))
        )

    def test_a_cell_of_parquet(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etude.data.parquet_rows.LONGEST", 1000)
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": ["a", "x" * 1001]}), path)
        assert ", row 2: expected at most" in refused(path)
        plain = {"use_dictionary": False, "write_statistics": False}
        pq.write_table(pa.table({"text": ["汉" * 1000]}), path, **plain)  # 3,000 bytes
        assert table(path) == (["text"], [("汉" * 1000,)])
        pq.write_table(pa.table({"text": ["a", "b", "汉" * 1001]}), path, **plain)
        assert ", row 3: expected at most" in refused(path)


def test_a_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes())
    text = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xf9b")])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": text}), path)
    assert refused(path) == ", row 2, column text = '0xf9': expected UTF-8 text"


PEAK = """
import sys
from etude.data.text import Batch
from etude.data.text_files import TextFiles
from etude.data.tokenizer import Byte
from etude.errors import RequestError
path, lines = sys.argv[1:]
data = TextFiles(path=path, column=None if path.endswith(".txt") else "text", tokenizer=Byte(),
                 sequence_length=64, batch=Batch(examples=2), lines=lines == "lines")
try:
    data.check()
    data.content_fingerprint()
    read = sum(len(text) for split in ("train", "val") for _, text in data.passages(split))
    print("read", read)
except RequestError as error:
    print(error)
# Not ru_maxrss, which begins with the memory of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def _one_line(path: Path, form: str, size: int, character: str) -> None:
    """A file whose one line of data has about `size` bytes of UTF-8."""
    piece = ("word " * 2000 + character) * 20
    count = size // len(piece.encode())
    if form == "parquet":
        pq.write_table(pa.table({"text": pa.array([piece * count], pa.large_string())}), path)
        return
    before, after = {
        "txt": ("", "\n"),
        "csv": ('text,more\n"', '",x\n'),
        "tsv": ("text\tmore\n", "\tx\n"),
        "jsonl": ('{"text": "', '"}\n'),
        "json": ('[{"text": "', '"}]'),
        "list": ("[", '{"text": "short"}]'),
    }[form]
    piece = f'{{"text": "{piece}"}},' if form == "list" else piece
    with path.open("w", encoding="utf-8") as file:
        file.write(before)
        for _ in range(count):
            file.write(piece)
        file.write(after)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("character", ["", "𝄞"], ids=["ascii", "astral"])
@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("txt", "read"),
        ("txt lines", "line 1: expected at most 33,554,432 characters"),
        ("csv", "line 2: expected at most 33,554,432 characters"),
        ("tsv", "line 2: expected at most 33,554,432 characters"),
        ("jsonl", "line 1: expected at most 33,554,432 characters"),
        ("json", "row 1: expected at most 33,554,432 characters"),
        ("list", "read"),
        ("parquet", "row 1: expected at most 33,554,432 characters"),
    ],
)
def test_one_line_of_200_mb_takes_less_than_1_gb(
    form: str, told: str, character: str, tmp_path: Path
) -> None:
    suffix = {"txt lines": "txt", "list": "json"}.get(form, form)
    path = tmp_path / f"a.{suffix}"
    _one_line(path, form.split()[0], 200_000_000, character)
    lines = "lines" if "lines" in form else ""
    command = [sys.executable, "-c", PEAK, str(path), lines]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=560)
    *said, peak = found.stdout.strip().splitlines()
    assert told in "\n".join(said)
    print(form, said, f"{int(peak) // 1024} MB")
    assert int(peak) * 1024 < 1_000_000_000
