"""Fixtures shared by all tests: a temporary cache, small corpora, and the command."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from parts import pytest_addoption as pytest_addoption
from parts import pytest_collection_modifyitems as pytest_collection_modifyitems
from toys import WORDS, write_toys


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Redirects prepared data to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_interrupts() -> Iterator[None]:
    """Restores SIGINT's handler: shells start background processes with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def write_corpus() -> Callable[..., Path]:
    """`write_corpus(path, lines=120, seed=0)` writes lines of common words; returns the path."""

    def write(path: Path, lines: int = 120, seed: int = 0) -> Path:
        draw = random.Random(seed)
        text = (" ".join(draw.choices(WORDS, k=8)) + ".\n" for _ in range(lines))
        path.write_text("".join(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def corpus(tmp_path: Path, write_corpus: Callable[..., Path]) -> Path:
    """A text of about 6,000 characters."""
    return write_corpus(tmp_path / "corpus.txt")


@dataclass(frozen=True)
class Answer:
    """Result of a command: its exit code and both outputs."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def etude() -> Callable[..., Answer]:
    """`etude("train", "seed=1", cwd=folder)` runs the command in this process."""

    def call(*words: str | Path, cwd: Path | None = None) -> Answer:
        from etude import cli

        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(cwd or Path.cwd()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            _fresh_logging(),
        ):
            code = cli.run([os.fspath(word) for word in words])
        return Answer(code, out.getvalue(), err.getvalue())

    return call


@contextlib.contextmanager
def _fresh_logging() -> Iterator[None]:
    """Removes log handlers, as in a new process, and restores them and SIGTERM's handler."""
    loggers = [logging.getLogger(), logging.getLogger("etude")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    on_sigterm = signal.getsignal(signal.SIGTERM)
    for logger in loggers:
        logger.handlers[:] = []
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
        for logger, (handlers, level) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., list[str]]:
    """`tiny(corpus, root)`: overrides of a run that takes half a second, recorded under `root`."""

    def overrides(corpus: Path, root: Path, *more: str) -> list[str]:
        return [
            "experiment=shakespeare_char",
            "name=tiny",
            f"data.path={corpus}",
            "data.sequence_length=8",
            "data.batch.examples=4",
            "model.layers=1",
            "model.heads=1",
            "model.dim=8",
            "trainer.max_steps=10",
            "trainer.val_check_interval=5",
            "trainer.log_every_n_steps=5",
            "trainer.accelerator=cpu",
            "schedule.warmup_steps=2",
            f"run.root={root}",
            "run.samples=1",
            "run.sample_tokens=5",
            *more,
        ]

    return overrides


KINDS = ["masked_lm", "span_denoising", "translation", "instruction", "classification", "tagging"]
"""The tasks beside the next token's."""


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of common words for each task; see `toys.write_toys`."""
    folder = tmp_path_factory.mktemp("toys")
    write_toys(folder)
    return folder


@pytest.fixture(scope="session")
def toy(toy_files: Path) -> Callable[..., list[str]]:
    """`toy("tagging", root)`: overrides of a run of that task that takes about a second."""
    text = ["data=text_files", f"data.path={toy_files}/text.txt"]
    pairs = ["data=pairs", f"data.path={toy_files}/pairs.jsonl"]
    labelled = ["data=labelled_files", f"data.path={toy_files}/labelled.jsonl"]
    tagged = ["data=tagged", f"data.path={toy_files}/words.conllu"]
    scored = ["data=scored_files", f"data.path={toy_files}/scored.jsonl"]
    values = ["data=scored_words", f"data.path={toy_files}/values.jsonl"]
    asked = ["data=questions", f"data.path={toy_files}/questions.jsonl", "data.stride=4"]
    encoder, seq2seq = "model=encoder_nano", "model=transformer_nano"
    parts = {
        "masked_lm": [encoder, "model/head=masked_lm", *text, "data/tokenizer=wordpiece"],
        "span_denoising": [seq2seq, *text, "data/tokenizer=bpe"],
        "translation": [seq2seq, *pairs],
        "instruction": ["model=nano", *pairs],
        "classification": [encoder, *labelled],
        "tagging": [encoder, "model/head=tagging", *tagged],
        "text_regression": [encoder, *scored],
        "token_regression": [encoder, "model/head=tagging", *values],
        "question_answering": [encoder, "model/head=tagging", *asked],
    }

    def overrides(kind: str, root: Path, *more: str) -> list[str]:
        encodes = parts[kind][0] == encoder
        return [
            "~experiment",
            f"name={kind}",
            f"task={kind}",
            *parts[kind],
            f"data.tokenizer.vocab_size={60 if encodes else 270}",
            f"data.sequence_length={160 if kind == 'instruction' else 24}",
            "data.batch.examples=8",
            "model.layers=1",
            "model.heads=2",
            "model.dim=8",
            "trainer.max_steps=12",
            "trainer.val_check_interval=5",
            "trainer.log_every_n_steps=4",
            "trainer.accelerator=cpu",
            "schedule.warmup_steps=2",
            f"run.root={root}",
            "run.samples=0",
            *more,
        ]

    return overrides
