"""Tests that fingerprints are cached until a file of the data changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.config.checks import check
from etude.config.compose import compose
from etude.errors import RequestError
from etude.records import fingerprints
from etude.training import state
from etude.training.run import train

DATA = {"path": "x"}


@pytest.fixture
def resolve_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepts files however recently they were changed."""
    monkeypatch.setattr(fingerprints, "_SETTLED", 0)


@pytest.fixture
def file(tmp_path: Path, resolve_config: None) -> Path:
    file = tmp_path / "data" / "file.txt"
    file.parent.mkdir()
    file.write_text("one")
    fingerprints.cache_fingerprint(tmp_path / "cache", DATA, "f1", [file, file.parent])
    assert fingerprints.cached_fingerprint(tmp_path / "cache", DATA) == "f1"
    return file


def rewrite(file: Path) -> None:
    """Writes other content with the same size and modification time."""
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "longer": lambda file: file.write_text("longer"),
    "of the same size and time": rewrite,
    "gone": lambda file: file.unlink(),
    "another file of the same content": lambda file: (
        file.rename(file.parent.parent / "x"),
        file.write_text("one"),
    ),
    "a file beside it": lambda file: (file.parent / "new.txt").write_text(""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_touched_is_read_again(change: str, file: Path, tmp_path: Path) -> None:
    time.sleep(0.02)  # a tick of the file system's clock
    CHANGES[change](file)
    assert fingerprints.cached_fingerprint(tmp_path / "cache", DATA) is None


def test_other_data_other_folders_and_other_source_are_not_known(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    assert fingerprints.cached_fingerprint(cache, {"path": "y"}) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert fingerprints.cached_fingerprint(cache, DATA) is None
    monkeypatch.setattr(fingerprints, "source_hash", lambda: "another")
    assert fingerprints.cached_fingerprint(cache, DATA) is None


def test_what_was_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("one")
    fingerprints.cache_fingerprint(tmp_path / "cache", DATA, "f1", [file])
    assert fingerprints.cached_fingerprint(tmp_path / "cache", DATA) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": "x"}', '{"files": 3}'])
def test_a_broken_memory_is_none(content: str, file: Path, tmp_path: Path) -> None:
    (kept,) = (tmp_path / "cache" / "fingerprints").iterdir()
    kept.write_text(content)
    assert fingerprints.cached_fingerprint(tmp_path / "cache", DATA) is None


class TestFinishedAtOnce:
    def finished(self, tmp_path: Path, tiny: Any, *more: str) -> Any:
        config = compose(tiny(tmp_path / "corpus.txt", tmp_path / "experiments", *more))
        return state.reuse_finished(check(config))

    @pytest.fixture
    def run(self, corpus: Path, tmp_path: Path, tiny: Any, resolve_config: None) -> Path:
        record = train(compose(tiny(corpus, tmp_path / "experiments"))).record
        found: Path = record.path
        return found

    def test_it_is_known_without_reading_the_data(
        self, run: Path, tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outcome = self.finished(tmp_path, tiny)
        assert (outcome.status, outcome.reused, outcome.record.path) == ("finished", True, run)

    def test_what_is_not_the_same_request_goes_the_long_way(
        self, run: Path, tmp_path: Path, tiny: Any
    ) -> None:
        for other in ("seed=1", "trainer.micro_batch=-3", "logger=tensorboard", "data.workers=9"):
            assert self.finished(tmp_path, tiny, other) is None
        assert self.finished(tmp_path, tiny, "run.notes=other", "run.samples=0") is not None

    def test_a_changed_corpus_is_refused_by_the_long_way(
        self, run: Path, tmp_path: Path, tiny: Any
    ) -> None:
        (tmp_path / "corpus.txt").write_text("something else " * 500)
        assert self.finished(tmp_path, tiny) is None
        with pytest.raises(RequestError, match="the corpus or the tokenizer has changed"):
            train(compose(tiny(tmp_path / "corpus.txt", tmp_path / "experiments")))

    def test_a_touched_corpus_is_read_again_and_known_again(
        self, run: Path, tmp_path: Path, tiny: Any
    ) -> None:
        time.sleep(0.02)
        (tmp_path / "corpus.txt").touch()
        assert self.finished(tmp_path, tiny) is None
        config = compose(tiny(tmp_path / "corpus.txt", tmp_path / "experiments"))
        assert train(config).reused
        assert self.finished(tmp_path, tiny).reused

    def test_a_changed_record_is_refused(self, run: Path, tmp_path: Path, tiny: Any) -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 11}\n')
        with pytest.raises(RequestError):
            self.finished(tmp_path, tiny)
