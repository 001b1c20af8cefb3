"""Dataset on the Hugging Face Hub at a fixed commit: its splits and their rows."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from etude.data.rows import quiet_datasets
from etude.errors import Checks, EtudeError, InvalidArguments, Problem, RequestError, nearest

TIMEOUT = 10.0  # seconds for resolving the commit, which is part of a run's identity
COMMIT = re.compile(r"[0-9a-f]{40}")
_NETWORK = ("httpx", "httpx2", "httpcore", "aiohttp", "requests", "urllib3", "huggingface_hub")
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

FILES = "data=text_files, labelled_files, pairs or tagged"
OFFLINE = (
    "to use a dataset that was prepared on this machine before, set data.revision=<commit hash of "
    "40 hexadecimal digits> (data.path.revision if data.path.name is the dataset); otherwise, "
    f"prepare it once with network access, or set {FILES} to read your own files"
)

log = logging.getLogger("etude.data")


@dataclass(frozen=True)
class Repository:
    """A dataset on the Hugging Face Hub, at one commit.

    A run reads one commit. If `revision` is a branch, a tag or None (the main branch), it is
    resolved to a commit before the run's signature (the hash that identifies its settings) is
    computed, and the saved config contains the commit. A full commit hash needs no network access
    for that. `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` work as in
    `huggingface_hub`.

    Args:
        name: `owner/name`.
        config: name of a config of the dataset (on the Hub: a subset); None selects the only or the
            default config.
        revision: a commit, a branch or a tag; None for the main branch.
        streaming: whether to read over the network, only as far as needed. False first downloads
            the dataset into `HF_HOME`, and reuses the download the next time. The rows are the
            same.
        key: config key of these arguments, for messages.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    streaming: bool = True
    key: str = "data"

    def noted(self, checks: Checks) -> None:
        """Checks that the name has the form `owner/name`.

        Args:
            checks: collects the problems.
        """
        is_valid = NAME.fullmatch(self.name) is not None
        checks.that(is_valid, "name", self.name, "owner/name, as on the Hugging Face Hub")

    @property
    def commit(self) -> str:
        """Hash of the commit to read."""
        if self.revision and COMMIT.fullmatch(self.revision):
            return self.revision
        return commit_of(self.name, self.revision or "main")

    def rows(self, split: str, key: str) -> Any:
        """Returns the rows of a split: an `IterableDataset` if streamed, else a `Dataset`.

        Both are classes of the library `datasets`; a row is a dict from column names to values.

        Args:
            split: name of the split.
            key: config key of the split, for messages.

        Raises:
            RequestError: if there is no such split or config.
            InvalidArguments: if there is no such dataset, or the Hub is needed and can't be
                reached.
        """
        rows = None if self.streaming else self._downloaded(split)
        if rows is not None:
            return rows
        streams = self._streams
        if split not in streams:
            expected = f"a split of {self.name}: {', '.join(streams)}"
            raise RequestError(Problem(key, expected, split, nearest(split, streams)))
        if self.streaming:
            return streams[split]
        log.info("downloading the dataset %s", self.name)
        return quiet_datasets().load_dataset(**self._load_arguments, split=split)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Context manager that converts exceptions about this dataset into a `RequestError`.

        All exceptions are converted, except `MemoryError` and Étude's own; of these, only
        `InvalidArguments` is converted.
        """
        from datasets.exceptions import DatasetNotFoundError  # type: ignore[import-untyped]

        try:
            yield
        except InvalidArguments as error:
            raise RequestError(problem.under(self.key) for problem in error.problems) from error
        except (EtudeError, MemoryError):
            raise
        except DatasetNotFoundError as error:
            gated = "gated dataset" in str(error)
            problem = _missing(self.name, gated=gated)
            raise RequestError(problem.under(self.key)) from error
        except Exception as error:
            raise RequestError(_failed(self.name, error).under(self.key)) from error

    def _downloaded(self, split: str) -> Any | None:
        """Returns the rows of a split that was downloaded before, without a network request.

        Returns None if the split was not downloaded at exactly this commit.
        """
        from datasets.packaged_modules.cache.cache import Cache  # type: ignore[import-untyped]

        to_snake_case = quiet_datasets().naming.camelcase_to_snakecase
        identity = {
            "repo_id": self.name,
            "dataset_name": to_snake_case(self.name.partition("/")[2]),
            "config_name": self.config or "default",
            "hash": self.commit,
        }
        builder = Cache(**identity)
        if not (Path(builder.cache_dir) / "dataset_info.json").is_file():
            return None
        return builder.as_dataset(split=split) if split in builder.info.splits else None

    @property
    def _load_arguments(self) -> dict[str, str | None]:
        return {"path": self.name, "name": self.config, "revision": self.commit}

    @cached_property
    def _streams(self) -> Any:
        """Dict from the name of each split to an `IterableDataset` that reads the rows."""
        if os.path.exists(self.name):  # the library would read the folder instead
            expected = "a repository on the Hugging Face Hub, not a local folder"
            hint = f"to read the folder, set data.path={self.name} and {FILES}"
            raise RequestError(Problem(f"{self.key}.name", expected, self.name, hint))
        commit_of(self.name, self.commit)  # reports errors without a minute of retries
        datasets = quiet_datasets()
        try:
            return datasets.load_dataset(**self._load_arguments, streaming=True)
        except ValueError as error:  # among others, for a missing config
            names = datasets.get_dataset_config_names(self.name, revision=self.commit)
            if self.config in names or (self.config is None and len(names) == 1):
                raise
            expected = f"a config of {self.name}: {', '.join(names)}"
            close = nearest(self.config, names) if self.config else None
            raise RequestError(
                Problem(f"{self.key}.config", expected, self.config, close)
            ) from error


def pinned(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `{"revision": commit}`, with the commit to which `revision` currently points.

    The commit replaces the revision in the saved config (see `etude.config.pinning`). The dict is
    empty if the revision is a full commit hash already, or the dataset's name is invalid.

    Args:
        arguments: arguments of a data class, of which `name` and `revision` are used.

    Raises:
        InvalidArguments: as for `commit_of`.
    """
    name, revision = str(arguments.get("name", "")), arguments.get("revision")
    if not NAME.fullmatch(name) or (revision and COMMIT.fullmatch(revision)):
        return {}
    return {"revision": commit_of(name, revision or "main")}


@cache
def commit_of(name: str, revision: str) -> str:
    """Returns the commit to which a branch or a tag of a dataset on the Hugging Face Hub points.

    The revision is resolved once per process, so that all runs of a sweep read the same commit. If
    the Hub can't be reached, the commit that was last seen on this machine is returned.

    Args:
        name: name of the dataset, `owner/name`.
        revision: a branch, a tag or a commit.

    Raises:
        InvalidArguments: if there is no such repository or revision, or the Hub can't be reached
            and no commit was seen on this machine before.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Where `huggingface_hub` caches the commit of a branch.
    seen = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "refs", revision)
    try:
        commit = str(HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT).sha)
        if commit != revision:
            with suppress(OSError):
                seen.parent.mkdir(parents=True, exist_ok=True)
                seen.write_text(commit, encoding="utf-8")
        return commit
    except RevisionNotFoundError as error:
        expected = f"a branch, a tag or a commit of {name}"
        raise InvalidArguments(Problem("revision", expected, revision)) from error
    except (RepositoryNotFoundError, HFValidationError) as error:  # includes gated repositories
        raise InvalidArguments(_missing(name, gated=isinstance(error, GatedRepoError))) from error
    except Exception as error:
        if seen.is_file():
            commit = seen.read_text(encoding="utf-8").strip()
            log.warning(
                "could not reach the Hugging Face Hub; using the last known commit for the "
                "revision %s of the dataset %s: %s",
                revision,
                name,
                commit,
            )
            return commit
        raise InvalidArguments(_failed(name, error)) from error


def _missing(name: str, *, gated: bool) -> Problem:
    if gated:
        hint = (
            "the dataset is gated: accept its terms on its page, then log in with `hf auth login` "
            "or set HF_TOKEN"
        )
        return Problem("name", "a dataset to which you have access", name, hint)
    hint = "check the spelling; a private dataset needs `hf auth login` or HF_TOKEN"
    return Problem("name", "a dataset on the Hugging Face Hub", name, hint)


def _failed(name: str, error: Exception) -> Problem:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    reason = f"{type(error).__name__}: {reason}"
    if _is_network(error):
        expected = "a connection to the Hugging Face Hub"
        return Problem("name", expected, name, f"{OFFLINE}; {reason}")
    return Problem("name", "a dataset whose rows the `datasets` library can read", name, reason)


def _is_network(error: BaseException | None) -> bool:
    """Returns whether `error`, or one of its causes, is a network error."""
    while error is not None:
        library = type(error).__module__.partition(".")[0]
        if isinstance(error, ConnectionError | TimeoutError) or library in _NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False
