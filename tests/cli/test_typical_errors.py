"""Typical errors of users and their messages: `typical_errors.txt` is a transcript that is checked.

To write the transcript again after a change: `python tests/cli/test_typical_errors.py`.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TRANSCRIPT = Path(__file__).with_name("typical_errors.txt")
FILES = {
    "mails.csv": "text,label\n"
    + "".join(f"text {n},{'spam' if n % 2 else 'ham'}\n" for n in range(20)),
    "rows.csv": "Win a free prize now,spam\nHello Bob,ham\nLunch at one?,ham\n",
    "notes.txt": "Some notes.\n\nAnd some more of them.\n" * 20,
}


def entries() -> list[tuple[str, list[str]]]:
    """Each command of the transcript with the lines that it prints."""
    blocks: list[tuple[str, list[str]]] = []
    for line in TRANSCRIPT.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):
            blocks.append((line[2:], []))
        elif line and not line.startswith("#"):
            blocks[-1][1].append(line)
    return blocks


def printed(text: str) -> list[str]:
    """The lines of standard error, without what depends on the network."""
    text = re.sub(r"Hub cannot be reached: .*?;", "Hub cannot be reached: ...;", text)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, etude: Callable) -> Path:
    """A folder with a run and some files."""
    folder = tmp_path_factory.mktemp("errors")
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    answer = etude("train", "experiment=debug", "trainer.max_steps=2", cwd=folder)
    assert answer.code == 0, answer.err
    return folder


@pytest.mark.parametrize("command", [command for command, _ in entries()])
def test_message(command: str, folder: Path, etude: Callable) -> None:
    answer = etude(*shlex.split(command)[1:], cwd=folder)
    assert answer.code == 2, answer.out
    assert printed(answer.err) == dict(entries())[command]


def test_there_are_sixty() -> None:
    assert len(entries()) >= 60


if __name__ == "__main__":
    import contextlib
    import io
    import tempfile

    from etude import cli

    def run(words: list[str]) -> tuple[int, str]:
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = cli.run(words)
        return code, err.getvalue()

    lines = TRANSCRIPT.read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for file, content in FILES.items():
            Path(file).write_text(content, encoding="utf-8")
        run(["train", "experiment=debug", "trainer.max_steps=2"])
        out = []
        for line in lines:
            if line.startswith("#") or not line:
                out.append(line)
            elif line.startswith("$ "):
                code, error = run(shlex.split(line[2:])[1:])
                if code != 2:
                    sys.exit(f"{line}: exit code {code}\n{error}")
                out += [line, *printed(error)]
    TRANSCRIPT.write_text("\n".join(out) + "\n", encoding="utf-8")
