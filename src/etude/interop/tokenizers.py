"""Tokenizers of released models, read from a folder or from a GGUF file's metadata."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from etude.data.decoding import byte_letters
from etude.data.pretrained import FILES, Pretrained
from etude.data.tokenizer import Tokenizer, special_token
from etude.errors import Problem, RequestError
from etude.interop.gguf import GGUF
from etude.interop.gguf_keys import invalid_tokenizer_values, unknown_tokenizer_keys
from etude.interop.json_file import read_object
from etude.interop.tokenizer_config import contradictions
from etude.interop.weights_location import SENTENCEPIECE, TEXT
from etude.records.opening import TOKENIZER

CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"
TEMPLATES = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>")}
"""The special tokens before and after a text, by family; the vocabulary files lack them."""

CONTROL, USER_DEFINED, BYTE = 3, 4, 6  # token types in a GGUF file

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class ReleasedTokenizer(Tokenizer):
    """A released model's tokenizer, which encodes the names of special tokens as special tokens.

    A prompt can therefore contain the chat format of the model (`<|im_start|>user`), and untrusted
    text can contain it, too. The tokenizer of an Étude run encodes the names of special tokens as
    ordinary text.

    Args:
        backend: a tokenizer of the `tokenizers` library, which is copied.
        file: the file's name in messages.
    """

    def __init__(self, backend: tokenizers.Tokenizer, file: str = TOKENIZER.name) -> None:
        super().__init__(tokenizers.Tokenizer.from_str(backend.to_str()), file)
        self.backend.encode_special_tokens = False

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return _from_string, (self.backend.to_str(), self.file)


@dataclass(frozen=True)
class TextBoundaries:
    """The token before each prompt, and the tokens that end a generated text.

    Attributes:
        begin: the id of the token before every prompt; None for no token.
        stops: the ids of the stop tokens, each of which ends a text.
    """

    begin: int | None = None
    stops: tuple[int, ...] = ()


def load_folder_tokenizer(folder: Path, config: Mapping[str, Any]) -> ReleasedTokenizer:
    """Reads the tokenizer in a folder: `tokenizer.json`, or GPT-2's or BERT's vocabulary files.

    Args:
        config: the fields of `config.json`. Without a `tokenizer.json`, `model_type` determines
            the special tokens that enclose a text.

    Raises:
        RequestError: the folder has no tokenizer, an invalid one, or one that contradicts
            `tokenizer_config.json`.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise RequestError(_no_tokenizer_problem(folder, config))
    try:
        trained = Pretrained(str(folder)).train(())
    except RequestError as error:
        if _find_sentencepiece(folder):
            raise RequestError(_no_tokenizer_problem(folder, config)) from error
        problems = [Problem(str(folder), p.expected, hint=p.hint) for p in error.problems]
        raise RequestError(problems) from error
    backend = trained.backend
    tokenizer = ReleasedTokenizer(backend, trained.file)
    stated = _read_optional(folder / CONFIG)
    if not (folder / "tokenizer.json").is_file():
        stated.setdefault("added_tokens", _read_optional(folder / "added_tokens.json"))
    if problems := contradictions(folder, stated, backend):
        raise RequestError(problems)
    if not (folder / "tokenizer.json").is_file():
        template = TEMPLATES.get(str(config.get("model_type")))
        if template is not None:
            tokenizer = _add_template(tokenizer, *template)
    if tokenizer.end_of_text is None:
        name = _token_text(_read_optional(folder / CONFIG).get("eos_token"))
        tokenizer.end_of_text = None if name is None else tokenizer.backend.token_to_id(name)
    return tokenizer


def load_boundaries(
    folder: Path, config: Mapping[str, Any], tokenizer: ReleasedTokenizer
) -> TextBoundaries:
    """Reads a released model's stop tokens, and the token that is added before every prompt.

    The stop tokens are the `eos_token_id` of `generation_config.json`, or else of `config.json`; if
    neither file has this field, there are none. The token before every prompt is the special token
    that the tokenizer itself adds before a text, or else the `bos_token` of `tokenizer_config.json`
    if `add_bos_token` is true there.

    Args:
        folder: the folder of the released model.
        config: the fields of `config.json`.
        tokenizer: the tokenizer in the folder.
    """
    stops = {**config, **_read_optional(folder / GENERATION)}.get("eos_token_id")
    stop_tokens = [
        stop for stop in (stops if isinstance(stops, list) else [stops]) if stop is not None
    ]
    if wrong := [stop for stop in stop_tokens if type(stop) is not int or stop < 0]:
        expected = "a token id or a list of token ids"
        raise RequestError(Problem(f"{folder}: eos_token_id", expected, wrong))
    begin = _first_special_token(tokenizer)
    stated = _read_optional(folder / CONFIG)
    if begin is None and stated.get("add_bos_token") is True:
        name = _token_text(stated.get("bos_token"))
        begin = None if name is None else tokenizer.backend.token_to_id(name)
        if begin is None and name is not None:
            expected = "a token of the vocabulary, since add_bos_token is true"
            raise RequestError(Problem(f"{folder / CONFIG}: bos_token", expected, name))
    return TextBoundaries(begin, tuple(stop_tokens))


def load_gguf_tokenizer(file: GGUF) -> tuple[ReleasedTokenizer, TextBoundaries]:
    """Builds the byte-level tokenizer that the metadata of a GGUF file describes.

    If there is a `tokenizer.json` next to the file, that tokenizer is read instead. The token
    before each prompt and the stop tokens still come from the GGUF file.

    Returns:
        The tokenizer, and the tokens at the boundaries of a text.

    Raises:
        RequestError: the tokenizer's metadata are invalid, `tokenizer.json` is invalid, or, without
            a `tokenizer.json`, the metadata describe no byte-level tokenizer.
    """
    if problems := invalid_tokenizer_values(file.get, str(file.where)):
        raise RequestError(problems)
    begin = file.get("tokenizer.ggml.bos_token_id")
    splitting = str(file.get("tokenizer.ggml.pre", "gpt-2"))
    if not file.get("tokenizer.ggml.add_bos_token", splitting in _BEGIN_BY_DEFAULT):
        begin = None
    stops = (file.get(f"tokenizer.ggml.{each}_token_id") for each in ("eos", "eot", "eom"))
    ends = TextBoundaries(
        begin, tuple(dict.fromkeys(token for token in stops if token is not None))
    )
    if (file.where.parent / "tokenizer.json").is_file():
        return load_folder_tokenizer(file.where.parent, {}), ends
    kind = file.get("tokenizer.ggml.model")
    if kind != "gpt2":
        expected = "gpt2, the only tokenizer model that Étude reads from GGUF metadata"
        raise RequestError(Problem(f"{file.where}, tokenizer.ggml.model", expected, kind, _HINT))
    if problems := unknown_tokenizer_keys(file.keys(), file.get, str(file.where)):
        raise RequestError(problems)
    backend = tokenizers.Tokenizer(_byte_level_model(file))
    if splitting not in _SPLITTINGS:
        expected = f"one of {', '.join(_SPLITTINGS)}"
        raise RequestError(Problem(f"{file.where}, tokenizer.ggml.pre", expected, splitting, _HINT))
    steps = [*_SPLITTINGS[splitting], pre_tokenizers.ByteLevel(add_prefix_space=False,
             use_regex=splitting in _GPT2_REGEX)]  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    backend.decoder = decoders.ByteLevel()
    if splitting == "qwen2":
        backend.normalizer = normalizers.NFC()
    names = file.get("tokenizer.ggml.tokens")
    kinds = file.get("tokenizer.ggml.token_type", [])
    pairs = list(zip(names, kinds, strict=False))
    backend.add_special_tokens([special_token(name) for name, kind in pairs if kind == CONTROL])
    backend.add_tokens(
        [AddedToken(name, normalized=False) for name, kind in pairs if kind == USER_DEFINED]
    )
    return ReleasedTokenizer(backend, str(file.where)), ends


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


_HINT = "to use the model's tokenizer.json instead, put tokenizer.json next to the GGUF file"
_BEGIN_BY_DEFAULT = ("llama-bpe",)
"""Pre-tokenizers with which llama.cpp adds the begin token (BOS) by default."""
_GPT2_REGEX = ("gpt-2", "smollm")
_SPLITTINGS: dict[str, list[Any]] = {
    "gpt-2": [],
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    "llama-bpe": [_split(_LLAMA3)],
    "qwen2": [_split(_QWEN2)],
}
"""The pre-tokenization steps before the byte-level one, by their names in llama.cpp."""


def _byte_level_model(file: GGUF) -> models.BPE:
    names = file.get("tokenizer.ggml.tokens")
    merges = file.get("tokenizer.ggml.merges")
    where = f"{file.where}, tokenizer.ggml"
    if not isinstance(names, list) or not isinstance(merges, list):
        raise RequestError(Problem(where, "a list of tokens and a list of merges"))
    letters = byte_letters()
    alphabet = set(letters)

    def to_byte_letters(name: str) -> str:
        """Returns a token's text in the alphabet of byte-level tokenizers, with one letter for each
        byte.

        A token `name` that is in this alphabet already is returned unchanged.
        """
        return name if set(name) <= alphabet else "".join(letters[b] for b in name.encode())

    kinds = file.get("tokenizer.ggml.token_type", [1] * len(names))
    if not isinstance(kinds, list) or len(kinds) != len(names) or BYTE in kinds:
        expected = f"{len(names)} token types, none of them {BYTE} (byte)"
        raise RequestError(Problem(f"{where}.token_type", expected))
    if len(set(names)) != len(names):
        raise RequestError(Problem(f"{where}.tokens", "a list without duplicates"))
    vocabulary = {
        name if kind in (CONTROL, USER_DEFINED) else to_byte_letters(name): number
        for number, (name, kind) in enumerate(zip(names, kinds, strict=True))
    }
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    whole = file.get("tokenizer.ggml.pre") == "llama-bpe"
    try:
        return models.BPE(vocabulary, pairs, ignore_merges=whole)
    except Exception as error:  # the library raises a bare Exception
        hint = f"{type(error).__name__}: {error}"
        expected = "merges whose tokens are in the vocabulary"
        raise RequestError(Problem(where, expected, hint=hint)) from error


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    source: Path | None = None,
    begin: int | None = None,
    ends: Sequence[int] = (),
    max_length: int | None = None,
    chat: str | None = None,
    types: bool = False,
) -> None:
    """Writes a tokenizer's files into a folder of weights, for `transformers`.

    Args:
        tokenizer: the tokenizer, saved as `tokenizer.json` unless `source` has that file.
        source: the folder of a released model, whose tokenizer files are copied unchanged; None
            copies no files. If it has a `tokenizer_config.json`, all arguments below are ignored.
        begin: the id of the `bos_token`; None for no such token.
        ends: ids of the stop tokens; the first is the `eos_token`. If empty, the `eos_token` is the
            tokenizer's end-of-text token.
        max_length: the maximum number of tokens per text; None states no maximum.
        chat: the chat template (Jinja); None for no template.
        types: whether the model distinguishes the two texts of a pair by token types.
    """
    if source is not None:
        for name in TEXT:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    if not (folder / "tokenizer.json").is_file():
        tokenizer.save(folder / "tokenizer.json")
    if (folder / CONFIG).is_file():
        return
    end = ends[0] if ends else tokenizer.end_of_text
    ids = {"bos_token": begin, "eos_token": end, "unk_token": tokenizer.unknown}
    special = tokenizer.special_tokens()
    name_of = {number: name for name, number in special.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {key: name_of[number] for key, number in ids.items() if number in name_of}
    config |= {
        f"{key}_token": name
        for key, name in (("cls", "[CLS]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("mask", "[MASK]"))
        if name in special
    }
    if max_length is not None:
        config["model_max_length"] = max_length
    if chat is not None:
        config["chat_template"] = chat
    if types:
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    config["clean_up_tokenization_spaces"] = False
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _add_template(tokenizer: ReleasedTokenizer, first: str, last: str) -> ReleasedTokenizer:
    backend = tokenizer.backend
    numbers = {name: backend.token_to_id(name) for name in (first, last)}
    if None in numbers.values():
        return tokenizer
    backend.add_special_tokens([special_token(name) for name in numbers])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=list(numbers.items()),
    )
    return ReleasedTokenizer(backend, tokenizer.file)


def _first_special_token(tokenizer: ReleasedTokenizer) -> int | None:
    """Returns the id of the special token that the tokenizer adds before a text.

    Returns None if the tokenizer adds no such token.
    """
    (empty,) = tokenizer.framed([""])
    (text,) = tokenizer.framed(["a"])
    bare = tokenizer.encode("a")
    if len(text) > len(bare) and text[0] != bare[0] and empty and empty[0] == text[0]:
        return text[0]
    return None


def _find_sentencepiece(folder: Path) -> str | None:
    return next((name for name in SENTENCEPIECE if (folder / name).is_file()), None)


def _no_tokenizer_problem(folder: Path, config: Mapping[str, Any]) -> Problem:
    model = _find_sentencepiece(folder)
    hint = None
    if config.get("model_type") == "marian":
        hint = (
            "Marian's two SentencePiece models cannot be converted to a tokenizer.json; "
            "etude.load_pretrained loads the model without a tokenizer"
        )
    elif model is not None:
        hint = (
            f"{model} is a SentencePiece model: install transformers and sentencepiece, and write "
            "tokenizer.json with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return Problem(
        str(folder),
        "a tokenizer: one of tokenizer.json, vocab.json with merges.txt, and vocab.txt",
        hint=hint,
    )


def _read_optional(file: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; an empty dict if the file is missing."""
    return read_object(file) if os.path.lexists(file) else {}


def _token_text(token: Any) -> str | None:
    """Returns the text of a special token in `tokenizer_config.json`.

    The token is given as a string, or as an object with the text.

    Returns None if it is null.
    """
    text = token.get("content") if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise RequestError(Problem(CONFIG, "a special token as text", text))
    return text


def _from_string(text: str, file: str) -> ReleasedTokenizer:
    return ReleasedTokenizer(tokenizers.Tokenizer.from_str(text), file)
