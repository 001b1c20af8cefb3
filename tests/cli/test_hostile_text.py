"""No command lets a record, a config, data or a model's text speak to the terminal.

The list of commands is the command line's own: one that is new fails here until it is tried.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etude import cli
from etude.cli.runs import ACTIONS

EVIL = (
    "EVIL\x1b[35;5m\x1b]0;title\x07\x9b2J\x1b]8;;http://x\x1b\\\u202e\u2066\r\x08\x00\u200b\u2028"
)
"""Colours, a window's title, a link, an erased screen, text from right to left, steps back."""
TYPED = EVIL.replace("\x00", "")  # no argument of a process has that
OURS = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*[AK]|\?25[lh])|\r(?=\x1b\[[0-9]*[AK])")
"""What Rich writes: styles, lines that it goes up or clears, the cursor hidden and shown."""


class Terminal(io.StringIO):
    """A stream that reports to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`on_a_terminal("runs", "list")` returns the exit code and both unmodified outputs."""
    monkeypatch.setenv("COLUMNS", "5000")
    monkeypatch.setenv("TERM", "xterm")

    def call(*words: str | Path, stdin: str = "") -> tuple[int, str, str]:
        out, err = Terminal(), Terminal()
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), fresh_logging():
            code = cli.run([os.fspath(word) for word in words])
        return code, out.getvalue(), err.getvalue()

    return call


@contextlib.contextmanager
def fresh_logging() -> Iterator[None]:
    import logging

    loggers = [logging.getLogger(), logging.getLogger("etude")]
    before = [logger.handlers[:] for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = []
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers


def raw(text: str) -> str:
    """Returns the characters that control a terminal or are invisible, except Rich's own."""
    found = "\x1b[35;5m" if "\x1b[35;5m" in text else ""
    rest = OURS.sub("", text).replace("\n", "").replace("\t", "")
    return found + "".join(sorted({c for c in rest if not c.isprintable() and c not in "\u200d "}))


def evil(value: Any, keep: tuple[str, ...] = ()) -> Any:
    """Appends `EVIL` to all texts of a value, except those of some keys."""
    if isinstance(value, str):
        return value + EVIL
    if isinstance(value, dict):
        return {key: inner if key in keep else evil(inner, keep) for key, inner in value.items()}
    return [evil(inner, keep) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Any, etude: Any) -> Path:
    """Two equal runs on a text with control characters, which also generate them."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "corpus.txt").write_text(("to be " + EVIL + " or not\n") * 200, encoding="utf-8")
    words = tiny(folder / "corpus.txt", folder / "runs", "seed=0", "run.samples=0")
    answer = etude("train", *words)
    assert answer.code == 0, answer.err
    (one,) = (folder / "runs" / "tiny").iterdir()
    shutil.copytree(one, one.with_name(f"{one.name}~2"))
    return folder


KEPT = ("status", "format", "signature", "group", "name", "fingerprint", "metrics_sha256", "metric")


@pytest.fixture
def hostile(trained: Path, tmp_path: Path) -> Path:
    """Records of these runs with such characters in all descriptions and metric names."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "corpus").write_text(str(trained / "corpus.txt"))  # their path enters the signature
    for file in (tmp_path / "runs").glob("tiny/*/run.json"):
        told = evil(json.loads(file.read_text()), KEPT)
        told |= {"label": f"x={EVIL}", "notes": EVIL, "tags": [EVIL], "error": EVIL}
        told["final"][f"val/{EVIL}"] = 1.0
        file.write_text(json.dumps(told))
        rows = [json.loads(line) for line in (file.parent / "metrics.jsonl").open()]
        lines = [json.dumps(row | {f"val/{EVIL}": 1.0}) + "\n" for row in rows]
        (file.parent / "metrics.jsonl").write_text("".join(lines))
        config = file.parent / "config.yaml"
        stated = json.dumps({file.parent.name[:1]: EVIL})
        config.write_text(config.read_text().replace("vars: {}", f"vars: {stated}"))
    return tmp_path


def commands(folder: Path, one: str, other: str, tiny: Any) -> dict[str, list[list[Any]]]:
    """Returns calls of each command: some that show much of the records, and some that fail."""
    root = folder / "runs"
    words = tiny(Path((folder / "corpus").read_text()), root, "seed=0")  # is there
    two = [one, other, "--root", root]
    return {
        "train": [words, ["--cfg", "job", *words, f"+vars.x='{TYPED}'"], [f"name={TYPED}"]],
        "plan": [
            [*words, "--no-measure"],
            ["-m", *words, "seed=0,1", "--no-measure"],
            [*words, f"model.{TYPED}=1"],
        ],
        "find-lr": [[f"optimizer.lr={TYPED}"]],
        "data": [["show", *words, "--examples", "2"]],
        "generate": [
            [one, "--root", root, "--max-new-tokens", "60", "--prompt", f"to be {EVIL}"],
            [one, "--root", root, "--max-new-tokens", "60", "--stream"],
        ],
        "predict": [[one, "--root", root, "--text", EVIL], [TYPED, "--root", root, "--text", "x"]],
        "evaluate": [[one, other, "--root", root], [one, "--root", root, "--data", TYPED]],
        "convert": [[root / "tiny" / TYPED, folder / "new"]],
        "reproduce": [["--root", root], [TYPED]],
        "runs list": [["--root", root], ["--root", root, "--json"], [f"seed={TYPED}"]],
        "runs show": [[one, "--root", root], [one, "--root", root, "--json"]],
        "runs diff": [two, [*two, "--json"]],
        "runs compare": [two, [*two, "--metric", f"val/{TYPED}"]],
        "runs group": [two, [*two, "--by", "label"], [*two, "--metric", f"val/{TYPED}"]],
        "runs significance": [two],
        "runs plot": [
            [*two, "--by", "label", "--output", folder / "x.svg"],
            [*two, "--metric", f"val/{TYPED}", "--output", folder / "y.png"],
        ],
        "runs export": [
            [*two, "--by", "label", "--format", form] for form in ("csv", "latex", "markdown")
        ],
        "runs verify": [["--root", root], [TYPED, "--root", root]],
        "runs rm": [[one, "--root", root]],
    }


def registered() -> set[str]:
    actions = {f"runs {action}" for action in ACTIONS}
    return {name for name in cli._COMMANDS if name != "runs"} | actions


def signatures(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs" / "tiny").iterdir())


def test_no_command_is_left_out(tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "corpus").write_text("")
    assert set(commands(tmp_path, "a", "b", tiny)) == registered()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_command(
    hostile: Path, on_a_terminal: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    one, other = signatures(hostile)
    table = commands(hostile, one, other, tiny)
    seen: dict[str, str] = {}
    for name, calls in table.items():
        for words in calls:
            _, out, err = on_a_terminal(*name.split(), *words)
            assert (name, raw(out), raw(err)) == (name, "", ""), out + err
            assert "unexpected" not in err, (name, err)
            seen[name] = seen.get(name, "") + out + err
    quiet = [name for name, text in seen.items() if r"\x1b" not in text]
    assert quiet == [], "shows nothing of it: the calls are too few"
    assert r"EVIL\x1b[35;5m\x1b]0;title\x07\u009b2J" in seen["runs show"]


@pytest.mark.parametrize("name", sorted(registered()))
def test_an_option_that_is_none(name: str, on_a_terminal: Any) -> None:
    for word in (f"--{TYPED}", f"-{TYPED}"):
        code, out, err = on_a_terminal(*name.split(), word)
        assert code == 2
        assert (raw(out), raw(err)) == ("", "")


def test_records_in_which_every_text_is_so(hostile: Path, on_a_terminal: Any, tiny: Any) -> None:
    one, other = signatures(hostile)
    for file in (hostile / "runs").glob("tiny/*/run.json"):
        file.write_text(json.dumps(evil(json.loads(file.read_text()), ("format",))))
        (file.parent / "tokenizer.json").write_text(EVIL)
        (file.parent / "config.yaml").write_text(f"{EVIL}: [")
    for name, calls in commands(hostile, one, other, tiny).items():
        if name.startswith("runs ") or name in ("generate", "predict", "evaluate"):
            for words in calls:
                _, out, err = on_a_terminal(*name.split(), *words)
                assert (name, raw(out), raw(err)) == (name, "", ""), out + err


def test_a_record_forges_no_line(hostile: Path, on_a_terminal: Any) -> None:
    (file, _) = sorted((hostile / "runs").glob("tiny/*/run.json"))
    told = json.loads(file.read_text())
    forged = "x\nstatus      finished\n[9/9] tiny/0000  ok"
    told |= {"notes": forged, "label": forged, "group": forged, "tags": [forged]}
    file.write_text(json.dumps(told))
    one = file.parent.name
    for words in (["show", one], ["verify"], ["list"], ["group", "tiny", "--by", "label"]):
        _, out, err = on_a_terminal("runs", *words, "--root", hostile / "runs")
        lines = (out + err).splitlines()
        assert not [line for line in lines if line.startswith(("[9/9]", "status      fin"))], words


def test_in_a_pipe_generated_text_is_exact(trained: Path, etude: Any, on_a_terminal: Any) -> None:
    one, _ = signatures(trained)
    words = ["generate", one, "--root", trained / "runs", "--seed", "1", "--max-new-tokens", "80"]
    typed = TYPED.replace("\r", "")  # no character of the text, which has lines
    words += ["--prompt", "to be " + typed]
    piped, streamed = etude(*words).out, etude(*words, "--stream").out
    assert piped.startswith("to be " + typed)
    assert streamed == piped
    assert raw(on_a_terminal(*words)[1]) == ""


def test_a_bug(on_a_terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"EVIL": EVIL}
    exec("def fails(arguments):\n    raise ValueError(EVIL)\n", names)  # in no file of the user's
    monkeypatch.setattr(cli, "_command", lambda name: names["fails"])
    code, out, err = on_a_terminal("train")
    assert code == 1
    assert (raw(out), raw(err)) == ("", "")
    assert "unexpected ValueError: EVIL\\x1b" in err
