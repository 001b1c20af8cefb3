"""The tokenizer of a released folder: its ids, the tokens around a text, the stop tokens."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from folders import TEXT, bpe, closed, framed, wordpiece
from transformers import BertTokenizerFast, GPT2Tokenizer, RobertaTokenizer

from etude.data.tokenizer import Tokenizer
from etude.errors import RequestError
from etude.interop.tokenizers import (
    ReleasedTokenizer,
    load_boundaries,
    load_folder_tokenizer,
    write_tokenizer,
)


def framed_words() -> Tokenizer:
    return framed(wordpiece())


HARD = [*TEXT, " two  spaces\n", "Ünïcode, 中文 and 1862!", ""]


def vocabulary_files(folder: Path, *special: str) -> Path:
    """Writes GPT-2's two files, with ids for `special` at the end."""
    spec = json.loads(bpe().backend.to_str())["model"]
    vocabulary = spec["vocab"]
    for name in special:
        vocabulary.setdefault(name, len(vocabulary))
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(" ".join(pair) for pair in spec["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    return folder


def test_gpt2_s_files_give_the_ids_of_transformers(tmp_path: Path) -> None:
    tokenizer = load_folder_tokenizer(
        vocabulary_files(tmp_path, "<|endoftext|>"), {"model_type": "gpt2"}
    )
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"] for text in HARD] == tokenizer.framed(HARD)
    assert tokenizer.framed(HARD) == tokenizer.encode_batch(HARD)


def test_roberta_s_files_frame_a_text_as_transformers_does(tmp_path: Path) -> None:
    special = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
    tokenizer = load_folder_tokenizer(
        vocabulary_files(tmp_path, *special), {"model_type": "roberta"}
    )
    theirs = RobertaTokenizer.from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"] for text in HARD] == tokenizer.framed(HARD)
    assert tokenizer.framed([""]) == [[tokenizer.special_tokens()[x] for x in ("<s>", "</s>")]]


def test_bert_s_vocabulary_frames_a_text_as_transformers_does(tmp_path: Path) -> None:
    vocabulary = wordpiece().backend.get_vocab()
    lines = sorted(vocabulary, key=lambda name: vocabulary[name])
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = load_folder_tokenizer(tmp_path, {"model_type": "bert"})
    theirs = BertTokenizerFast.from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"] for text in HARD] == tokenizer.framed(HARD)


def test_a_special_token_in_a_prompt_is_one_also_after_pickling(tmp_path: Path) -> None:
    bpe().save(tmp_path / "tokenizer.json")
    tokenizer = load_folder_tokenizer(tmp_path, {})
    for each in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        assert each.encode("war<|endoftext|>")[-1] == each.end_of_text
    again = load_folder_tokenizer(tmp_path, {})
    again.backend.encode_special_tokens = True
    assert tokenizer.encode("<|endoftext|>") == [tokenizer.end_of_text]  # not one object


@pytest.mark.parametrize(
    ("files", "begin", "stops"),
    [
        ({}, None, (7,)),
        ({"generation_config.json": {"eos_token_id": [3, 4]}}, None, (3, 4)),
        ({"generation_config.json": {"max_length": 9}}, None, (7,)),
        (
            {"tokenizer_config.json": {"add_bos_token": True, "bos_token": "<|endoftext|>"}},
            "<|endoftext|>",
            (7,),
        ),
        (
            {
                "tokenizer_config.json": {
                    "add_bos_token": True,
                    "bos_token": {"content": "<|endoftext|>", "lstrip": False},
                }
            },
            "<|endoftext|>",
            (7,),
        ),
    ],
)
def test_where_a_text_begins_and_ends(
    files: dict[str, object], begin: str | None, stops: tuple[int, ...], tmp_path: Path
) -> None:
    bpe().save(tmp_path / "tokenizer.json")
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    config = {"eos_token_id": 7}
    tokenizer = load_folder_tokenizer(tmp_path, config)
    ends = load_boundaries(tmp_path, config, tokenizer)
    assert ends.stops == stops
    assert ends.begin == (None if begin is None else tokenizer.special_tokens()[begin])


@pytest.mark.parametrize("token", [7, ["<|endoftext|>"], {"content": 7}, True, "<nowhere>"])
def test_a_beginning_that_is_no_token_is_refused(token: object, tmp_path: Path) -> None:
    bpe().save(tmp_path / "tokenizer.json")
    stated = {"add_bos_token": True, "bos_token": token}
    tokenizer = load_folder_tokenizer(tmp_path, {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    with pytest.raises(RequestError, match="token"):
        load_boundaries(tmp_path, {}, tokenizer)


def test_a_template_says_what_stands_before_a_text(tmp_path: Path) -> None:
    framed(wordpiece()).save(tmp_path / "tokenizer.json")
    tokenizer = load_folder_tokenizer(tmp_path, {})
    assert load_boundaries(tmp_path, {}, tokenizer).begin == tokenizer.special_tokens()["[CLS]"]
    closed(bpe()).save(tmp_path / "tokenizer.json")
    tokenizer = load_folder_tokenizer(tmp_path, {})
    assert load_boundaries(tmp_path, {}, tokenizer).begin is None
    assert tokenizer.end_of_text == tokenizer.special_tokens()["<|endoftext|>"]


def test_an_end_of_text_of_an_unusual_name(tmp_path: Path) -> None:
    tokenizer = bpe()
    tokenizer.backend.add_special_tokens(["<over>"])
    text = tokenizer.backend.to_str().replace("<|endoftext|>", "<|nothing|>")
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<over>"}')
    found = load_folder_tokenizer(tmp_path, {})
    assert found.end_of_text == found.special_tokens()["<over>"]


@pytest.mark.parametrize(
    ("names", "model_type", "said"),
    [
        (
            [],
            "t5",
            "a tokenizer: one of tokenizer.json, vocab.json with merges.txt, and vocab.txt",
        ),
        (["spiece.model"], "t5", "spiece.model is a SentencePiece model: install transformers and"),
        (["source.spm", "vocab.json"], "marian", "Marian's two SentencePiece models cannot"),
    ],
)
def test_no_tokenizer_says_what_is_needed(
    names: list[str], model_type: str, said: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(RequestError) as caught:
        load_folder_tokenizer(tmp_path, {"model_type": model_type})
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_broken_one_names_the_folder_and_not_a_config_key(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(RequestError) as caught:
        load_folder_tokenizer(tmp_path, {})
    assert str(caught.value).startswith(
        f"{tmp_path}: expected a tokenizer.json with only components that Étude supports"
    )


def test_what_is_written_is_read_by_transformers_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = bpe()
    end = tokenizer.end_of_text
    assert end is not None
    write_tokenizer(tmp_path, tokenizer, ends=[end], max_length=64)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"] for text in HARD] == tokenizer.encode_batch(HARD)
    assert (theirs.eos_token_id, theirs.model_max_length) == (end, 64)


@pytest.mark.parametrize(
    ("make", "config", "field"),
    [
        (bpe, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, "add_prefix_space"),
        (framed_words, {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
         "do_lower_case"),
        (bpe, {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}, None),
        (bpe, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}, None),
        (framed_words, {"tokenizer_class": "BertTokenizer", "do_lower_case": True}, None),
    ],
)  # fmt: skip
def test_two_files_that_contradict_each_other(make, config, field, tmp_path: Path) -> None:
    """The ids of `transformers` differ if the files contradict each other, else not."""
    from transformers import AutoTokenizer

    make().save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path)("War of peace")["input_ids"]
    if field is None:
        assert load_folder_tokenizer(tmp_path, {}).framed(["War of peace"]) == [theirs]
        return
    assert ReleasedTokenizer(make().backend).framed(["War of peace"]) != [theirs]
    with pytest.raises(
        RequestError, match=f"tokenizer_config.json, {field} = .*: expected the tokenizer's own"
    ):
        load_folder_tokenizer(tmp_path, {})


END = '{"content": "<|endoftext|>", "special": true}'


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer_config.json", '{"add_prefix_space": true}', "add_prefix_space = True"),
        ("tokenizer_config.json", '{"add_prefix_space": "false"}', "expected true or false"),
        ("tokenizer_config.json", '{"add_prefix_space": false}', None),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": {"content": "<x>"}}}', ", 3 = "),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"ID": END}}', None),
        ("added_tokens.json", '{"<x>": 3}', "added_tokens.json, 3 = '<x>'"),
        ("added_tokens.json", "{}", None),
    ],
)  # fmt: skip
def test_settings_beside_vocabulary_files(file, content, said, tmp_path: Path) -> None:
    folder = vocabulary_files(tmp_path, "<|endoftext|>")
    ids = json.loads((folder / "vocab.json").read_text())
    (folder / file).write_text(content.replace("END", END).replace("ID", str(ids["<|endoftext|>"])))
    if said is None:
        assert (
            load_folder_tokenizer(folder, {"model_type": "gpt2"}).end_of_text
            == ids["<|endoftext|>"]
        )
        return
    with pytest.raises(RequestError) as caught:
        load_folder_tokenizer(folder, {"model_type": "gpt2"})
    assert said in str(caught.value)


@pytest.mark.parametrize("stops", [[True], ["x"], -1, "x", 1.5])
def test_ends_that_are_no_ids(stops: object, tmp_path: Path) -> None:
    folder = vocabulary_files(tmp_path, "<|endoftext|>")
    tokenizer = load_folder_tokenizer(folder, {"model_type": "gpt2"})
    with pytest.raises(RequestError, match=r"eos_token_id = .*: expected a token id"):
        load_boundaries(folder, {"eos_token_id": stops}, tokenizer)
