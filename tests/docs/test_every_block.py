"""Every code block of the documentation runs, and shows what it is said to print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from page_blocks import blocks_of, commands_of, run_page, shape

from etude.config.checks import check
from etude.config.compose import compose
from etude.errors import RequestError

DOCS = Path(__file__).resolve().parents[2] / "docs"


PLACEHOLDERS = {"seed=...", "seed=0,1,2", "experiment=example"}


def overrides_in(text: str) -> list[list[str]]:
    """The overrides in backquotes in the last column of the tables."""
    found = []
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        for quoted in re.findall(r"`([^`]+)`", row.rstrip("|").rsplit(" | ", 1)[-1]):
            words = [w for w in shlex.split(quoted) if re.match(r"[a-z_]+[\w./]*=[^.]", w)]
            words = [w for w in words if w not in PLACEHOLDERS and "=tag(" not in w]
            if words and ("(" not in quoted or "=tag(" in quoted):
                found.append(words)
    return found


@pytest.mark.slow
def test_tour(run: Callable) -> None:
    run(DOCS / "tour.md")


@pytest.mark.slow
def test_recipes(run: Callable, tmp_path: Path) -> None:
    """`RUN_A` and `RUN_B` are two runs of the page's sweep."""
    Path("notes.txt").write_text("The other notes.\n\nAnd a second one, longer.\n" * 9)
    Path("reviews.csv").write_text("stars,body\n" + "".join(f"{n},a text {n}\n" for n in range(60)))

    Path("spam.csv").write_text(
        "text,label\n" + "".join(f"text {n},{'spam' if n % 2 else 'ham'}\n" for n in range(40))
    )

    def filled(words: list[str]) -> list[str]:
        records = sorted((tmp_path / "experiments/debug").glob("*[!~2]"))
        names = {"TOKENIZER.json": "experiments/debug/*/tokenizer.json"}
        for name, record in zip(("RUN_A", "RUN_B"), records, strict=False):
            words = [word.replace(name, record.name) for word in words]
        for name, pattern in names.items():
            for file in sorted(tmp_path.glob(pattern))[:1]:
                words = [word.replace(name, str(file)) for word in words]
        return words

    run(DOCS / "recipes.md", shorten=filled)


BASES = [
    ["experiment=debug"],
    ["experiment=spam", "data.path=rows.csv"],
    ["experiment=spam", "data.path=rows.csv", "schedule=cosine"],
]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(words, id=" ".join(words))
        for words in overrides_in((DOCS / "coming_from.md").read_text(encoding="utf-8"))
    ],
)
def test_equivalents_are_overrides(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each override in the tables of `coming_from.md` composes and passes the checks."""
    monkeypatch.setattr(
        "etude.training.init_from.InitFromSource.resolve_config", lambda config: config
    )
    problems = []
    for base in BASES:
        try:
            check(compose([*base, *overrides]))
            return
        except RequestError as error:
            problems.append(str(error))
    pytest.fail("\n".join(problems))


class TestTheReader:
    """A page with an error fails."""

    def page(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        return path

    def test_files_are_written_and_comments_are_read(self, tmp_path: Path) -> None:
        page = self.page(
            tmp_path,
            "`a/b.txt`:\n\n```text\nhi\n```\n\n"
            "```bash\netude x \\\n  y  # note\netude z 'a b'   # exits with 2\n```\n",
        )
        file, bash = blocks_of(page)
        assert (file.file, file.code, file.line) == ("a/b.txt", "hi\n", 4)
        assert commands_of(bash) == [(["etude", "x", "y"], 0), (["etude", "z", "a b"], 2)]

    @pytest.mark.parametrize(
        "text",
        [
            "```bash\netude bad\n```\n",
            "```bash\nrm -rf /\n```\n",
            "```bash\netude good\n```\n\n```text\nsomething else\n```\n",
            "```python\nraise AssertionError\n```\n",
            "```sh\necho\n```\n",
        ],
    )
    def test_errors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(AssertionError):
            run_page(self.page(tmp_path, text), lambda words: (int(words == ["bad"]), "shown 12\n"))

    def test_numbers_may_differ(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        page = self.page(tmp_path, "```bash\netude x\n```\n\n```text\nshown 7\n...\n```\n")
        run_page(page, lambda words: (0, "first\nshown 12\n"))

    def test_shape(self) -> None:
        assert shape("val/loss 3.1  86.3 k tokens/s: a/a207969bb616") == shape(
            "val/loss -12.07  1.1 M tokens/s: a/0123456789ab"
        )
        assert shape("val/loss 3") != shape("train/loss 3")
