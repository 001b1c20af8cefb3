from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from fake_hub import Models, commit_of
from hypothesis import example, given
from hypothesis import strategies as st
from preparing import prepare_text
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from etude.data.pretrained import Pretrained
from etude.data.tokenizer import BPE, Tokenizer
from etude.data.wordpiece import WordPiece
from etude.errors import InvalidArguments, RequestError

TEXT = (
    "From fairest creatures we desire increase,\nThat thereby beauty's rose might never die,\n"
    "But as the riper should by time decease,\r\nHis tender heir might bear his memory: ☕ 茶\n"
) * 20
HARD = "naïve e\u0301 🙂👩‍👩‍👧 \r\n\0\t  \u200b\u2028 <|endoftext|> 'tis they'll </s> [SEP]"


def write_gpt2(folder: Path, names: tuple[str, str] = ("vocab.json", "merges.txt")) -> Tokenizer:
    """Files as OpenAI published GPT-2's, of a tokenizer that was learnt here."""
    tokenizer = BPE(320).train([TEXT])
    spec = json.loads(tokenizer.backend.to_str())["model"]
    vocabulary = {**spec["vocab"], "<|endoftext|>": tokenizer.end_of_text}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(json.dumps(vocabulary), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *merges, ""])
    (folder / names[1]).write_text(text, encoding="utf-8")
    return tokenizer


class TestGPT2:
    @pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
    def test_a_folder_or_either_file_gives_the_ids_of_transformers(
        self, names: tuple[str, str], tmp_path: Path
    ) -> None:
        transformers = pytest.importorskip("transformers")
        written = write_gpt2(tmp_path, names)
        theirs = transformers.GPT2Tokenizer(
            vocab=str(tmp_path / names[0]), merges=str(tmp_path / names[1])
        )
        for path in (tmp_path, tmp_path / names[0], tmp_path / names[1]):
            ours = Pretrained(str(path)).train([])
            assert ours.end_of_text == written.end_of_text == 319
            assert not ours.rewrites
            assert ours.cuts == "at_spaces"

        @given(st.text())
        @example(HARD)
        def survives(text: str) -> None:
            assert ours.decode(ours.encode(text)) == text
            if "<|endoftext|>" not in text:
                assert ours.encode(text) == theirs(text)["input_ids"]

        survives()

    def test_the_other_file_is_asked_for(self, tmp_path: Path) -> None:
        write_gpt2(tmp_path)
        (tmp_path / "merges.txt").unlink()
        with pytest.raises(
            RequestError, match=r"tokenizer\.path = .*a vocab\.json with merges\.txt in the s"
        ):
            Pretrained(str(tmp_path / "vocab.json")).train([])
        with pytest.raises(RequestError, match=r"the folder contains vocab\.json"):
            Pretrained(str(tmp_path)).train([])


class TestBert:
    def test_a_vocabulary_gives_the_ids_of_transformers(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        for lowercase in (True, False):
            pieces = WordPiece(130, lowercase=lowercase).train([TEXT]).backend.get_vocab()
            path = tmp_path / str(lowercase) / "vocab.txt"
            path.parent.mkdir()
            path.write_text("\n".join(sorted(pieces, key=pieces.__getitem__)), encoding="utf-8")
            ours = Pretrained(str(path)).train([])  # its case is that of its pieces
            theirs = transformers.BertTokenizer(vocab=str(path), do_lower_case=lowercase)
            text = TEXT + "Naïve  DON'T \t ☕ 茶茶"
            assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
            assert (ours.unknown, ours.end_of_text) == (1, 3)
            assert ours.rewrites

    def test_the_case_that_its_configuration_states(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("[UNK]\r\n[SEP]\r\na\r\n##a\r\n", encoding="utf-8")
        assert Pretrained(str(tmp_path)).train([]).encode("A aa") == [2, 2, 3]
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
        assert Pretrained(str(tmp_path)).train([]).encode("A aa") == [0, 2, 3]


def write_whole(path: Path, change: Callable[[tokenizers.Tokenizer], None]) -> Path:
    backend = BPE(300).train([TEXT]).backend
    change(backend)
    backend.save(str(path))
    return path


class TestTokenizerJson:
    def test_it_is_read_as_transformers_reads_it(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")

        def change(backend: tokenizers.Tokenizer) -> None:
            backend.normalizer = normalizers.NFC()
            backend.enable_truncation(5)
            backend.enable_padding(length=100)
            backend.add_tokens([AddedToken("increase", normalized=False)])

        path = write_whole(tmp_path / "some name.json", change)
        ours = Pretrained(str(path)).train([])
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        ids = theirs(TEXT + "e\u0301 ☕", add_special_tokens=False, truncation=False, padding=False)
        assert ours.encode(TEXT + "e\u0301 ☕") == ids["input_ids"]
        assert ours.vocab_size == 301
        assert len(ours.encode(TEXT)) > 100  # neither cut nor padded
        assert (ours.rewrites, ours.cuts) == (True, "unknown")

    def test_dropout_is_left_aside(self, tmp_path: Path) -> None:
        def change(backend: tokenizers.Tokenizer) -> None:
            backend.model.dropout = 0.5

        path = write_whole(tmp_path / "tokenizer.json", change)
        tokenizer = Pretrained(str(path)).train([])
        assert len({tuple(tokenizer.encode(TEXT)) for _ in range(3)}) == 1
        assert tokenizer.fingerprint == BPE(300).train([TEXT]).fingerprint

    def test_letters_of_a_special_token_are_text_in_a_unigram_model_too(
        self, tmp_path: Path
    ) -> None:
        # T5's: a piece for each special token, with the score 0, the best there is.
        letters = [(letter, -5.0) for letter in "</s>abcdpunk\u2581"]
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
        backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
        backend.save(str(tmp_path / "tokenizer.json"))
        tokenizer = Pretrained(str(tmp_path)).train([])
        assert (tokenizer.end_of_text, tokenizer.unknown) == (1, 2)
        ids = tokenizer.encode("a</s>b <pad>")
        assert 1 not in ids
        assert 0 not in ids
        assert tokenizer.decode(tokenizer.encode("a</s>b")) == "a</s>b"
        assert tokenizer.encode("ä") == [tokenizer.backend.token_to_id("\u2581"), 2]


class TestEndOfText:
    def test_a_stated_one_is_kept_in_the_file(self, tmp_path: Path) -> None:
        def change(backend: tokenizers.Tokenizer) -> None:
            backend.add_special_tokens(["<stop>"])

        path = str(write_whole(tmp_path / "tokenizer.json", change))
        assert Pretrained(path).train([]).end_of_text == 299
        tokenizer = Pretrained(path, end_of_text="<stop>").train([])
        assert tokenizer.end_of_text == 300
        tokenizer.save(tmp_path / "saved.json")
        assert Tokenizer.load(tmp_path / "saved.json").end_of_text == 300
        assert Tokenizer.load(tmp_path / "saved.json").encode(TEXT) == tokenizer.encode(TEXT)
        assert (
            Pretrained(path).fingerprint() != Pretrained(path, end_of_text="<stop>").fingerprint()
        )

    def test_the_file_s_own_template_comes_before_a_known_name(self, tmp_path: Path) -> None:
        def change(backend: tokenizers.Tokenizer) -> None:
            backend.add_special_tokens(["<eos>"])
            backend.post_processor = processors.Sequence(
                [
                    processors.ByteLevel(),
                    processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 300)]),
                ]
            )

        path = write_whole(tmp_path / "tokenizer.json", change)
        assert Pretrained(str(path)).train([]).end_of_text == 300

    @pytest.mark.parametrize("name", ["</s>", "[SEP]", "<eos>", "<|im_end|>", "<|end_of_text|>"])
    def test_known_names(self, name: str, tmp_path: Path) -> None:
        backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
        backend.add_special_tokens([name])
        backend.save(str(tmp_path / "tokenizer.json"))
        expected = backend.token_to_id(name)
        assert Pretrained(str(tmp_path)).train([]).end_of_text == expected

    def test_an_unknown_one_is_refused_with_the_nearest(self, tmp_path: Path) -> None:
        write_gpt2(tmp_path)
        with pytest.raises(RequestError, match=r"end_of_text = .*did you mean <\|endoftext\|>\?"):
            Pretrained(str(tmp_path), end_of_text="<endoftext>").train([])

    def test_none_is_told_and_documents_follow_each_other(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        backend.save(str(tmp_path / "tokenizer.json"))
        recipe = Pretrained(str(tmp_path))
        assert recipe.train([]).end_of_text is None
        assert "documents are not separated, since no end-of-text token" in caplog.text
        data = prepare_text(
            tmp_path / "cache",
            parts={"": lambda split: iter([(0, "a"), (1, "b"), (2, "b")])},
            content="",
            settings={},
            recipe=recipe,
        )
        assert data.column("val", "tokens").values.tolist() == [0, 1, 1]


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("tokenizer.json", "{"),
            ("tokenizer.json", "{}"),
            ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}}}'),
            ("vocab.txt", "a\nb\n"),
            ("vocab.json", "[]"),
        ],
    )
    def test_a_broken_file_is_named(self, name: str, content: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text(content)
        (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
        with pytest.raises(RequestError, match=rf"data\.tokenizer\.path = .*{name}"):
            Pretrained(str(tmp_path)).train([])

    def test_a_path_that_is_not_there_is_told_with_the_nearest(self, tmp_path: Path) -> None:
        write_whole(tmp_path / "tokenizer.json", lambda backend: None)
        with pytest.raises(RequestError, match=r"did you mean tokenizer\.json\?"):
            Pretrained(str(tmp_path / "tokeniser.json")).train([])
        (tmp_path / "nothing").mkdir()
        with pytest.raises(RequestError, match="the folder is empty"):
            Pretrained(str(tmp_path / "nothing")).train([])

    def test_a_sentencepiece_model_is_told_how(self, tmp_path: Path) -> None:
        (tmp_path / "spiece.model").write_bytes(b"\x0a")
        with pytest.raises(
            RequestError, match=r"load it with transformers and save it as tokenizer\.json"
        ):
            Pretrained(str(tmp_path / "spiece.model")).train([])

    @pytest.mark.parametrize(
        ("change", "said"),
        [(lambda i: 0, "unique token ids"), (lambda i: i + 10**9, "whole numbers from 0 to")],
    )
    def test_ids_that_no_model_can_have(
        self, change: Callable[[int], int], said: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "tokenizer.json"
        write_whole(file, lambda backend: None)
        spec = json.loads(file.read_text())
        spec["model"]["vocab"] = {t: change(i) for t, i in spec["model"]["vocab"].items()}
        spec["added_tokens"] = []
        file.write_text(json.dumps(spec))
        with pytest.raises(RequestError, match=said):
            Pretrained(str(file)).train([])

    def test_no_path_is_refused(self) -> None:
        with pytest.raises(InvalidArguments, match="path = ''"):
            Pretrained("")


def test_another_tokenizer_at_the_same_path_is_other_data(tmp_path: Path) -> None:
    parts: dict[str, Any] = {"": lambda split: iter([(0, TEXT)])}

    def prepared(folder: Path) -> Path:
        return prepare_text(
            tmp_path / "cache",
            parts=parts,
            content="",
            settings={},
            recipe=Pretrained(str(folder)),
        ).folder

    write_gpt2(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = prepared(tmp_path / "one")
    assert prepared(tmp_path / "two") == first  # what it holds counts, not where it lies
    write_whole(tmp_path / "one" / "tokenizer.json", lambda backend: None)
    assert prepared(tmp_path / "one") != first


def test_a_changed_tokenizer_is_noticed_when_the_run_is_met_again(
    etude: Callable[..., Any], tiny: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tok"
    write_gpt2(folder)
    words = tiny(
        corpus,
        tmp_path / "runs",
        "data/tokenizer=pretrained",
        f"data.tokenizer.path={folder}",
        "trainer.max_steps=2",
        "run.samples=0",
    )
    assert etude("train", *words).code == 0
    again = etude("train", *words)
    assert (again.code, "already finished" in again.err + again.out) == (0, True)
    write_whole(folder / "tokenizer.json", lambda backend: None)
    changed = etude("train", *words)
    assert changed.code == 2
    assert "the corpus or the tokenizer has changed" in changed.err
    assert len(list((tmp_path / "runs" / "tiny").iterdir())) == 1


def test_a_repository_on_a_hub_is_fixed_to_its_commit(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "owner" / "name"
    write_gpt2(repository)
    (repository / "model.bin").write_bytes(b"weights, which nobody asked for")
    code = (
        "import sys; from etude.data.pretrained import Pretrained;"
        "from etude.errors import EtudeError\n"
        "try:\n"
        "    pinned = Pretrained.pinned({'path': sys.argv[1]})\n"
        "    recipe = Pretrained(sys.argv[1], **pinned)\n"
        "    print(pinned['revision'], recipe.fingerprint())\n"
        "except EtudeError as error:\n"
        "    print(type(error).__name__, error)\n"
    )

    def ask(name: str, url: str, home: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / home)}
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    expected = f"{commit_of(repository)} {Pretrained(str(repository)).fingerprint()}"
    with Models(tmp_path / "hub") as hub:
        assert ask("owner/name", hub.url, "home") == expected
        assert not any("model.bin" in line for line in hub.asked)
        assert "InvalidArguments path = 'owner/nam'" in ask("owner/nam", hub.url, "home")
    assert ask("owner/name", hub.url, "home") == expected  # gone now, and known from before
    refused = ask("owner/name", hub.url, "elsewhere")
    assert refused.startswith("InvalidArguments path = 'owner/name': expected a tokenizer.json")
    assert "without network access, set data.tokenizer.path to a folder" in refused
