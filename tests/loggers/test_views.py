"""Loggers that fail or hang don't affect the run."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from etude.loggers.base import Logger, Row, RunInfo
from etude.loggers.run_loggers import RunLoggers
from etude.records.record import Record

RUN = RunInfo(Path("nowhere"), "name", "0123456789ab", "group", "label", 0)
ROWS: list[dict[str, Any]] = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0}]


class Recorder(Logger):
    """Logger that records its calls and calls `act` in the method named `when`."""

    def __init__(self, when: str = "", act: Any = None, patience: float = 30.0) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.when, self.act, self.patience = when, act, patience
        self.abandoned = 0

    def _call(self, name: str, value: Any) -> None:
        if name == self.when:
            self.act()
        self.calls.append((name, value))

    def start(self, run: RunInfo, rows: Sequence[Row]) -> None:
        self._call("start", list(rows))

    def metrics(self, row: Row) -> None:
        self._call("metrics", row)

    def text(self, name: str, text: str, step: int) -> None:
        self._call("text", (name, text, step))

    def figure(self, name: str, path: Path, step: int) -> None:
        self._call("figure", (name, path.name, step))

    def finish(self, status: str) -> None:
        self._call("finish", status)

    def abandon(self) -> None:
        self.abandoned += 1


def drive(*loggers: Logger, record: Path = Path("nowhere")) -> None:
    """Calls loggers as a run does."""
    views = RunLoggers({str(number): logger for number, logger in enumerate(loggers)})
    views.set_run(RUN)
    views.start(lambda: ROWS[:1])
    views.metrics(ROWS[1])
    views.results(record, 2)
    views.finish("finished")


EXPECTED = [("start", ROWS[:1]), ("metrics", ROWS[1]), ("finish", "finished")]


def test_every_logger_hears_everything_in_order(tmp_path: Path) -> None:
    for name in ("samples/step-2.txt", "figures/loss.png", "figures/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("some text")
    one, other = Recorder(), Recorder()
    drive(one, other, record=tmp_path)
    shown = [("text", ("samples", "some text", 2)), ("figure", ("figures/loss", "loss.png", 2))]
    assert one.calls == other.calls == [*EXPECTED[:2], *shown, EXPECTED[2]]


def test_what_is_no_number_is_null_as_in_the_file() -> None:
    logger = Recorder()
    views = RunLoggers({"it": logger})
    views.set_run(RUN)
    views.start(list)
    views.metrics({"step": 3, "train/grad_norm": float("inf"), "lr": 0.5})
    views.finish("finished")
    assert logger.calls[1] == ("metrics", {"step": 3, "train/grad_norm": None, "lr": 0.5})


def test_a_run_that_never_trained_starts_none() -> None:
    logger = Recorder()
    views = RunLoggers({"it": logger})
    views.set_run(RUN)
    views.finish("failed")
    assert logger.calls == []


def raising(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("when", ["start", "metrics", "finish"])
@pytest.mark.parametrize(
    "error", [ValueError("no\nroom"), SystemExit(3), KeyboardInterrupt(), ImportError("wandb")]
)
def test_one_that_raises_is_reported_once_and_left_out(
    when: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Recorder(when, raising(error)), Recorder()
    with caplog.at_level(logging.WARNING, "etude"):
        drive(bad, good)
    assert good.calls == EXPECTED
    assert bad.calls == EXPECTED[: [name for name, _ in EXPECTED].index(when)]
    assert bad.abandoned == 1
    (told,) = caplog.messages
    assert told.startswith("logger 0 failed; the run continues without it: ")
    assert type(error).__name__ in told
    assert "room" not in told  # the first line alone


@pytest.mark.parametrize("when", ["start", "metrics", "finish"])
def test_one_that_hangs_is_left_behind(when: str, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    bad, good = Recorder(when, release.wait, patience=0.3), Recorder()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "etude"):
        drive(bad, good)
    assert time.monotonic() - began < 10
    assert good.calls == EXPECTED
    assert bad.abandoned == 1
    assert caplog.messages == [
        "logger 0 failed; the run continues without it: the logger did not finish within 0.3 s"
    ]
    release.set()


def test_one_that_falls_behind_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("etude.loggers.run_loggers._BACKLOG", 5)
    release = threading.Event()
    slow = Recorder("start", release.wait)
    views = RunLoggers({"slow": slow})
    views.set_run(RUN)
    with caplog.at_level(logging.WARNING, "etude"):
        views.start(list)
        for step in range(20):
            views.metrics({"step": step})
        release.set()
        views.finish("finished")
    assert caplog.messages == [
        "logger slow failed; the run continues without it: "
        "the logger is too slow: 5 calls are waiting"
    ]


@pytest.fixture
def my_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension module with a logger that fails and one that records each row."""
    (tmp_path / "my_loggers.py").write_text(
        "import json\n"
        "from etude.loggers.base import Logger\n"
        "class Failing(Logger):\n"
        "    def metrics(self, row):\n"
        "        raise SystemExit('quota used up')\n"
        "class Noting(Logger):\n"
        "    def __init__(self, *, file: str):\n"
        "        self.file = file\n"
        "    def metrics(self, row):\n"
        "        with open(self.file, 'a') as file:\n"
        "            file.write(json.dumps(row) + '\\n')\n"
        "    def finish(self, status):\n"
        "        with open(self.file, 'a') as file:\n"
        "            file.write(status + '\\n')\n"
        "class NoLogger:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_loggers", None)


@pytest.mark.usefixtures("my_loggers")
def test_a_run_with_loggers_of_the_users_own(
    etude: Any, corpus: Path, tiny: Any, tmp_path: Path
) -> None:
    words = tiny(corpus, tmp_path / "root", "run.samples=0", "extensions=[my_loggers]")
    words += ["+logger.bad._target_=my_loggers.Failing"]
    words += ["+logger.good._target_=my_loggers.Noting", f"logger.good.file={tmp_path / 'notes'}"]
    answer = etude("train", *words)
    assert answer.code == 0
    said = "logger bad failed; the run continues without it: SystemExit: quota used up"
    assert answer.out.count(said) == 1
    (path,) = (tmp_path / "root" / "tiny").iterdir()
    record = Record.read(path)
    assert record.status == "finished"
    assert (tmp_path / "notes").read_text() == (path / "metrics.jsonl").read_text() + "finished\n"
    assert said in (path / "log.txt").read_text()


@pytest.mark.usefixtures("my_loggers")
def test_what_is_no_logger_is_refused(etude: Any, corpus: Path, tiny: Any, tmp_path: Path) -> None:
    words = tiny(corpus, tmp_path / "root", "extensions=[my_loggers]")
    answer = etude("train", *words, "+logger.odd._target_=my_loggers.NoLogger")
    assert answer.code == 2
    expected = "logger.odd._target_ = 'my_loggers.NoLogger': expected a subclass of"
    assert expected in answer.err
    assert not (tmp_path / "root").exists()


def test_a_logger_that_was_not_chosen_has_no_arguments(etude: Any, tmp_path: Path) -> None:
    root = f"run.root={tmp_path}"
    answer = etude("train", "experiment=debug", "logger.wandb.project=x", root)
    assert answer.code == 2
    assert "logger.wandb" in answer.err
    assert "logger=wandb" in answer.err
