"""Code blocks of a documentation page, and how they are run.

- `bash`: each `etude` command is run in the page's folder and must end with 0, or with the code in
  a comment `# exits with 2`. Commands that install or need a server (`NOT_RUN`) are skipped.
- `python`: is executed; the blocks of a page share their variables.
- A block after a line that is only a file name in backquotes and a colon is written to that file.
- `text` right after a bash block: each line must be a line of the commands' output, apart from its
  numbers; `...` represents omitted lines. Elsewhere it is a listing.
- `yaml`, `json`, `toml`: must parse.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

NOT_RUN = ("make", "source", "pip", "git", "jupyter", "tensorboard", "wandb", "export", "python")
LANGUAGES = {"bash", "python", "text", "yaml", "json", "csv", "toml"}

_FENCE = re.compile(
    r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_EXIT = re.compile(r"# exits with (\d+)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        file: the file that it is written to; None for all others.
        line: the number of its first line in the page.
        follows: whether no text is between it and the block before.
    """

    language: str
    code: str
    file: str | None
    line: int
    follows: bool


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    blocks, end = [], 0
    for match in _FENCE.finditer(text):
        blocks.append(
            Block(
                match["language"],
                match["code"],
                match["file"],
                line=text.count("\n", 0, match.start("code")) + 1,
                follows=not text[end : match.start()].strip() and end > 0,
            )
        )
        end = match.end()
    return blocks


def commands_of(block: Block) -> list[tuple[list[str], int]]:
    """The commands of a bash block: arguments and the expected exit code."""
    commands = []
    for line in block.code.replace("\\\n", " ").splitlines():
        expected = _EXIT.search(line)
        words = shlex.split(re.split(r"\s#\s", line)[0])
        if words:
            commands.append((words, int(expected[1]) if expected else 0))
    return commands


def shape(line: str) -> str:
    """A line of output without what changes from run to run: numbers, signatures, spaces."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "#", line)
    line = re.sub(r"-?\d[\d.,:e+-]*( [kMGT]?B?\b)?", "#", line)
    return " ".join(line.split())


def run_page(
    page: Path,
    command: Callable[[list[str]], tuple[int, str]],
    shorten: Callable[[list[str]], list[str]] = list,
) -> None:
    """Runs all blocks of a page in the current folder.

    Args:
        command: runs the arguments of `etude`; returns the exit code and the output.
        shorten: adds overrides that make a command cheap.

    Raises:
        AssertionError: names the line of the block that fails.
    """
    variables: dict[str, object] = {"__name__": page.stem}
    output = ""
    for block in blocks_of(page):
        where = f"{page.name}, line {block.line}"
        assert block.language in LANGUAGES, f"{where}: a block of language {block.language!r}"
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "bash":
            output = ""
            for words, expected in commands_of(block):
                if words[0] in NOT_RUN:
                    continue
                assert words[0] == "etude", f"{where}: {words[0]}"
                code, shown = command(shorten(words[1:]))
                assert code == expected, f"{where}: {shlex.join(words)}\n{shown[-3000:]}"
                output += shown
        elif block.language == "python":
            exec(compile(block.code, where, "exec"), variables)
        elif block.language == "text" and block.follows:
            _compare(block, output, where)
        if block.language == "yaml":
            yaml.safe_load(block.code)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "toml":
            tomllib.loads(block.code)


def _compare(block: Block, output: str, where: str) -> None:
    """Checks that each line shown in the page is in the output."""
    real = {shape(line) for line in output.splitlines()}
    for line in block.code.splitlines():
        if line.strip() and line.strip() != "...":
            assert shape(line) in real, f"{where}: not printed: {line}\n{output[-3000:]}"
