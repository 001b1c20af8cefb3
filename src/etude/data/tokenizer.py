"""Tokenizers: conversion of text to token ids and back, and recipes for training tokenizers.

Every tokenizer wraps a `tokenizers.Tokenizer`, so all share one file format (`tokenizer.json`) that
other libraries read too. A config sets a recipe, which is trained on the training split to give the
tokenizer. Short recipes are in this module; `unigram`, `wordpiece` and `pretrained` have modules of
their own.

Text never becomes a special token: the characters `<|endoftext|>` in a document are encoded as
ordinary text.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from etude.counts import counted
from etude.data.decoding import Decoding, byte_letters
from etude.data.panics import no_panic
from etude.data.tokenizer_parts import check_parts
from etude.data.tokenizer_training import check_vocabulary, learn, warn_if_smaller
from etude.errors import Problem, RequestError, nearest
from etude.records.files import write_text
from etude.records.opening import TOKENIZER, read_bytes

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"

# Names of these tokens in other tokenizers; the first one present is used.
ENDS_OF_TEXT = (END_OF_TEXT, "</s>", "[SEP]", "<eos>", "<|end_of_text|>", "<|im_end|>")
UNKNOWNS = (UNKNOWN, "[UNK]")
MASKS = ("[MASK]", "<mask>")
FRAMES = (("[CLS]", "[SEP]"), ("<s>", "</s>"), (END_OF_TEXT, END_OF_TEXT))
"""Pairs of special tokens around a text that an encoder reads.

The first pair that a tokenizer contains is used.
"""


class Tokenizer:
    """Tokenizer, which encodes text as token ids and decodes ids to text.

    Args:
        backend: the trained tokenizer of the `tokenizers` library.
        file: path of the file from which the tokenizer was read, for messages.

    Attributes:
        end_of_text: id of the token between documents: the special token with which the template
            in the file ends a text, else the first special token in `ENDS_OF_TEXT`, else None.
        unknown: id of the token for text outside the vocabulary, or None.
        mask: id of the mask token, or None.
    """

    def __init__(self, backend: tokenizers.Tokenizer, file: str = TOKENIZER.name) -> None:
        # Don't parse special tokens in text; the flag isn't stored in the file.
        backend.encode_special_tokens = True
        backend.no_truncation()  # a file may truncate each text to 128 tokens
        backend.no_padding()
        self.backend, self.file = backend, file
        special = self.special_tokens()
        closing = _closing_token(backend)
        ends = ([closing] if closing else []) + [name for name in ENDS_OF_TEXT if name in special]
        self.end_of_text: int | None = backend.token_to_id(ends[0]) if ends else None
        unknowns = [name for name in UNKNOWNS if name in special]
        self.unknown: int | None = special[unknowns[0]] if unknowns else None
        self.mask: int | None = next((special[name] for name in MASKS if name in special), None)

    def __repr__(self) -> str:
        kind = type(self.backend.model).__name__
        special = ", ".join(map(repr, list(self.special_tokens())[:4])) or "none"
        name = type(self).__name__
        return f"{name}({kind}, {counted(self.vocab_size, 'token')}, special tokens {special})"

    def special_tokens(self) -> dict[str, int]:
        """Returns the ids of special tokens, by name."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids, including special tokens and gaps in the numbering."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def for_text(self) -> tokenizers.Tokenizer:
        """Returns a `tokenizers.Tokenizer` for which the caller may set truncation.

        It is a copy of `backend`. All calls return the same copy; each call first disables the
        copy's truncation.
        """
        self._copy.no_truncation()
        return self._copy

    @cached_property
    def _copy(self) -> tokenizers.Tokenizer:
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def rewrites(self) -> bool:
        """Whether decoding the ids of a text may give a different text.

        For example, case or spaces may differ, or words may be replaced by the unknown token.

        False for byte-level tokenizers, and for character tokenizers.
        """
        backend = self.backend
        splitting = _state(backend.pre_tokenizer)
        unchanged = backend.normalizer is None and not splitting.get("add_prefix_space")
        joins_exactly = isinstance(backend.decoder, decoders.ByteLevel | decoders.Fuse)
        return not (unchanged and joins_exactly and splitting.get("type") in (None, "ByteLevel"))

    @cached_property
    def cuts(self) -> Literal["anywhere", "at_spaces", "unknown"]:
        """Where a text may be cut so that its pieces together give the tokens of the whole text.

        `at_spaces` means the positions of `etude.data.passages`, which are valid for the
        pre-tokenizers of GPT-2 and BERT; `unknown` means that no position is known to be valid.
        """
        splitting = _state(self.backend.pre_tokenizer)
        if splitting.get("type") == "BertPreTokenizer":
            return "at_spaces"
        if self.rewrites:
            return "unknown"
        if splitting.get("use_regex"):
            return "at_spaces"
        return "unknown" if _state(self.backend.model).get("merges", True) else "anywhere"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the tokenizer's JSON; the order of keys and the layout don't matter."""
        return hashlib.sha256(_canonical(self.backend.to_str()).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of `text`; special tokens are neither added nor recognised.

        Raises:
            RequestError: if a word is not in a vocabulary without an unknown token.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text; special tokens are neither added nor recognised.

        The `tokenizers` library encodes the texts on several threads.

        Raises:
            RequestError: if a word is not in a vocabulary without an unknown token.
        """
        try:
            with no_panic(self.file):
                encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except RequestError:
            raise
        except Exception as error:
            raise RequestError(self._unknown_word(texts)) from error
        return [encoding.ids for encoding in encodings]

    def _unknown_word(self, texts: Sequence[str]) -> Problem:
        known = self.backend.get_vocab()
        unknown = [word for text in texts for word in text.split() if word not in known]
        hint = nearest(unknown[0], known) if unknown else None
        expected = "only words that are in the tokenizer's vocabulary"
        return Problem("text", expected, unknown[0] if unknown else None, hint)

    def encode_special(self, text: str) -> list[int]:
        """Returns the token ids of `text`, in which names of special tokens become their ids."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = False
        with no_panic(self.file):
            return list(backend.encode(text, add_special_tokens=False).ids)

    def framed(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, with the special tokens that the template adds.

        The template is part of the tokenizer's file; see `with_frame`.
        """
        with no_panic(self.file):
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=True)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`, in which special tokens appear as their names.

        Only bytes that belong to no complete character become U+FFFD (see `etude.data.decoding`).
        """
        with no_panic(self.file):
            return self._decoding(list(ids))

    @cached_property
    def _decoding(self) -> Decoding:
        return Decoding(self.backend)

    def first_token_bytes(self, text: str) -> int:
        """Returns the number of UTF-8 bytes of the first token of `text` (0 for an empty text)."""
        encoding = self._encoding(text)
        if not encoding.ids:
            return 0
        if isinstance(self.backend.decoder, decoders.ByteLevel):
            return len(encoding.tokens[0])  # a byte-level token has one letter per byte
        return len(text[: encoding.offsets[0][1]].encode())

    def unknown_pieces(self, text: str) -> Counter[str]:
        """Returns a counter of the characters or words in `text` that become the unknown token.

        The counter is empty if the tokenizer has no unknown token.
        """
        if self.unknown is None:
            return Counter()
        encoding = self._encoding(text)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return Counter(text[start:end] for number, (start, end) in pairs if number == self.unknown)

    @cached_property
    def loses(self) -> bool:
        """Whether characters outside the vocabulary are dropped without a token.

        Byte-pair encoding drops them if it has neither an unknown token nor all bytes.
        """
        model = self.backend.model
        if not isinstance(model, models.BPE) or model.unk_token is not None:
            return False
        if model.byte_fallback and self._spells_bytes:
            return False
        states = [_state(self.backend.normalizer), _state(self.backend.pre_tokenizer)]
        steps = [
            step.get("type")
            for state in states
            for step in state.get("normalizers", state.get("pretokenizers", [state]))
        ]
        if model.end_of_word_suffix or model.continuing_subword_prefix:
            return True  # a letter then has two tokens, of which one may be missing
        return not ("ByteLevel" in steps and set(byte_letters()) <= self._model_vocabulary.keys())

    def lost_pieces(self, text: str) -> Counter[str]:
        """Returns a counter of the characters in the normalized `text` that have no token.

        This method is for a tokenizer that drops such characters (see `loses`). Their positions are
        not returned, since the library's offsets skip them.
        """
        model, normalizer, splitting = (
            self.backend.model, self.backend.normalizer, self.backend.pre_tokenizer,
        )  # fmt: skip
        if model.byte_fallback and self._spells_bytes:
            return Counter()
        with no_panic(self.file):
            text = text if normalizer is None else normalizer.normalize_str(text)
            words = [(text, None)] if splitting is None else splitting.pre_tokenize_str(text)
        before, after = model.continuing_subword_prefix or "", model.end_of_word_suffix or ""
        lost: Counter[str] = Counter()
        for word, count in Counter(word for word, _ in words).items():
            if model.ignore_merges and word in self._model_vocabulary:
                continue
            last = len(word) - 1
            for index, letter in enumerate(word):
                piece = (before if index else "") + letter + (after if index == last else "")
                if piece not in self._model_vocabulary:
                    lost[letter] += count
        return lost

    @cached_property
    def _model_vocabulary(self) -> dict[str, int]:
        """Dict from each token of the model to its id; added tokens are not included."""
        return self.backend.get_vocab(with_added_tokens=False)

    @cached_property
    def _spells_bytes(self) -> bool:
        return {f"<0x{byte:02X}>" for byte in range(256)} <= self._model_vocabulary.keys()

    def _encoding(self, text: str) -> tokenizers.Encoding:
        with no_panic(self.file):
            return self.backend.encode(text, add_special_tokens=False)

    def save(self, path: Path | str) -> None:
        """Writes the tokenizer to the file `path` atomically, in the format `tokenizer.json`."""
        write_text(Path(path), self.backend.to_str(pretty=True), TOKENIZER)

    @classmethod
    def load(cls, path: Path | str, *, links: bool = True) -> Tokenizer:
        """Reads a `tokenizer.json`.

        Args:
            path: the file.
            links: whether the file may be a symbolic link; false for a file in a run folder.

        Raises:
            RequestError: if the file is missing, unreadable or not a tokenizer, or if it is a link
                and `links` is false.
        """
        expected = "a tokenizer.json of the `tokenizers` library"
        try:
            text = read_bytes(path, TOKENIZER, links=links).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(Problem(str(path), expected, hint=str(error))) from error
        check_parts(text, str(path))
        try:
            with no_panic(str(path)):
                return cls(tokenizers.Tokenizer.from_str(text), str(path))
        except RequestError:
            raise
        except Exception as error:  # the library raises a bare Exception
            raise RequestError(Problem(str(path), expected, hint=str(error))) from error

    def closed_by(self, name: str) -> Tokenizer:
        """Returns a copy whose end-of-text token is the special token `name`.

        The choice is saved in the file's template, so it remains after `save` and `load`. The
        caller checks that the tokenizer has this token.
        """
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        number = copy.token_to_id(name)
        copy.post_processor = processors.TemplateProcessing(
            single=f"$A {name}", special_tokens=[(name, number)]
        )
        return Tokenizer(copy, self.file)

    def with_frame(self) -> Tokenizer:
        """Returns a copy with a template of special tokens around a text.

        A text becomes `[CLS] text [SEP]`; two texts become `[CLS] first [SEP] second [SEP]`, with
        token type 1 for the second text. Without these two tokens, the next pair of `FRAMES` that
        the tokenizer has is used instead. If there is none, or the tokenizer already has a
        template, the tokenizer itself is returned.
        """
        special = self.special_tokens()
        frames = [frame for frame in FRAMES if all(name in special for name in frame)]
        if not frames or self.backend.num_special_tokens_to_add(False):
            return self
        first, last = frames[0]
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(name, special[name]) for name in dict.fromkeys(frames[0])],
        )
        return Tokenizer(copy, self.file)

    def with_special(self, names: Sequence[str]) -> Tokenizer:
        """Returns a copy with the special tokens `names` added; their ids follow all other ids.

        A name that is already a token keeps its id. Without names, the tokenizer itself is
        returned.
        """
        if not names:
            return self
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.add_special_tokens([special_token(name) for name in names])
        return Tokenizer(copy, self.file)

    # The library's tokenizer loses `encode_special_tokens` when it is pickled.
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return _from_string, (self.backend.to_str(), self.file)


class Recipe(ABC):
    """Base class of recipes for training a tokenizer, set by the config group `data/tokenizer`."""

    @abstractmethod
    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Returns a tokenizer trained on `texts`; equal texts give equal tokenizers.

        Args:
            texts: the training texts, which are read once.
        """

    def settings(self) -> dict[str, object]:
        """Returns the settings that, with the text, determine the tokenizer, as JSON values."""
        return {"recipe": f"{type(self).__module__}.{type(self).__qualname__}", **vars(self)}

    def fingerprint(self) -> str | None:
        """Returns the tokenizer's fingerprint, a sha256; None if it is unknown before training.

        Raises:
            RequestError: if the tokenizer's files are missing or damaged.
        """
        return None

    def files_read(self) -> list[Path] | None:
        """Returns the files that determine the fingerprint; [] if no files do.

        The list is empty for a tokenizer that is trained on the data. Returns None if the
        fingerprint depends on more than files, or the files are not known.
        """
        return []

    @property
    def stated_size(self) -> int | None:
        """Vocabulary size that the config requests; None if the config doesn't set the size."""
        return None


class NeedsSpecialTokens(Protocol):
    """Protocol of objects, such as a task's objective, that require special tokens."""

    def special_tokens(self, known: Mapping[str, int]) -> list[str]:
        """Returns the names of special tokens that must be added to a tokenizer.

        Args:
            known: ids of the special tokens that the tokenizer already has, by name.
        """


class WithSpecial(Recipe):
    """Recipe that adds the special tokens that a task needs to another recipe's tokenizer.

    Args:
        recipe: recipe of the tokenizer.
        task: object whose `special_tokens` returns the names of missing special tokens.
    """

    def __init__(self, recipe: Recipe, task: NeedsSpecialTokens) -> None:
        self.recipe, self.task = recipe, task

    def train(self, texts: Iterable[str]) -> Tokenizer:
        tokenizer = self.recipe.train(texts)
        return tokenizer.with_special(self.task.special_tokens(tokenizer.special_tokens()))

    def settings(self) -> dict[str, object]:
        return {**self.recipe.settings(), "special_tokens": self.task.special_tokens({})}

    def fingerprint(self) -> str | None:
        return self.recipe.fingerprint()

    def files_read(self) -> list[Path] | None:
        return self.recipe.files_read()

    @property
    def stated_size(self) -> int | None:
        return self.recipe.stated_size


@dataclass(frozen=True)
class Char(Recipe):
    """Tokenizer with one token for each character of the training text.

    The ids are those of the characters in order of code point, then `<|endoftext|>` and `<unk>`. A
    character that is not in the training text becomes `<unk>`.
    """

    def train(self, texts: Iterable[str]) -> Tokenizer:
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        vocabulary = {character: index for index, character in enumerate(sorted(characters))}
        vocabulary[END_OF_TEXT] = len(vocabulary)
        vocabulary[UNKNOWN] = len(vocabulary)
        # BPE without merges gives single characters, and is the fastest of the library's models
        # that do, since it needs no splitting (1.7 s for 12 M characters; WordLevel 4.8 s).
        model = models.BPE(vocabulary, [], unk_token=UNKNOWN, fuse_unk=False)
        backend = tokenizers.Tokenizer(model)
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([special_token(END_OF_TEXT), special_token(UNKNOWN)])
        return Tokenizer(backend)


@dataclass(frozen=True)
class Byte(Recipe):
    """Tokenizer with one token for each UTF-8 byte.

    The id is the byte's value; `<|endoftext|>` is 256.
    """

    def train(self, texts: Iterable[str]) -> Tokenizer:
        vocabulary = {letter: byte for byte, letter in enumerate(byte_letters())}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([special_token(END_OF_TEXT)])
        return Tokenizer(backend)


@dataclass(frozen=True)
class BPE(Recipe):
    """Byte-level byte-pair encoding with GPT-2's pre-tokenizer (Radford et al. 2019, section 2.2).

    Ids are ordered as in GPT-2: 256 bytes, then merges in the order of training, then
    `<|endoftext|>`.

    Args:
        vocab_size: number of ids in total; fewer if the text is too small for that many merges.
    """

    vocab_size: int = 8192

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size, 257, "256 bytes and <|endoftext|>")

    @property
    def stated_size(self) -> int | None:
        return self.vocab_size

    def train(self, texts: Iterable[str]) -> Tokenizer:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - 1,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        learn(backend, trainer, texts)
        backend.add_special_tokens([special_token(END_OF_TEXT)])
        tokenizer = Tokenizer(backend)
        warn_if_smaller(tokenizer.vocab_size, self.vocab_size)
        return tokenizer


def special_token(content: str) -> AddedToken:
    """Returns a special token of the `tokenizers` library with the name `content`."""
    return AddedToken(content, special=True, normalized=False)


def lost_text_problem(lost: Counter[str], characters: int, split: str) -> Problem | None:
    """Returns a problem if a tokenizer drops more than half of a split's characters; else None.

    Args:
        lost: how often each character was dropped (from `Tokenizer.lost_pieces`).
        characters: number of characters of the split.
        split: name of the split.
    """
    if 2 * lost.total() <= characters:
        return None
    first = ", ".join(repr(letter) for letter, _ in lost.most_common(5))
    hint = (
        f"for {lost.total():,} of {characters:,} characters, most often {first}, the tokenizer has "
        "neither a token nor an unknown token"
    )
    expected = f"a tokenizer with tokens for most characters of the {split} split"
    return Problem("data.tokenizer", expected, hint=hint)


def _closing_token(backend: tokenizers.Tokenizer) -> str | None:
    """Returns the name of the special token that the template of `backend` adds after a text.

    Returns None if there is no such token.
    """
    state = _state(backend.post_processor)
    steps = state.get("processors", [state])
    templates = [step["single"] for step in steps if step.get("type") == "TemplateProcessing"]
    last = templates[-1][-1] if templates and templates[-1] else {}
    return last["SpecialToken"]["id"] if "SpecialToken" in last else None


def _state(part: Any) -> dict[str, Any]:
    """Returns a tokenizer component as the dict in `tokenizer.json`; empty if `part` is None."""
    return {} if part is None else json.loads(part.__getstate__())


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _from_string(text: str, file: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), file)
