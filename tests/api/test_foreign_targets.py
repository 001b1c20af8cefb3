"""No command builds a class with a harmful constructor that a record's config names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import etude
from etude.errors import RequestError
from older_records import with_hashes_that_fit
from quick_first import quick_first

TRUNCATES = "etude.data.columns.ColumnWriter"  # opens two files for writing
STARTS = (
    "etude.training.rank_processes._RankProcess"  # starts a process that imports what it is told
)
SLOTS = ["model", "model.initialise", "model.position", "data", "data.tokenizer", "task"]
SLOTS += ["optimizer", "optimizer.lr", "schedule", "trainer", "callbacks.x", "model.dropout"]

Etude = Callable[..., object]


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    write_corpus: Callable[..., Path],
    tiny: Callable[..., list[str]],
    etude: Callable[..., object],
) -> Path:
    """The root of two finished runs."""
    root = tmp_path_factory.mktemp("made")
    corpus = write_corpus(root / "corpus.txt")
    for seed in (0, 1):
        answer = etude("train", *tiny(corpus, root / "runs", f"seed={seed}", "run.samples=0"))
        assert answer.code == 0, answer.err  # type: ignore[attr-defined]
    return root / "runs"


@pytest.fixture
def changed(made: Path, tmp_path: Path) -> Callable[[str, object], tuple[Path, Path]]:
    """`changed(slot, node)` sets a node in the first record's config; returns root and record."""

    def change(slot: str, node: object) -> tuple[Path, Path]:
        import shutil

        root = tmp_path / "runs"
        shutil.copytree(made, root)
        record = sorted((root / "tiny").iterdir())[0]
        config = OmegaConf.load(record / "config.yaml")
        OmegaConf.update(config, slot, node, merge=True, force_add=True)
        OmegaConf.save(config, record / "config.yaml")
        with_hashes_that_fit(record)
        return root, record

    return change


@pytest.mark.parametrize("slot", quick_first(SLOTS, 4))
def test_no_slot_takes_a_class_that_truncates_a_file(
    slot: str, changed: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    precious = tmp_path / "precious.values"
    precious.write_text("precious")
    node = {"_target_": TRUNCATES, "path": str(tmp_path / "precious")}
    if slot == "model.position":
        node["_partial_"] = True
    _, record = changed(slot, node)
    with pytest.raises(RequestError) as refused:
        etude.load_run(record).model()
    assert refused.value.problems[0].where in (f"{slot}._target_", "callbacks.x._target_")
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "RECORD", "--prompt", "the"],
        ["evaluate", "RECORD"],
        ["predict", "RECORD", "--text", "the"],
        ["convert", "RECORD", "DEST"],
        ["train", "init_from=RECORD", "experiment=debug", "name=mine", "run.root=ROOT"],
        ["plan", "init_from=RECORD", "experiment=debug", "name=mine", "run.root=ROOT"],
        ["runs", "significance", "RECORD", "OTHER"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_no_command_starts_a_process_for_it(
    command: list[str],
    changed: Callable[..., tuple[Path, Path]],
    etude: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import subprocess

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    root, record = changed(
        "model.initialise", {"_target_": STARTS, "request": {"rank": 0, "world": 1}, "ended": None}
    )
    (other,) = (path for path in (root / "tiny").iterdir() if path != record)
    places = {"RECORD": record, "OTHER": other, "DEST": tmp_path / "dest", "ROOT": root}
    words = command
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    monkeypatch.setattr(subprocess, "Popen", started)
    answer = etude(*words)
    assert answer.code == 2, answer.err  # type: ignore[attr-defined]
    assert "model.initialise._target_" in answer.out + answer.err  # type: ignore[attr-defined]


def test_what_the_source_of_the_weights_was_is_not_looked_up_for_a_record(
    changed: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """The source would be read or downloaded, and the record's extensions imported."""
    node = {"source": str(tmp_path), "found": {}}
    _, record = changed("init_from", node)
    with pytest.raises(RequestError, match=r"init_from\.found"):
        etude.load_run(record)
