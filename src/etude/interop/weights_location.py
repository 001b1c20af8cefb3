"""Location of released weights: a path, or a commit of a repository on the Hugging Face Hub.

Only the required files are downloaded, once, into the cache of `huggingface_hub`. Its environment
variables `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` apply.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from etude.errors import Problem, RequestError
from etude.interop.hf_config import NAME
from etude.interop.tensors import BIN, INDEX, SAFETENSORS, files_named

TIMEOUT = 10.0  # seconds to wait for the response of the Hugging Face Hub
COMMIT = re.compile(r"[0-9a-f]{40}")
GGUF_SUFFIX = ".gguf"
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm")
TEXT = (
    "tokenizer.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "vocab.txt",
    "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", *SENTENCEPIECE, "target.spm",
)  # fmt: skip
"""Tokenizer files, which are downloaded and copied with the weights."""
WEIGHTS = (SAFETENSORS, SAFETENSORS + INDEX, BIN, BIN + INDEX)
EXPECTED = (
    "a folder with config.json and weights, a .safetensors or .gguf file, or the id of a model on "
    "the Hugging Face Hub"
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/([\w./-]+\.gguf)", re.ASCII)

log = logging.getLogger("etude.interop")


@dataclass(frozen=True)
class WeightsLocation:
    """Location of weights on this machine.

    Attributes:
        path: a folder, or one file.
        repository, commit: the repository on the Hugging Face Hub and its commit; None for a local
            path.
    """

    path: Path
    repository: str | None = None
    commit: str | None = None


def locate_weights(source: str | Path, revision: str | None = None) -> WeightsLocation:
    """Returns the location of weights; downloads weights that are on the Hugging Face Hub.

    Args:
        source: a path, or an id on the Hub: `name`, `owner/name`, or `owner/name/file.gguf`.
        revision: a branch, tag or commit on the Hub; if None, the main branch.

    Raises:
        RequestError: the source is neither a path nor a readable repository. Offline, the message
            names the command that downloads the files on another machine.
    """
    typed = str(source)
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            expected = "no value, since the source is a local path"
            raise RequestError(Problem("revision", expected, revision))
        return WeightsLocation(path)
    inner = _HUB_FILE.fullmatch(typed)
    if inner is not None:
        return _from_hub(inner[1], revision, inner[2])
    if _HUB_ID.fullmatch(typed) is None or path.suffix in (".safetensors", ".gguf", ".bin", ".pt"):
        raise RequestError(Problem("source", EXPECTED, typed, hint="no such path"))
    return _from_hub(typed, revision, None)


def is_hub_id(source: str) -> bool:
    """Returns whether a text has the form of an id on the Hugging Face Hub."""
    return bool(_HUB_ID.fullmatch(source) or _HUB_FILE.fullmatch(source))


def _from_hub(name: str, revision: str | None, file: str | None) -> WeightsLocation:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cached = _find_cached(name, revision, file)
    if cached is not None and (constants.HF_HUB_OFFLINE or COMMIT.fullmatch(revision or "")):
        return cached  # a commit's files never change
    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT)
        names = {sibling.rfilename for sibling in info.siblings or []}
        wanted = _required_files(name, names, file)
        if cached is None or cached.commit != info.sha:
            log.info("downloading %s (commit %s)", name, info.sha)
        folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=wanted))
        index = next((each for each in wanted if each.endswith(INDEX)), None)
        if index is not None:
            shards = files_named(folder / index)
            folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=shards))
        _save_reference(name, revision, str(info.sha))
        return WeightsLocation(folder / file if file else folder, name, info.sha)
    except RequestError:
        raise
    except RevisionNotFoundError as error:
        expected = f"a branch, tag or commit of {name}"
        raise RequestError(Problem("revision", expected, revision)) from error
    except GatedRepoError as error:
        hint = (
            "the model is gated: accept its terms on its Hugging Face page, then run "
            "`hf auth login` or set HF_TOKEN"
        )
        expected = "a model that you have access to"
        raise RequestError(Problem("source", expected, name, hint)) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        hint = "check the spelling; a private model needs `hf auth login` or HF_TOKEN"
        expected = "a local path, or a model on the Hugging Face Hub"
        raise RequestError(Problem("source", expected, name, hint)) from error
    except Exception as error:  # network errors have many types
        if cached is not None:
            log.warning(
                "the Hugging Face Hub cannot be reached; using the cached commit %s of %s",
                cached.commit,
                name,
            )
            return cached
        raise RequestError(_offline_problem(name, revision, file, error)) from error


def _required_files(name: str, names: set[str], file: str | None) -> list[str]:
    """Returns the names of the files to download from a repository.

    Args:
        name: the repository's id.
        names: the names of the repository's files.
        file: the only file to download, a GGUF file; None for a model folder.

    Raises:
        RequestError: the repository lacks required files.
    """
    if file is not None:
        if file not in names:
            available = ", ".join(sorted(each for each in names if each.endswith(GGUF_SUFFIX))[:8])
            hint = "the repository has no .gguf file"
            hint = f"available .gguf files: {available}" if available else hint
            raise RequestError(Problem("source", f"a file of the repository {name}", file, hint))
        return [file]
    weights = next((each for each in WEIGHTS if each in names), None)
    if weights is None or NAME not in names:
        available = ", ".join(sorted(each for each in names if each.endswith(GGUF_SUFFIX))[:8])
        choose = f"to use one of its GGUF files, write {name}/FILE; files: {available}"
        gguf_hint = choose if available else None
        expected = f"a model with {NAME} and {SAFETENSORS} or {BIN}"
        raise RequestError(Problem("source", expected, name, gguf_hint))
    return [NAME, weights, *(each for each in TEXT if each in names)]


def _cache(name: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")


def _find_cached(name: str, revision: str | None, file: str | None) -> WeightsLocation | None:
    """Returns the location of a revision in the local cache; None if files are missing.

    Args:
        name: the repository's id.
        revision: a branch, tag or commit; None for the main branch.
        file: a GGUF file of the repository; None for a model folder.
    """
    reference = _cache(name) / "refs" / (revision or "main")
    if revision and COMMIT.fullmatch(revision):
        commit = revision
    elif reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    else:
        return None
    folder = _cache(name) / "snapshots" / commit
    if file is not None:
        return WeightsLocation(folder / file, name, commit) if (folder / file).is_file() else None
    weights = next((folder / each for each in WEIGHTS if (folder / each).is_file()), None)
    if weights is None or not (folder / NAME).is_file():
        return None
    shards = files_named(weights) if weights.name.endswith(INDEX) else []
    if not all((folder / shard).is_file() for shard in shards):
        return None
    return WeightsLocation(folder, name, commit)


def _save_reference(name: str, revision: str | None, commit: str) -> None:
    """Saves in the local cache the commit to which a branch or tag refers, as `huggingface_hub`
    does.

    Does nothing if `revision` is a commit. `name` is the repository's id; None as `revision` means
    the main branch.
    """
    if revision and COMMIT.fullmatch(revision):
        return
    reference = _cache(name) / "refs" / (revision or "main")
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit, encoding="utf-8")


def _offline_problem(
    name: str, revision: str | None, file: str | None, error: Exception
) -> Problem:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    files = file or f"{NAME} {SAFETENSORS} tokenizer.json tokenizer_config.json"
    folder = name.rpartition("/")[2]
    at = f" --revision {revision}" if revision else ""
    hint = (
        "no such path, and the Hugging Face Hub cannot be reached: "
        f"{type(error).__name__}: {reason}; on a machine with network access, run `hf download "
        f"{name} {files}{at} --local-dir {folder}`, then copy the folder here and use its path"
    )
    return Problem("source", "a local path, or access to the Hugging Face Hub", name, hint)
