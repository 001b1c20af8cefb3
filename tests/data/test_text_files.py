from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data import text_io
from etude.data.text import Batch
from etude.data.text_files import TextFiles, find_files, hash_text
from etude.data.text_io import scan
from etude.data.tokenizer import BPE, Byte, Char
from etude.errors import InvalidArguments, RequestError

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak. Naïve ☕\n\n" * 30


def data(path: Any, **arguments: Any) -> TextFiles:
    stated = {"tokenizer": Byte(), "sequence_length": 8, "batch": Batch(examples=2)} | arguments
    return TextFiles(path=path if isinstance(path, list) else str(path), **stated)


def texts(source: TextFiles) -> tuple[list[str], list[str]]:
    return list(source.documents("train")), list(source.documents("val"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for name, text in {
        "b.txt": "second " * 10,
        "a/z.md": "first " * 10,
        "c.TXT": "third " * 10,
        "notes.py": "print()",
        "README": "no suffix",
        ".hidden/x.txt": "hidden",
        ".hidden.txt": "hidden",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "empty.txt").touch()
    return folder


class TestSplit:
    @pytest.mark.parametrize("validation", [0.1, 0.25, 1 / 3, 0.9])
    def test_one_file_is_split_as_nanogpt_does(self, tmp_path: Path, validation: float) -> None:
        path = tmp_path / "input.txt"
        path.write_text(TEXT, encoding="utf-8")
        source = data(path, tokenizer=Char(), validation=validation)
        source.prepare(tmp_path / "cache")

        characters = sorted(set(TEXT))  # nanoGPT, data/shakespeare_char/prepare.py
        stoi = {character: i for i, character in enumerate(characters)}
        n = len(TEXT)
        train, val = TEXT[: int(n * (1 - validation))], TEXT[int(n * (1 - validation)) :]

        assert source.store.column("train", "tokens").values.tolist() == [stoi[c] for c in train]
        assert source.store.column("val", "tokens").values.tolist() == [stoi[c] for c in val]
        assert source.tokenizer_.vocab_size == len(characters) + 2

    @given(
        lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5),
        validation=st.floats(0.01, 0.99),
    )
    def test_many_files_are_split_as_their_concatenation(
        self, tmp_path_factory: pytest.TempPathFactory, lengths: list[int], validation: float
    ) -> None:
        folder = tmp_path_factory.mktemp("files")
        contents = ["".join(chr(97 + i) * length) for i, length in enumerate(lengths)]
        for i, text in enumerate(contents):
            (folder / f"{i}.txt").write_text(text)
        whole = "".join(contents)
        border = int(len(whole) * (1 - validation))
        train, val = texts(data(folder, validation=validation))
        assert "".join(train) == whole[:border]
        assert "".join(val) == whole[border:]
        # Each file is a document of its own; only the one with the border is in both splits.
        assert all(len(set(document)) == 1 for document in train + val)
        assert len(train) + len(val) - sum(map(bool, lengths)) in (0, 1)

    def test_documents_end_where_files_do(self, folder: Path, tmp_path: Path) -> None:
        source = data(folder, validation=0.5)
        source.prepare(tmp_path / "cache")
        whole = ["first " * 10, "second " * 10, "third " * 10]
        border = int(sum(map(len, whole)) * 0.5)
        end = [256]
        train = [*whole[0].encode(), *end, *whole[1][: border - 60].encode()]
        val = [*whole[1][border - 60 :].encode(), *end, *whole[2].encode()]
        assert source.store.column("train", "tokens").values.tolist() == train
        assert source.store.column("val", "tokens").values.tolist() == val

    @pytest.mark.parametrize("recipe", [Char(), Byte(), BPE(300)])
    def test_reading_in_pieces_gives_the_tokens_of_the_whole(
        self, recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "input.txt"
        path.write_text(TEXT * 20, encoding="utf-8")
        source = data(path, tokenizer=recipe)
        monkeypatch.setattr(text_io, "CHUNK", 7)
        monkeypatch.setattr("etude.data.passages.cut.__defaults__", (50, None))
        pieces = [text for _, text in source.passages("train")]
        assert len(pieces) > 100
        source.prepare(tmp_path / "cache")
        train = (TEXT * 20)[: int(len(TEXT * 20) * 0.9)]
        tokenizer = recipe.train([train])
        assert tokenizer.fingerprint == source.tokenizer_.fingerprint
        assert source.store.column("train", "tokens").values.tolist() == tokenizer.encode(train)


class TestReading:
    @pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1 << 20])
    def test_a_windows_file_gives_the_tokens_of_its_unix_twin(
        self, tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text_io, "CHUNK", chunk)
        raw = TEXT[:200].encode()
        (tmp_path / "unix.txt").write_bytes(raw)
        (tmp_path / "windows.txt").write_bytes(codecs.BOM_UTF8 + raw.replace(b"\n", b"\r\n"))
        unix, windows = data(tmp_path / "unix.txt"), data(tmp_path / "windows.txt")
        assert texts(windows) == texts(unix)
        assert scan(tmp_path / "windows.txt").characters == 200
        assert unix.content_fingerprint() != windows.content_fingerprint()

    def test_characters_are_not_normalised(self, tmp_path: Path) -> None:
        text = "e\u0301é\0\u2028\x0b\ufeffﬁ"
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        train, val = texts(data(tmp_path / "a.txt", validation=0.5))
        assert "".join(train + val) == text

    @given(prefix=st.text(max_size=20), suffix=st.text(max_size=9), chunk=st.integers(1, 9))
    def test_a_byte_that_is_not_utf8_is_found(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        prefix: str,
        suffix: str,
        chunk: int,
    ) -> None:
        raw = prefix.encode() + b"\xff" + suffix.encode()
        path = tmp_path_factory.mktemp("bad") / "bad.txt"
        path.write_bytes(raw)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_io, "CHUNK", chunk)
            with pytest.raises(RequestError) as caught:
                data(path).check()
        offset = len(prefix.encode())
        line = raw[:offset].count(b"\n") + 1
        assert caught.value.problems[0].where == f"{path}, line {line}, byte {offset}"

    @pytest.mark.parametrize("chunk", [1, 2, 100])
    def test_a_file_cut_within_a_character_is_found(
        self, tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text_io, "CHUNK", chunk)
        path = tmp_path / "cut.txt"
        path.write_bytes("ab\n☕".encode()[:-1])
        with pytest.raises(RequestError, match="line 2, byte 3"):
            data(path).check()

    def test_the_fingerprint_is_of_the_content_alone(self, folder: Path, tmp_path: Path) -> None:
        moved = folder.rename(tmp_path / "elsewhere")
        before = data(moved).content_fingerprint()
        files = [moved / "a/z.md", moved / "b.txt", moved / "c.TXT", moved / "empty.txt"]
        digests = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
        assert before == hashlib.sha256(digests).hexdigest()
        (moved / "b.txt").write_text("other")
        assert data(moved).content_fingerprint() != before

    def test_a_file_that_changes_is_read_again(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("one")
        source = data(path)
        before = source.content_fingerprint()
        path.write_text("two!")
        assert source.content_fingerprint() != before

    def test_checking_writes_nothing(self, folder: Path) -> None:
        before = sorted(folder.rglob("*"))
        data(folder).check()
        assert sorted(folder.rglob("*")) == before


class TestPaths:
    def test_a_folder_gives_its_texts_sorted(self, folder: Path) -> None:
        files = data(folder).files()
        names = [str(file.relative_to(folder)) for file in files]
        assert names == ["a/z.md", "b.txt", "c.TXT", "empty.txt"]

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("*.txt", ["b.txt", "empty.txt"]),
            ("**/*", ["README", "a/z.md", "b.txt", "c.TXT", "empty.txt"]),
            ("[ab]*", ["b.txt"]),
            ("READ?E", ["README"]),
        ],
    )
    def test_a_glob(self, folder: Path, pattern: str, names: list[str]) -> None:
        files = data(folder / pattern).files()
        assert [str(file.relative_to(folder)) for file in files] == names

    def test_a_list_keeps_its_order_and_takes_a_file_once(self, folder: Path) -> None:
        files = data([str(folder / "c.TXT"), str(folder / "README"), str(folder)]).files()
        names = [str(file.relative_to(folder)) for file in files]
        assert names == ["c.TXT", "README", "a/z.md", "b.txt", "empty.txt"]

    def test_a_name_with_brackets_is_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "a[1].txt").write_text("text")
        assert data(tmp_path / "a[1].txt").files() == [tmp_path / "a[1].txt"]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("b.tx", "does not contain b.tx; did you mean b.txt?"),
            ("aa/deep/z.md", "does not contain aa; "),
            (
                "notes.py",
                r"a file in a supported format: \.txt, \.md, .*or plain text without a suffix",
            ),
            ("empty.txt", "the file is empty"),
            ("*.csv", "a glob that matches text files"),
            (".hidden/none", "does not contain none; choose from: x.txt"),
        ],
    )
    def test_a_path_that_cannot_be_used(self, folder: Path, name: str, message: str) -> None:
        with pytest.raises(RequestError, match=message) as caught:
            data(folder / name).check()
        assert caught.value.problems[0].where == "data.path"

    def test_what_is_neither_file_nor_folder_is_said(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "f.csv")
        (tmp_path / "l.csv").symlink_to("nowhere")
        for name, said in (("f.csv", "it is a FIFO"), ("l.csv", "a broken link")):
            with pytest.raises(RequestError, match=said):
                find_files([str(tmp_path / name)])
        with pytest.raises(RequestError, match="'': expected a file, a folder or a glob"):
            find_files([""])

    def test_a_folder_without_rows_asks_for_rows(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match=r"files with rows: \.jsonl"):
            find_files([str(tmp_path)], rows=True)

    def test_a_folder_without_texts(self, tmp_path: Path) -> None:
        (tmp_path / "code.py").write_text("x")
        with pytest.raises(RequestError, match="a folder with text files"):
            data(tmp_path).check()

    def test_a_folder_of_empty_texts(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").touch()
        with pytest.raises(RequestError, match="all files are empty"):
            data(tmp_path).check()

    def test_every_wrong_path_is_reported(self, folder: Path) -> None:
        paths = [str(folder / name) for name in ("none.txt", "b.txt", "notes.py")]
        with pytest.raises(RequestError) as caught:
            data(paths).check()
        assert [problem.value for problem in caught.value.problems] == [paths[0], paths[2]]


def test_all_mistakes_in_the_arguments_come_at_once() -> None:
    with pytest.raises(InvalidArguments) as caught:
        data([], validation=1.0, sequence_length=0)
    where = [problem.where for problem in caught.value.problems]
    assert where == ["path", "validation", "sequence_length"]


class TestLines:
    NAMES = tuple(f"n{i * i}" for i in range(29))

    def test_a_line_is_a_document_and_every_fifth_is_held_out(self, tmp_path: Path) -> None:
        path = tmp_path / "names.txt"
        path.write_text("\n".join(self.NAMES[:10]) + "\n\n  \n" + "\r\n".join(self.NAMES[10:]))
        train, val = texts(data(path, lines=True, validation=0.2))
        assert val == list(self.NAMES[4::5])
        assert train == [name for name in self.NAMES if name not in val]

    def test_reading_in_pieces_gives_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "names.txt"
        path.write_text("\n".join(self.NAMES))
        whole = texts(data(path, lines=True))
        monkeypatch.setattr(text_io, "CHUNK", 3)
        assert texts(data(path, lines=True)) == whole

    def test_windows_hold_whole_lines_between_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "names.txt"
        path.write_text("\n".join(self.NAMES))
        source = data(path, lines=True, tokenizer=Char(), validation=0.2, separate_documents=True)
        source.prepare(tmp_path / "cache")
        batches = source.evaluation_batches("val")
        end, decode = source.tokenizer_.end_of_text, source.tokenizer_.decode
        tokens = [int(token) for batch in batches for token in batch["targets"].flatten()]
        text = "".join("|" if token == end else decode([token]) for token in tokens)
        assert "n" + text.strip("|") == "|".join(self.NAMES[4::5])  # the first token is no target

    def test_it_is_prepared_apart_from_the_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "names.txt"
        path.write_text("\n".join(self.NAMES))
        for lines in (False, True, False):
            source = data(path, lines=lines, validation=0.2)
            source.prepare(tmp_path / "cache")
            assert source.meta.splits["val"].documents == (5 if lines else 1)

    def test_rows_are_documents_already(self, tmp_path: Path) -> None:
        path = tmp_path / "names.jsonl"
        path.write_text('{"text": "a"}\n')
        with pytest.raises(RequestError, match="lines"):
            data(path, lines=True).check()


class TestFilesOfItsOwnForValidation:
    def files(self, tmp_path: Path, kind: str) -> tuple[str, str]:
        texts = (["one two", "three four"], ["five six", "seven"])
        found = []
        for name, some in zip(("train", "held"), texts, strict=True):
            file = tmp_path / f"{name}.{kind}"
            lines = [json.dumps({"text": text}) if kind == "jsonl" else text for text in some]
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
            found.append(str(file))
        return found[0], found[1]

    @pytest.mark.parametrize(
        ("kind", "more", "train", "val"),
        [
            ("txt", {}, ["one two\nthree four\n"], ["five six\nseven\n"]),
            ("txt", {"lines": True}, ["one two", "three four"], ["five six", "seven"]),
            ("jsonl", {}, ["one two", "three four"], ["five six", "seven"]),
        ],
    )
    def test_they_are_the_split(
        self, kind: str, more: dict[str, Any], train: list[str], val: list[str], tmp_path: Path
    ) -> None:
        path, held = self.files(tmp_path, kind)
        made = data(path, validation=held, **more)
        made.check()
        assert list(made.documents("train")) == train
        assert list(made.documents("val")) == val
        assert [text for _, text in made.passages("val")] == val
        assert data(path, validation=[held], **more).fingerprint() == made.fingerprint()
        before = made.fingerprint()
        Path(held).write_text(Path(held).read_text().replace("seven", "eight"))
        assert data(path, validation=held, **more).fingerprint() != before
        both = data([path, held], **more).fingerprint()
        assert both not in (before, data(path, validation=held, **more).fingerprint())

    def test_what_cannot_be(self, tmp_path: Path) -> None:
        path, held = self.files(tmp_path, "txt")
        with pytest.raises(RequestError, match=r"data\.validation.*a file that is not also in"):
            data([path, held], validation=held).check()
        with pytest.raises(RequestError, match=r"data\.validation.*none\.txt"):
            data(path, validation=str(tmp_path / "none.txt")).check()
        with pytest.raises(
            InvalidArguments, match="a fraction between 0 and 1, or paths of validation files"
        ):
            data(path, validation=1.5)
        with pytest.raises(
            InvalidArguments, match="a fraction between 0 and 1, or paths of validation files"
        ):
            data(path, validation="")

    def test_from_a_command(self, etude: Any, tmp_path: Path) -> None:
        path, held = self.files(tmp_path, "txt")
        Path(path).write_text("To be, or not to be, that is the question.\n" * 40)
        Path(held).write_text("Whether 'tis nobler in the mind to suffer.\n" * 5)
        answer = etude(
            "train", "experiment=debug", "data=text_files", f"data.path={path}",
            f"data.validation={held}", "data/tokenizer=byte", "trainer.max_steps=2",
            "data.sequence_length=16", "data.batch.examples=2", "schedule.warmup_steps=0",
            f"run.root={tmp_path / 'runs'}", f"run.cache={tmp_path / 'cache'}", "run.samples=0",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        (file,) = tmp_path.rglob("run.json")
        splits = json.loads(file.read_text())["data"]["splits"]
        assert splits["train"]["characters"] == 43 * 40
        assert splits["val"]["characters"] == 43 * 5


class TestKeyed:
    def folder(self, tmp_path: Path, texts: list[str]) -> Path:
        folder = tmp_path / "folder"
        folder.mkdir()
        for number, text in enumerate(texts):
            (folder / f"{number:03}.txt").write_text(text)
        return folder

    def test_files(self, tmp_path: Path) -> None:
        every = [f"document {number}, " * 3 for number in range(20)]
        train, val = texts(data(self.folder(tmp_path, every), split="keyed", validation=0.2))
        assert len(val) == 4
        assert sorted(train + val) == sorted(every)
        assert val != every[-4:]
        other = tmp_path / "other"
        other.mkdir()
        for number, text in enumerate(every):  # under other names
            (other / f"{(7 * number) % 20:03}.txt").write_text(text)
        assert sorted(texts(data(other, split="keyed", validation=0.2))[1]) == sorted(val)

    @pytest.mark.parametrize("kind", ["jsonl", "txt"])
    def test_equal_rows_are_in_one_split(self, kind: str, tmp_path: Path) -> None:
        every = [f"text {number % 28}" for number in range(120)]
        file = tmp_path / f"rows.{kind}"
        rows = [json.dumps({"text": text}) if kind == "jsonl" else text for text in every]
        file.write_text("\n".join(rows) + "\n")
        made = data(file, split="keyed", lines=kind == "txt")
        train, val = texts(made)
        assert 12 <= len(val) < 17
        assert not set(train) & set(val)
        assert [text for _, text in made.passages("val")] == val
        regular_train, regular_val = texts(data(file, lines=kind == "txt"))
        assert set(regular_train) & set(regular_val)

    def test_others_stay_where_they_are(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.jsonl"
        every = [f"text {number}" for number in range(1000)]
        held = []
        for count in (900, 1000):
            file.write_text("".join(json.dumps({"text": text}) + "\n" for text in every[:count]))
            held.append(set(texts(data(file, split="keyed"))[1]))
        before, after = held
        assert (len(before), len(after)) == (90, 100)
        # by the same keys: of those held out before, the ones with the smallest still are
        assert len(before & after) >= 85
        smallest = sorted(every, key=lambda text: hash_text(text.encode()))
        assert after == set(smallest[:100])

    def test_equal_texts_in_files_that_differ(self, tmp_path: Path) -> None:
        """By the text: line ends, a byte order mark and compression say nothing."""
        folder = tmp_path / "folder"
        folder.mkdir()
        for number in range(12):
            text = f"document {number}\nand its end\n"
            (folder / f"{number}a.txt").write_bytes(text.encode())
            (folder / f"{number}b.txt").write_bytes(text.replace("\n", "\r\n").encode())
            (folder / f"{number}c.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
            (folder / f"{number}d.txt.gz").write_bytes(gzip.compress(text.encode()))
        train, val = texts(data(folder, split="keyed", validation=0.3))
        assert not set(train) & set(val)
        assert len(train) + len(val) == 48

    def test_empty_files_are_no_documents(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, [f"document {number}" for number in range(10)])
        for number in range(90):
            (folder / f"empty{number}.md").touch()
        train, val = texts(data(folder, split="keyed"))
        assert (len(train), len(val)) == (9, 1)

    def test_one_file_of_plain_text_is_held_out_at_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "input.txt"
        path.write_text(TEXT, encoding="utf-8")
        assert texts(data(path, split="keyed")) == texts(data(path))
        assert data(path, split="keyed").split_settings() != data(path).split_settings()

    def test_what_cannot_be(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, ["the same"] * 4)
        with pytest.raises(RequestError, match="documents with equal text are in the same split"):
            texts(data(folder, split="keyed"))
        with pytest.raises(InvalidArguments, match="regular or keyed"):
            data(folder, split="random")


class TestFilesForTesting:
    def test_where_documents_come_from(self, tmp_path: Path) -> None:
        for name in ("train", "held", "tested"):
            (tmp_path / f"{name}.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
        made = data(
            tmp_path / "train.jsonl",
            validation=str(tmp_path / "held.jsonl"),
            test=str(tmp_path / "tested.jsonl"),
        )
        made.check()
        assert made.splits == ("train", "val", "test")
        assert list(made.sourced("test")) == [
            (f"{tmp_path}/tested.jsonl, line 1, column text", "one"),
            (f"{tmp_path}/tested.jsonl, line 3, column text", "two"),
        ]
        with pytest.raises(RequestError, match=r"data\.test.*file that is not also in data\.path"):
            data(tmp_path / "train.jsonl", test=str(tmp_path / "train.jsonl")).check()
        with pytest.raises(InvalidArguments, match="null, or paths of test files"):
            data(tmp_path / "train.jsonl", test="")

    def test_from_a_command(self, etude: Any, tmp_path: Path) -> None:
        for name, text in (("train", "To be, or not to be. " * 60), ("tested", "To see. " * 30)):
            (tmp_path / f"{name}.txt").write_text(text)
        words = [
            "experiment=debug", "data=text_files", f"data.path={tmp_path / 'train.txt'}",
            "data/tokenizer=byte", "trainer.max_steps=2", "data.sequence_length=16",
            "data.batch.examples=2", "schedule.warmup_steps=0", f"run.root={tmp_path / 'runs'}",
            f"run.cache={tmp_path / 'cache'}", "run.samples=0",
        ]  # fmt: skip
        assert etude("train", *words).code == 0
        assert etude("train", *words, f"data.test={tmp_path / 'tested.txt'}").code == 0
        with_test, without = sorted(
            (file.parent for file in tmp_path.rglob("run.json")),
            key=lambda run: (
                "test" not in json.loads((run / "run.json").read_text())["data"]["splits"]
            ),
        )
        answer = etude("evaluate", str(with_test), "--split", "test", "--json")
        assert answer.code == 0, answer.err
        (found,) = json.loads(answer.out)
        assert found["on"] == "test"
        assert found["metrics"]["bits_per_byte"] > 0
        answer = etude("evaluate", str(without), "--split", "test")
        assert answer.code == 2
        assert "val or train" in answer.err

    def test_a_copy_of_a_training_file_is_reported(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("one", "two"):
            (tmp_path / f"{name}.txt").write_text(TEXT)
        data(tmp_path / "one.txt", test=str(tmp_path / "two.txt")).check()
        assert (
            f"data.test: {tmp_path}/two.txt has the same content as {tmp_path}/one.txt"
            in caplog.text
        )
