"""The tokenizer of a released model: from its folder, or from a GGUF file's metadata."""

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
from etude.interop.hub import SENTENCEPIECE, TEXT
from etude.interop.json_file import read_object
from etude.interop.tokenizer_config import contradictions
from etude.records.opening import TOKENIZER

CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"
TEMPLATES = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>")}
"""What stands around a text, by family, where the vocabulary's files don't say it."""

CONTROL, USER_DEFINED, BYTE = 3, 4, 6  # kinds of tokens in a GGUF file

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class ReleasedTokenizer(Tokenizer):
    """A released model's tokenizer: special tokens that stand in a prompt are read as such, so that
    a chat can be typed as the model knows it (`<|im_start|>user`).

    Who passes on text of strangers to a model should know that; the tokenizer of a run never
    does it.

    Args:
        backend: of the `tokenizers` library; it is copied.
        file: what it was read from, for errors.
    """

    def __init__(self, backend: tokenizers.Tokenizer, file: str = TOKENIZER.name) -> None:
        super().__init__(tokenizers.Tokenizer.from_str(backend.to_str()), file)
        self.backend.encode_special_tokens = False

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return _from_string, (self.backend.to_str(), self.file)


@dataclass(frozen=True)
class TextBoundaries:
    """The tokens around a generated text.

    Attributes:
        begin: what the model reads before every prompt, if anything.
        stops: any of them ends a text.
    """

    begin: int | None = None
    stops: tuple[int, ...] = ()


def of_folder(folder: Path, config: Mapping[str, Any]) -> ReleasedTokenizer:
    """The tokenizer in a folder: `tokenizer.json`, else GPT-2's or BERT's vocabulary files.

    Args:
        config: of `config.json`.

    Raises:
        RequestError: there is none, or a broken one.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise RequestError(_no_tokenizer_problem(folder, config))
    try:
        found = Pretrained(str(folder)).train(())
    except RequestError as error:
        if _find_sentencepiece(folder):
            raise RequestError(_no_tokenizer_problem(folder, config)) from error
        problems = [Problem(str(folder), p.expected, hint=p.hint) for p in error.problems]
        raise RequestError(problems) from error
    backend = found.backend
    tokenizer = ReleasedTokenizer(backend, found.file)
    stated = _read_optional(folder / CONFIG)
    if not (folder / "tokenizer.json").is_file():
        stated.setdefault("added_tokens", _read_optional(folder / "added_tokens.json"))
    if problems := contradictions(folder, stated, backend):
        raise RequestError(problems)
    if not (folder / "tokenizer.json").is_file():
        frame = TEMPLATES.get(str(config.get("model_type")))
        if frame is not None:
            tokenizer = _add_template(tokenizer, *frame)
    if tokenizer.end_of_text is None:
        name = _token_text(_read_optional(folder / CONFIG).get("eos_token"))
        tokenizer.end_of_text = None if name is None else tokenizer.backend.token_to_id(name)
    return tokenizer


def ends_of_folder(
    folder: Path, config: Mapping[str, Any], tokenizer: ReleasedTokenizer
) -> TextBoundaries:
    """What `generation_config.json`, else `config.json`, says of the end, and the tokenizer of the
    beginning.
    """
    said = {**config, **_read_optional(folder / GENERATION)}
    stops = said.get("eos_token_id")
    listed = [stop for stop in (stops if isinstance(stops, list) else [stops]) if stop is not None]
    if wrong := [stop for stop in listed if type(stop) is not int or stop < 0]:
        raise RequestError(Problem(f"{folder}: eos_token_id", "a token's id, or several", wrong))
    begin = _first_special_token(tokenizer)
    stated = _read_optional(folder / CONFIG)
    if begin is None and stated.get("add_bos_token") is True:
        name = _token_text(stated.get("bos_token"))
        begin = None if name is None else tokenizer.backend.token_to_id(name)
        if begin is None and name is not None:
            expected = "a token of the vocabulary, as add_bos_token is true"
            raise RequestError(Problem(f"{folder / CONFIG}: bos_token", expected, name))
    return TextBoundaries(begin, tuple(listed))


def of_gguf(file: GGUF) -> tuple[ReleasedTokenizer, TextBoundaries]:
    """The byte-level tokenizer that a GGUF file describes; a `tokenizer.json` beside the file is
    taken instead.

    Raises:
        RequestError: the file has none, or one of another kind.
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
        return of_folder(file.where.parent, {}), ends
    kind = file.get("tokenizer.ggml.model")
    if kind != "gpt2":
        expected = "gpt2, a byte-level tokenizer: no other is made of a GGUF file's metadata"
        hint = "with the model's tokenizer.json beside the file, that is taken"
        raise RequestError(Problem(f"{file.where}, tokenizer.ggml.model", expected, kind, hint))
    if problems := unknown_tokenizer_keys(file.keys(), file.get, str(file.where)):
        raise RequestError(problems)
    backend = tokenizers.Tokenizer(_byte_level_model(file))
    if splitting not in _SPLITTINGS:
        expected = f"a splitting of text that Étude knows: {', '.join(_SPLITTINGS)}"
        hint = "with the model's tokenizer.json beside the file, that is taken"
        raise RequestError(Problem(f"{file.where}, tokenizer.ggml.pre", expected, splitting, hint))
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


_BEGIN_BY_DEFAULT = ("llama-bpe",)
"""Splittings with which llama.cpp puts the first token before a text where the file is silent."""
_GPT2_REGEX = ("gpt-2", "smollm")
_SPLITTINGS: dict[str, list[Any]] = {
    "gpt-2": [],
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    "llama-bpe": [_split(_LLAMA3)],
    "qwen2": [_split(_QWEN2)],
}
"""What is done before bytes become letters, by llama.cpp's names."""


def _byte_level_model(file: GGUF) -> models.BPE:
    names = file.get("tokenizer.ggml.tokens")
    merges = file.get("tokenizer.ggml.merges")
    where = f"{file.where}, tokenizer.ggml"
    if not isinstance(names, list) or not isinstance(merges, list):
        raise RequestError(Problem(where, "lists of tokens and merges"))
    letters = byte_letters()
    alphabet = set(letters)

    def spelt(name: str) -> str:
        """User-defined tokens stand there as text."""
        return name if set(name) <= alphabet else "".join(letters[b] for b in name.encode())

    kinds = file.get("tokenizer.ggml.token_type", [1] * len(names))
    if not isinstance(kinds, list) or len(kinds) != len(names) or BYTE in kinds:
        expected = f"{len(names)} kinds of tokens, none of them a byte ({BYTE})"
        raise RequestError(Problem(f"{where}.token_type", expected))
    if len(set(names)) != len(names):
        raise RequestError(Problem(f"{where}.tokens", "each token once"))
    vocabulary = {
        name if kind in (CONTROL, USER_DEFINED) else spelt(name): number
        for number, (name, kind) in enumerate(zip(names, kinds, strict=True))
    }
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    whole = file.get("tokenizer.ggml.pre") == "llama-bpe"
    try:
        return models.BPE(vocabulary, pairs, ignore_merges=whole)
    except Exception as error:  # the library raises a bare Exception
        hint = f"{type(error).__name__}: {error}"
        raise RequestError(Problem(where, "merges of tokens that are there", hint=hint)) from error


def write(
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
    """Puts a tokenizer where `transformers` finds it beside weights.

    Args:
        tokenizer: written as `tokenizer.json` unless `source` has that file.
        source: a released folder, whose files for text are copied as they are.
        begin, ends: the first of `ends` is the end of text that `tokenizer_config.json` names.
        max_length: the most tokens of a text.
        chat: the template of a chat, Jinja.
        types: the model tells the second of two texts from the first by token types.
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
    named = {"bos_token": begin, "eos_token": end, "unk_token": tokenizer.unknown}
    special = tokenizer.special_tokens()
    spelt = {number: name for name, number in special.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {key: spelt[number] for key, number in named.items() if number in spelt}
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
    """The special token that the tokenizer puts before a text."""
    (empty,) = tokenizer.framed([""])
    (text,) = tokenizer.framed(["a"])
    plain = tokenizer.encode("a")
    if len(text) > len(plain) and text[0] != plain[0] and empty and empty[0] == text[0]:
        return text[0]
    return None


def _find_sentencepiece(folder: Path) -> str | None:
    return next((name for name in SENTENCEPIECE if (folder / name).is_file()), None)


def _no_tokenizer_problem(folder: Path, config: Mapping[str, Any]) -> Problem:
    found = _find_sentencepiece(folder)
    hint = None
    if config.get("model_type") == "marian":
        hint = (
            "Marian's two SentencePiece models make no tokenizer.json; the module alone, which "
            "takes ids, is etude.interop.pretrained.load_weights(FOLDER).module"
        )
    elif found is not None:
        hint = (
            f"{found} is SentencePiece's: where transformers and sentencepiece are installed, "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes tokenizer.json"
        )
    return Problem(
        str(folder),
        "a tokenizer: tokenizer.json, vocab.json and merges.txt, or vocab.txt",
        hint=hint,
    )


def _read_optional(file: Path) -> dict[str, Any]:
    """The object in a file that a folder may lack."""
    return read_object(file) if os.path.lexists(file) else {}


def _token_text(token: Any) -> str | None:
    """The text of a special token, which is stated as such or as an object; None if it is none."""
    text = token.get("content") if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise RequestError(Problem(CONFIG, "the text of a special token", text))
    return text


def _from_string(text: str, file: str) -> ReleasedTokenizer:
    return ReleasedTokenizer(tokenizers.Tokenizer.from_str(text), file)
