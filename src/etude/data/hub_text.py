"""Text from a data set on the Hugging Face hub, fixed to a commit."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from etude.data.prepare import Split
from etude.data.rows import (
    HEAD,
    choose_column,
    column_values,
    quiet_datasets,
    seen_columns,
    split_rows,
    text_columns,
    texts,
)
from etude.data.text import Batch, TextData
from etude.data.tokenizer import Recipe
from etude.errors import Checks, EtudeError, InvalidArguments, Problem, RequestError, nearest

TIMEOUT = 10.0  # seconds for the one question that decides what a run is called
COMMIT = re.compile(r"[0-9a-f]{40}")
_NETWORK = ("httpx", "httpx2", "httpcore", "aiohttp", "requests", "urllib3", "huggingface_hub")
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

OFFLINE = (
    "state data.revision=<commit, 40 digits> if this data was prepared here before, prepare it "
    "once where there is a network, or put the files in a folder: data=text_files data.path=FOLDER"
)

log = logging.getLogger("etude.data")


class HubText(TextData):
    """One column of a data set on the hub, each row a document, the text as it stands there.

    A run belongs to a commit: a branch or a tag in `revision`, and None (the main branch), become
    the commit they point to before the run is named, and the record says so. With a full commit
    no network is needed for that. The text is tokenised once into the cache like every corpus; once
    that is done, nothing of the hub is asked again. `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and
    `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.

    Args:
        name: of the repository, `owner/name`.
        config: of the data set; None takes its only or its default one.
        revision: a commit, a branch or a tag.
        split: where the training text is.
        validation_split: where the validation text is. None holds out a part of `split`: document
            i, from 0, if floor((i + 1) v) > floor(i v) with v = `validation`.
        validation: that part, between 0 and 1; without effect if `validation_split` is stated.
        column: of the text; None takes `text`, else the only one of text.
        streaming: read over the network as far as is needed, once for training the tokenizer and
            once for each split. False downloads the data set first, into `HF_HOME`, and finds it
            there the next time. The text is the same.
        documents: take only so many of the first rows of `split`; None takes all.
    """

    def __init__(
        self,
        *,
        name: str,
        tokenizer: Recipe,
        sequence_length: int,
        batch: Batch,
        config: str | None = None,
        revision: str | None = None,
        split: str = "train",
        validation_split: str | None = None,
        validation: float = 0.1,
        column: str | None = None,
        streaming: bool = True,
        documents: int | None = None,
        order: Literal["windows", "epochs"] = "windows",
        workers: int = 0,
        separate_documents: bool = False,
    ) -> None:
        checks = Checks()
        checks.that(NAME.fullmatch(name) is not None, "name", name, "owner/name, as on the hub")
        checks.that(0 < validation < 1, "validation", validation, "a part between 0 and 1")
        checks.that(bool(split), "split", split, "a split's name")
        checks.that(
            validation_split != split,
            "validation_split",
            validation_split,
            "another split than the training's",
            "null holds out a part of it",
        )
        if documents is not None:
            checks.positive(documents=documents)
        super().__init__(
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            batch=batch,
            order=order,
            workers=workers,
            separate_documents=separate_documents,
            checks=checks,
        )
        self.repository = name
        self.config = config
        self.revision = revision
        self.split = split
        self.validation_split = validation_split
        self.validation = validation
        self.column = column
        self.streaming = streaming
        self.limit = documents

    @classmethod
    def pinned(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The commit that `revision` stands for now (see `etude.config.pins`)."""
        name, revision = str(arguments.get("name", "")), arguments.get("revision")
        if not NAME.fullmatch(name) or (revision and COMMIT.fullmatch(revision)):
            return {}
        return {"revision": commit_of(name, revision or "main")}

    @property
    def commit(self) -> str:
        """The commit that is read."""
        if self.revision and COMMIT.fullmatch(self.revision):
            return self.revision
        return commit_of(self.repository, self.revision or "main")

    def check(self) -> None:
        """Nothing: what lies on the hub is looked at when it is prepared, which may be done."""

    def content_fingerprint(self) -> str:
        # A commit's content is fixed, so saying what is read of it says the content.
        values = {**self.origin(), "column": self.column, "documents": self.limit}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def split_settings(self) -> dict[str, object]:
        held_out = None if self.validation_split else self.validation
        return {"corpus": "hub_text", "validation": held_out}

    def origin(self) -> dict[str, object]:
        return {
            "repository": self.repository,
            "commit": self.commit,
            "config": self.config,
            "split": self.split,
            "validation_split": self.validation_split,
        }

    def documents(self, split: Split) -> Iterator[str]:
        held_out = split == "val"
        if self.validation_split is None:
            found = texts(self._values(self.split, self.limit), tell=held_out)
            yield from split_rows(found, held_out=held_out, validation=self.validation)
        elif held_out:
            yield from texts(self._values(self.validation_split, None), tell=True)
        else:
            yield from texts(self._values(self.split, self.limit), tell=True)

    def _values(self, split: str, limit: int | None) -> Iterator[tuple[str, Any]]:
        """The column's values, with where each comes from."""
        with self._explained():
            rows, column = self._rows(split)
            for number, value in enumerate(islice(column_values(rows, column), limit), 1):
                where = f"{self.repository}, split {split}, row {number}, column {column}"
                yield where, value

    def _rows(self, split: str) -> tuple[Any, str]:
        """The rows of a split, an `IterableDataset` or a `Dataset`, and the column to read."""
        rows = None if self.streaming else self._downloaded(split)
        if rows is None:
            streams = self._streams
            if split not in streams:
                key = "data.split" if split == self.split else "data.validation_split"
                expected = f"a split of {self.repository}: {', '.join(streams)}"
                raise RequestError(Problem(key, expected, split, nearest(split, streams)))
            rows = streams[split]
            if not self.streaming:
                log.info("downloading %s", self.repository)
                rows = quiet_datasets().load_dataset(**self._place, split=split)
        features = rows.features
        found = text_columns(features) if features else seen_columns(islice(rows, HEAD))
        return rows, choose_column(found, self.column, self.repository)

    def _downloaded(self, split: str) -> Any | None:
        """The split as this very commit was downloaded before; nothing is asked of the hub."""
        from datasets.packaged_modules.cache.cache import Cache  # type: ignore[import-untyped]

        to_snake_case = quiet_datasets().naming.camelcase_to_snakecase
        identity = {
            "repo_id": self.repository,
            "dataset_name": to_snake_case(self.repository.partition("/")[2]),
            "config_name": self.config or "default",
            "hash": self.commit,
        }
        builder = Cache(**identity)
        if not (Path(builder.cache_dir) / "dataset_info.json").is_file():
            return None
        return builder.as_dataset(split=split) if split in builder.info.splits else None

    @property
    def _place(self) -> dict[str, str | None]:
        return {"path": self.repository, "name": self.config, "revision": self.commit}

    @cached_property
    def _streams(self) -> Any:
        """All splits by name; nothing of them is read yet."""
        if os.path.exists(self.repository):  # the library would take it instead
            expected = "a repository on the hub; here is a folder of that name"
            hint = f"data=text_files data.path={self.repository} reads it"
            raise RequestError(Problem("data.name", expected, self.repository, hint))
        commit_of(self.repository, self.commit)  # tells what is wrong without a minute of retries
        datasets = quiet_datasets()
        try:
            return datasets.load_dataset(**self._place, streaming=True)
        except ValueError as error:  # among others for a config that isn't there
            names = datasets.get_dataset_config_names(self.repository, revision=self.commit)
            if self.config in names or (self.config is None and len(names) == 1):
                raise
            expected = f"a config of {self.repository}: {', '.join(names)}"
            close = nearest(self.config, names) if self.config else None
            raise RequestError(Problem("data.config", expected, self.config, close)) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what is wrong for what the libraries raise."""
        from datasets.exceptions import DatasetNotFoundError  # type: ignore[import-untyped]

        try:
            yield
        except InvalidArguments as error:
            raise RequestError(problem.under("data") for problem in error.problems) from error
        except (EtudeError, MemoryError):
            raise
        except DatasetNotFoundError as error:
            gated = "gated dataset" in str(error)
            problem = _missing(self.repository, gated=gated)
            raise RequestError(problem.under("data")) from error
        except Exception as error:
            raise RequestError(_failed(self.repository, error).under("data")) from error


@cache
def commit_of(name: str, revision: str) -> str:
    """The commit that a branch or a tag of a data set on the hub points to.

    Asked once a process, so that all runs of a sweep have the same. Where the hub can't be reached
    it is the commit that was last seen on this machine, if one was.

    Raises:
        InvalidArguments: there is no such repository or revision, or nobody can tell.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Where the hub's own library keeps what a branch pointed to when it was last asked.
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
    except (RepositoryNotFoundError, HFValidationError) as error:  # a gated one is among these
        raise InvalidArguments(_missing(name, gated=isinstance(error, GatedRepoError))) from error
    except Exception as error:
        if seen.is_file():
            commit = seen.read_text(encoding="utf-8").strip()
            log.warning("no hub; %s of %s as last seen here: %s", revision, name, commit)
            return commit
        raise InvalidArguments(_failed(name, error)) from error


def _missing(name: str, *, gated: bool) -> Problem:
    if gated:
        hint = "accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN"
        return Problem("name", "a data set that you may read; this one is gated", name, hint)
    hint = "check the spelling; a private one needs `hf auth login` or HF_TOKEN"
    return Problem("name", "a data set on the hub", name, hint)


def _failed(name: str, error: Exception) -> Problem:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    reason = f"{type(error).__name__}: {reason}"
    if _is_network(error):
        return Problem("name", "a hub that can be reached", name, f"{OFFLINE}; {reason}")
    return Problem("name", "a data set whose files are rows that can be read", name, reason)


def _is_network(error: BaseException | None) -> bool:
    """Whether `error`, or one that it comes from, is the network's."""
    while error is not None:
        library = type(error).__module__.partition(".")[0]
        if isinstance(error, ConnectionError | TimeoutError) or library in _NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False
