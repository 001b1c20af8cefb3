"""Pretrained tokenizer, read from a file, a folder, or the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from etude.data.panics import no_panic
from etude.data.tokenizer import END_OF_TEXT, Recipe, Tokenizer, special_token
from etude.data.tokenizer_parts import check_parts
from etude.data.wordpiece import bert_tokenizer
from etude.errors import Checks, InvalidArguments, Problem, RequestError, nearest
from etude.records.opening import TOKENIZER, describe_special_file, path_exists, read_bytes

# The files of a folder, in the order of preference.
GPT2_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
FILES = ("tokenizer.json", *(name for pair in GPT2_FILES for name in pair), "vocab.txt")
WHERE = "data.tokenizer"
EXPECTED = (
    "a tokenizer.json, a vocab.json with a merges.txt in the same folder, a vocab.txt, a folder "
    "with such files, or a repository on the Hugging Face Hub"
)
NEVER = -1e4  # log-probability of a piece that must not occur in a text

TIMEOUT = 10.0  # seconds for the Hub's answer

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

log = logging.getLogger("etude.data")


@dataclass(frozen=True)
class Pretrained(Recipe):
    """Pretrained tokenizer, which is read from files and not trained on the corpus.

    The files are `tokenizer.json` (the format of the `tokenizers` library, which `transformers`
    also writes), GPT-2's `vocab.json` and `merges.txt` or `encoder.json` and `vocab.bpe`, or BERT's
    `vocab.txt`. Settings in a file for truncation, padding, dropout and special tokens around a
    text are ignored.

    A run's signature (the hash that identifies its settings) contains `path` as typed. When the run
    is used again, the content of the files is compared with the content during training, as for a
    corpus; a difference is reported as an error. The run folder contains the tokenizer as
    `tokenizer.json`.

    Args:
        path: a file, a folder with such files, or a repository on the Hugging Face Hub (`gpt2`,
            `org/name`).
        end_of_text: the special token between documents. None selects the token that the file's
            template adds at the end of a text; without it, the first of `<|endoftext|>`, `</s>`,
            `[SEP]`, `<eos>`, ... that is a special token of the file. If there is none, documents
            are concatenated without a separator.
        revision: a branch, tag or commit of the repository on the Hub.
    """

    path: str
    end_of_text: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        checks = Checks()
        checks.that(bool(self.path.strip()), "path", self.path, EXPECTED)
        checks.done()

    @classmethod
    def pinned(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `{"revision": commit}`, with the commit to which `revision` currently points.

        The commit replaces the revision in the saved config (see `etude.config.pinning`). The dict
        is empty for local files, and if the revision is a full commit hash already.

        Args:
            arguments: arguments of the recipe, of which `path` and `revision` are used.

        Raises:
            InvalidArguments: if there is no such repository, or the Hub can't be reached and no
                files were downloaded before.
        """
        path, revision = str(arguments.get("path", "")), arguments.get("revision")
        if not _is_hub_id(path) or (revision and _COMMIT.fullmatch(revision)):
            return {}
        return {"revision": _from_hub(path, revision).name}

    def train(self, texts: Iterable[str]) -> Tokenizer:
        return self._loaded()

    def settings(self) -> dict[str, object]:
        return {"recipe": "pretrained", "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        return self._loaded().fingerprint

    def files_read(self) -> list[Path] | None:
        return None  # the files read depend on which of them exist

    def _loaded(self) -> Tokenizer:
        try:
            files = self._files()
            stamps = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
            return _load(stamps, self.end_of_text)
        except InvalidArguments as error:
            raise RequestError(problem.under(WHERE) for problem in error.problems) from error

    def _files(self) -> list[Path]:
        path = _from_hub(self.path, self.revision) if _is_hub_id(self.path) else _local(self.path)
        if path.is_file():
            return _with_companion(path, self.path)
        if path.is_dir():
            return _in_folder(path, self.path)
        if path_exists(path):
            raise InvalidArguments(
                Problem("path", EXPECTED, self.path, describe_special_file(path))
            )
        parent = path.parent
        names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        raise InvalidArguments(Problem("path", EXPECTED, self.path, nearest(path.name, names)))


def _local(typed: str) -> Path:
    return Path(typed).expanduser()


def _is_hub_id(typed: str) -> bool:
    path = _local(typed)
    is_file_name = path.suffix in (".json", ".txt", ".bpe", ".model")
    return not path.exists() and not is_file_name and _HUB_ID.fullmatch(typed) is not None


def _with_companion(file: Path, typed: str) -> list[Path]:
    for pair in GPT2_FILES:
        if file.name in pair:
            files = [file.with_name(name) for name in pair]
            for missing in (other for other in files if not other.is_file()):
                raise InvalidArguments(
                    Problem("path", f"a {file.name} with {missing.name} in the same folder", typed)
                )
            return files
    if file.suffix not in (".json", ".txt"):
        conversion = (
            "to convert a SentencePiece model, load it with transformers and save it as "
            "tokenizer.json"
        )
        hint = conversion if file.suffix == ".model" else None
        raise InvalidArguments(Problem("path", EXPECTED, typed, hint))
    return [file, *_tokenizer_config(file)]


def _in_folder(folder: Path, typed: str) -> list[Path]:
    if (file := folder / "tokenizer.json").is_file():
        return [file]
    for pair in GPT2_FILES:
        if all((folder / name).is_file() for name in pair):
            return [folder / name for name in pair]
    if (file := folder / "vocab.txt").is_file():
        return [file, *_tokenizer_config(file)]
    names = sorted(path.name for path in folder.iterdir())
    hint = f"the folder contains {', '.join(names[:8])}" if names else "the folder is empty"
    raise InvalidArguments(Problem("path", EXPECTED, typed, hint))


def _tokenizer_config(vocabulary: Path) -> list[Path]:
    """Returns a list with the path of `tokenizer_config.json`; empty if the file is missing.

    This file sets whether BERT's tokenizer converts text to lower case. The list is also empty if
    the vocabulary is not a `.txt` file.

    Args:
        vocabulary: path of the vocabulary file, in the same folder.
    """
    config = vocabulary.with_name("tokenizer_config.json")
    return [config] if vocabulary.suffix == ".txt" and config.is_file() else []


@lru_cache(maxsize=4)
def _load(stamps: tuple[tuple[Path, int, int], ...], end_of_text: str | None) -> Tokenizer:
    """Returns the tokenizer in the given files; the result is cached until a file changes.

    Args:
        stamps: path, size and modification time of each file.
        end_of_text: the special token between documents; None detects it.

    Raises:
        InvalidArguments: if a file is not in the format that its name indicates, or lacks the
            end-of-text token.
    """
    files = [file for file, _, _ in stamps]
    try:
        if files[0].suffix == ".txt":
            tokenizer = _load_bert(files[0], *files[1:])
        elif len(files) == 2:
            tokenizer = _load_gpt2(*files)
        else:
            tokenizer = _load_json(files[0])
    except InvalidArguments:
        raise
    except RequestError as error:
        expected = f"a {files[0].name} with only components that Étude supports"
        hint = "; ".join(map(str, error.problems))
        raise InvalidArguments(Problem("path", expected, str(files[0]), hint)) from error
    except Exception as error:  # the library raises a bare Exception
        expected = f"a valid {' and '.join(file.name for file in files)}"
        hint = f"{type(error).__name__}: {error}"
        raise InvalidArguments(Problem("path", expected, str(files[0]), hint)) from error
    _check_ids(tokenizer, files[0])
    special = tokenizer.special_tokens()
    if end_of_text is not None:
        if end_of_text not in special:
            expected = "a special token of the tokenizer"
            close = nearest(end_of_text, special)
            raise InvalidArguments(Problem("end_of_text", expected, end_of_text, close))
        tokenizer = tokenizer.closed_by(end_of_text)
    if tokenizer.end_of_text is None:
        names = ", ".join(list(special)[:8]) or "none"
        log.warning(
            "documents are not separated, since no end-of-text token was detected; to separate "
            "them, set data.tokenizer.end_of_text to a special token of the tokenizer "
            "(special tokens: %s)",
            names,
        )
    spellings = zip(special.items(), tokenizer.encode_batch(list(special)), strict=True)
    confused = [n for (n, i), ids in spellings if i in ids and i != tokenizer.unknown]
    if confused:
        log.warning(
            "if a text contains the name of one of these special tokens, it is encoded as the "
            "token: %s",
            ", ".join(confused[:5]),
        )
    return tokenizer


def _check_ids(tokenizer: Tokenizer, file: Path) -> None:
    """Checks that token ids are unique and have few gaps.

    The model's embedding has a row for each id from 0 to the largest, so each gap wastes memory.

    Raises:
        InvalidArguments: if an id occurs twice, or the largest id is above twice the number of
            tokens plus 1000.
    """
    ids = list(tokenizer.backend.get_vocab().values())
    largest, most = max(ids, default=0), 2 * len(ids) + 1000
    expected = None
    if len(set(ids)) < len(ids):
        expected = "a tokenizer with unique token ids"
    elif largest > most:
        expected = f"a tokenizer of {len(ids):,} tokens whose largest id is at most {most:,}, "
        expected += f"not {largest:,}"
    if expected:
        raise InvalidArguments(Problem("path", expected, str(file)))


def _load_json(file: Path) -> Tokenizer:
    text = read_bytes(file, TOKENIZER, links=True).decode()
    check_parts(text, file.name)
    spec: dict[str, Any] = json.loads(text)
    model = spec["model"]
    if "dropout" in model:
        model["dropout"] = None  # otherwise encoding is random
    if isinstance(model["vocab"], list):
        # Otherwise a unigram model finds the piece `</s>` in a text with these characters.
        special = {token["content"] for token in spec["added_tokens"] if token["special"]}
        model["vocab"] = [[p, NEVER if p in special else score] for p, score in model["vocab"]]
    with no_panic(str(file)):
        return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)), str(file))


def _load_gpt2(vocabulary: Path, merges: Path) -> Tokenizer:
    with no_panic(str(merges)):
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id(END_OF_TEXT) is not None:
        backend.add_special_tokens([special_token(END_OF_TEXT)])
    return Tokenizer(backend, str(vocabulary))


def _load_bert(vocabulary: Path, config: Path | None = None) -> Tokenizer:
    pieces = vocabulary.read_text(encoding="utf-8").split("\n")
    if pieces[-1] == "":
        pieces.pop()
    pieces = [piece.rstrip("\r") for piece in pieces]
    if "[UNK]" not in pieces:
        raise InvalidArguments(
            Problem("path", "a BERT vocab.txt with the token [UNK]", str(vocabulary))
        )
    settings = json.loads(config.read_text(encoding="utf-8")) if config else {}
    is_cased = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    return bert_tokenizer(pieces, bool(settings.get("do_lower_case", not is_cased)))


def _from_hub(name: str, revision: str | None) -> Path:
    """Downloads the tokenizer files of a repository if necessary, and returns their folder.

    The folder's name is the commit hash. If `revision` is a full commit hash that was downloaded
    before, no request is sent. If the Hub can't be reached, the most recently downloaded files are
    used.

    Args:
        name: name of the repository on the Hugging Face Hub.
        revision: a branch, a tag or a commit; None for the main branch.

    Raises:
        InvalidArguments: if there is no such repository, or the Hub can't be reached and no files
            were downloaded before.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [*FILES, "tokenizer_config.json"]
    try:
        if revision and _COMMIT.fullmatch(revision):
            with suppress(LocalEntryNotFoundError):
                folder = Path(
                    snapshot_download(
                        name, revision=revision, allow_patterns=patterns, local_files_only=True
                    )
                )
                if any((folder / file).is_file() for file in FILES):
                    return folder
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, etag_timeout=TIMEOUT
            )
        )
    except Exception as error:  # the library raises many types, for example without a network
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        hint = (
            "there is no such local path, and the request to the Hugging Face Hub failed: "
            f"{type(error).__name__}: {reason}; without network access, set data.tokenizer.path to "
            "a folder with the tokenizer's files"
        )
        raise InvalidArguments(Problem("path", EXPECTED, name, hint)) from error
