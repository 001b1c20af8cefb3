from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from preparing import prepare_text
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from etude.data.tokenizer import Char
from etude.data.wordpiece import SPECIAL, WordPiece, bert_normalizer
from etude.errors import InvalidArguments, RequestError

TEXT = (
    "From fairest creatures we desire increase,\nThat thereby beauty's rose might never die,\n"
    "But as the riper should by time decease,\r\nHis tender heir might bear his memory: é 茶\n"
) * 20
HARD = "Naïve  DON'T \t\r\n[SEP] [UNK] ##ing ▁ ☕ 茶茶"


def test_it_is_bert_s_tokenizer_with_the_same_vocabulary(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for lowercase in (True, False):
        tokenizer = WordPiece(130, lowercase=lowercase).train([TEXT])
        pieces = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
        vocabulary = tmp_path / f"vocab-{lowercase}.txt"
        vocabulary.write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
        theirs = transformers.BertTokenizer(vocab=str(vocabulary), do_lower_case=lowercase)

        @given(st.text())
        @example(TEXT)
        @example(HARD.replace("[SEP] [UNK]", ""))  # which theirs takes for the tokens themselves
        def same(text: str) -> None:
            if not any(name in text for name in SPECIAL):
                expected = theirs(text, add_special_tokens=False)["input_ids"]  # noqa: B023
                assert tokenizer.encode(text) == expected  # noqa: B023

        same()


def test_ids_are_bert_s_special_tokens_then_letters_then_pieces() -> None:
    tokenizer = WordPiece(130).train([TEXT])
    ids = tokenizer.backend.get_vocab()
    assert [ids[name] for name in SPECIAL] == [0, 1, 2, 3, 4]
    assert (tokenizer.unknown, tokenizer.end_of_text) == (1, 3)
    assert tokenizer.vocab_size == len(ids) == 130
    letters = [piece for piece in ids if len(piece) == 1]
    assert sorted(letters) == sorted({*TEXT.lower().replace("é", "e")} - {*" \r\n"})
    assert {f"##{letter}" for letter in letters} <= set(ids)
    assert tokenizer.decode(tokenizer.encode("mightest")) == "mightest"
    assert ids["might"] == tokenizer.encode("might")[0]
    assert len(tokenizer.encode("might")) == 1


def test_special_letters_are_text() -> None:
    ids = WordPiece(130).train([TEXT + "[]"]).encode("[SEP] [CLS] [MASK] [PAD]")
    assert not {0, 2, 3, 4} & set(ids)


@pytest.mark.slow
def test_it_learns_as_many_pieces_as_the_library_s_trainer() -> None:
    """Theirs marks the inside of words while it learns, ours the beginning; measured: 1.003."""
    from etude.data.sotu import Sotu
    from etude.data.text import Batch

    sizes = {"tokenizer": Char(), "sequence_length": 8, "batch": Batch(examples=1)}
    recent = Sotu(**sizes, first_year=2010, held_out_from=2024)  # type: ignore[arg-type]
    texts = list(recent.documents("train"))
    ours = WordPiece(1024).train(texts)
    theirs = Backend(models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer = bert_normalizer(True)
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=1024, special_tokens=list(SPECIAL), show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    common = set(ours.backend.get_vocab()) & set(theirs.get_vocab())
    assert len(common) > 0.9 * 1024
    counts = [sum(map(len, ours.encode_batch(texts)))]
    counts.append(sum(len(e.ids) for e in theirs.encode_batch(texts, add_special_tokens=False)))
    assert counts[0] < 1.02 * counts[1]


def test_training_gives_the_same_in_other_processes_and_threads(tmp_path: Path) -> None:
    text = TEXT + "".join(f"w{i * 7919 % 10007} " for i in range(3000))  # many equal counts
    (tmp_path / "text.json").write_text(json.dumps(text))
    code = (
        "import json, sys; from etude.data.wordpiece import WordPiece;"
        "text = json.load(open(sys.argv[1]));"
        "print(WordPiece(500).train([text]).fingerprint)"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "text.json")],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert prints == {WordPiece(500).train([text]).fingerprint + "\n"}


def test_what_it_loses_is_measured(tmp_path: Path) -> None:
    tokenizer = WordPiece(130).train([TEXT])
    assert tokenizer.decode(tokenizer.encode("Might  never")) == "might never"
    assert tokenizer.rewrites
    parts = {"": lambda split: iter([(0, TEXT)])}
    data = prepare_text(tmp_path, parts=parts, content="", settings={}, recipe=WordPiece(130))
    assert not data.meta.splits["val"].lossless
    lower = {"": lambda split: iter([(0, "might never die"), (0, " might die")])}
    data = prepare_text(tmp_path, parts=lower, content="2", settings={}, recipe=WordPiece(130))
    assert not data.meta.splits["val"].lossless  # the space between the passages is lost


def test_unknown_words_are_counted(tmp_path: Path) -> None:
    tokenizer = WordPiece(130).train([TEXT])
    assert tokenizer.unknown_pieces("might ☕☕ qqq☕ ☕☕ die") == {"☕☕": 2, "qqq☕": 1}


def test_a_vocabulary_without_room_for_the_letters_is_refused() -> None:
    letters = "".join(chr(0x4E00 + i) for i in range(300))
    with pytest.raises(RequestError, match="at least 605 \(the text has 300 distinct characters\)"):
        WordPiece(300).train([letters])
    assert WordPiece(605).train([letters]).vocab_size == 605


@pytest.mark.parametrize("size", [0, -5, 6, 2**40])
def test_absurd_sizes_are_refused(size: int) -> None:
    with pytest.raises(InvalidArguments, match=r"vocab_size = .*at least 7"):
        WordPiece(size)


def test_no_text_gives_the_special_tokens() -> None:
    assert WordPiece(100).train([]).vocab_size == 5
