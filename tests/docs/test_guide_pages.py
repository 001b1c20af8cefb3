"""Every code block of the guides runs, such as those on configuration, data and tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import etude as etude_package
from toys import write_toys

DOCS = Path(__file__).resolve().parents[2] / "docs"

TINY = [
    "trainer.max_steps=2",
    "trainer.max_epochs=null",
    "trainer.val_check_interval=2",
    "schedule.warmup_steps=0",
    "run.samples=0",
]

SHORT_TEXT = ["data=sotu_recent", "data/tokenizer=char", "data.sequence_length=32"]

SMALL_MODEL = ["model.layers=1", "model.dim=16", "model.heads=2"]
CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

In IN I-PP O
Brussels NNP I-NP I-LOC
Paris NNP I-NP B-LOC
"""


def is_training(words: list[str]) -> bool:
    """Returns whether the command trains a model and is expected to succeed."""
    return words[0] == "train" and "--cfg" not in words


@pytest.mark.slow
def test_mup(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    check = etude_package.coordinate_check
    small = {"steps": 1, "seeds": (0,)}
    monkeypatch.setattr(
        etude_package,
        "coordinate_check",
        lambda config, widths, **options: check(config, widths[:2], **options | small),
    )

    def shorten(words: list[str]) -> list[str]:
        if not is_training(words):
            return words
        kept = {"model.dim": 2, "optimizer.lr": 2}
        words = [
            f"{key}={','.join(value.split(',')[: kept.get(key, 9)])}" if equals else key
            for key, equals, value in (word.partition("=") for word in words)
        ]
        words = [word for word in words if not word.startswith("data/tokenizer")]
        return [*words, *TINY, *SHORT_TEXT, "model.layers=1", "data.batch.examples=4"]

    run(DOCS / "mup.md", shorten=shorten)
    assert Path("mup.png").is_file()


@pytest.mark.slow
def test_inside(run: Callable) -> None:
    run(DOCS / "inside.md")


@pytest.mark.slow
def test_notebooks(run: Callable) -> None:
    run(DOCS / "notebooks.md")


@pytest.mark.slow
def test_configuration(run: Callable) -> None:
    def shorten(words: list[str]) -> list[str]:
        if "experiment=nano" in words or "experiment=mine" in words:
            return [*words, *TINY, *SHORT_TEXT, "model.dim=16", "model.heads=2"]
        debug = is_training(words) and "experiment=debug" in words
        return [*words, "run.sample_tokens=5"] if debug else words

    run(DOCS / "configuration.md", shorten=shorten)


def write_task_files() -> None:
    """Writes the files that the page on tasks names but doesn't show."""
    Path("toys").mkdir()
    write_toys(Path("toys"))
    Path("texts").mkdir()
    Path("toys/text.txt").rename("texts/text.txt")
    for name in ("questions", "pairs"):
        Path(f"toys/{name}.jsonl").rename(f"{name}.jsonl")
    pairs = Path("pairs.jsonl").read_text().replace('"source"', '"prompt"')
    Path("prompts.jsonl").write_text(pairs.replace('"target"', '"response"'))
    rows = "".join(f"good and fine {n},{n % 5}\n" for n in range(30))
    Path("reviews.csv").write_text(f"text,stars\n{rows}")
    for split in ("validation", "test"):
        labels = ("spam", "ham", "spam", "ham")
        lines = (
            f'{{"text": "{split} text {n}", "label": "{label}", "source": "list {n % 2}"}}'
            for n, label in enumerate(labels)
        )
        Path(f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    Path("train.conll").write_text(CONLL)
    Path("valid.conll").write_text(
        CONLL.replace("rejects", "accepts").replace("Peter", "Paul").replace("In ", "On ")
    )


@pytest.mark.slow
def test_tasks(run: Callable) -> None:
    write_task_files()

    def shorten(words: list[str]) -> list[str]:
        if not is_training(words):
            return words
        has_source = any(word.startswith("init_from=") for word in words)
        model = [] if has_source else SMALL_MODEL
        return [*words, *TINY, *model, "data.batch.examples=4"]

    run(DOCS / "tasks.md", shorten=shorten)


@pytest.mark.slow
def test_data(run: Callable) -> None:
    Path("my_texts").mkdir()
    for number in range(12):
        Path(f"my_texts/{number}.txt").write_text(f"Some words of mine, number {number}.\n" * 9)
    lines = (f'{{"text": "A document, number {n}, that goes on."}}\n' for n in range(40))
    Path("huge.jsonl").write_text("".join(lines))

    def shorten(words: list[str]) -> list[str]:
        if not is_training(words):
            return words
        if "experiment=debug" in words:
            return [*words, "run.sample_tokens=5"]
        return [*words, *TINY, *SMALL_MODEL, "data.batch.examples=4"]

    run(DOCS / "data.md", shorten=shorten)
