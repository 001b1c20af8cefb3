"""Tests that every reader of a record's files checks that they are those saved during training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import etude as framework
from etude.errors import RequestError
from etude.records.opening import MANIFEST, PREDICTIONS
from etude.records.record import Record
from etude.records.sealed import read_sealed, write_sealed
from quick_first import quick_first

Etude = Callable[..., Any]


@pytest.fixture(scope="module")
def words(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Callable[..., list[str]],
    write_corpus: Callable[..., Path],
) -> Callable[..., list[str]]:
    text = write_corpus(tmp_path_factory.mktemp("text") / "text.txt", lines=60)
    return lambda root, *more: tiny(text, root, "run.samples=0", *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, etude: Etude, words: Callable) -> Path:
    root = tmp_path_factory.mktemp("runs")
    answer = etude("train", *words(root))
    assert answer.code == 0, answer.err
    return next((root / "tiny").iterdir())


@pytest.fixture
def record(finished: Path, tmp_path: Path) -> Path:
    """A copy of the record, in its own root."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "tiny" / finished.name))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def other_weights(record: Path) -> None:
    """Replaces the best checkpoint's weights and manifest by those of another checkpoint."""
    folders = sorted((record / "checkpoints").iterdir())
    best = Record.read(record).checkpoint("best")
    other = next(folder for folder in folders if folder != best)
    shutil.copy(other / "model.safetensors", best)
    content = read_sealed(best / "MANIFEST.json", MANIFEST, "")
    content["sha256"] = read_sealed(other / "MANIFEST.json", MANIFEST, "")["sha256"]
    shutil.copy(other / "state.pt", best)
    write_sealed(best / "MANIFEST.json", content, MANIFEST)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "tokenizer": (lambda r: edit(r / "tokenizer.json", '"t"', '"T"'), "tokenizer.json"),
    "config": (lambda r: edit(r / "config.yaml", "heads: 1", "heads: 2"), "config.yaml"),
    "run.json": (lambda r: edit(r / "run.json", '"group": "', '"group": "0'), "run.json: group"),
    "weights": (other_weights, "MANIFEST.json"),
}
COMMANDS: dict[str, Callable[[Path], list[Any]]] = {
    "generate": lambda r: ["generate", r, "--max-new-tokens", "3"],
    "evaluate": lambda r: ["evaluate", r, "--split", "val"],
    "convert": lambda r: ["convert", r, r.parent / "converted"],
    "significance": lambda r: [
        *("runs", "significance", r),
        shutil.copytree(r, r.with_name("another"), dirs_exist_ok=True),
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_refused(etude: Etude, record: Path, change: str, command: str) -> None:
    act, named = CHANGES[change]
    act(record)
    answer = etude(*COMMANDS[command](record))
    assert answer.code == 2, answer.out + answer.err
    assert named in answer.err
    assert "Traceback" not in answer.err
    assert not (record.parent / "converted").exists()


@pytest.mark.parametrize("change", quick_first(CHANGES))
def test_nothing_begins_with_a_changed_run(
    etude: Etude, words: Callable, record: Path, change: str
) -> None:
    act, named = CHANGES[change]
    act(record)
    answer = etude("train", *_beginning(words(record.parents[1], f"init_from={record}")))
    assert answer.code == 2, answer.out + answer.err
    assert named in answer.err


def _beginning(words: list[str]) -> list[str]:
    """Returns the part that does not depend on the source."""
    return [word for word in words if not word.startswith("model.")]


@pytest.mark.parametrize("command", quick_first(["train", "plan"]))
@pytest.mark.parametrize(
    "change", quick_first(["tokenizer", "config", "run.json", "metrics", "overrides"], 2)
)
def test_a_changed_run_is_not_reused(
    etude: Etude, words: Callable, record: Path, change: str, command: str
) -> None:
    more = {
        "metrics": lambda r: edit(r / "metrics.jsonl", '"lr": 0.', '"lr": 1.'),
        "overrides": lambda r: edit(r / "overrides.yaml", "layers=1", "layers=2"),
    }
    act = more[change] if change in more else CHANGES[change][0]
    request = [command, *words(record.parents[1])]
    assert etude(*request).code == 0
    act(record)
    answer = etude(*request)
    told = answer.out + answer.err
    assert change.partition(".")[0] in told
    assert "set run.on_existing=again to train again" in told
    assert answer.code == 2 if command == "train" else "refused" in told
    if command == "train":
        assert etude(*request, "run.on_existing=again").code == 0


def test_a_changed_field_shows_its_value_and_a_changed_dictionary_none(
    etude: Etude, words: Callable, record: Path
) -> None:
    text = (record / "run.json").read_text()  # the run's seed and the config's seed
    (record / "run.json").write_text(re.sub(r'"seed": \d+', '"seed": 777', text))
    said = etude("train", *words(record.parents[1])).err
    assert "run.json: seed = 777: expected the value recorded during training" in said
    assert "run.json: config = '(changed)': expected the value recorded during training" in said


def test_an_edit_of_what_is_for_people_is_a_warning(
    etude: Etude, words: Callable, record: Path
) -> None:
    edit(record / "run.json", '"notes": ""', '"notes": "the good one"')
    for request in (["train", *words(record.parents[1])], COMMANDS["generate"](record)):
        answer = etude(*request)
        assert answer.code == 0
        assert (
            "notes was edited after training (no result depends on this field)"
            in answer.out + answer.err
        )


def test_a_run_that_goes_on_covers_no_change_up(
    etude: Etude, words: Callable, tmp_path: Path
) -> None:
    """`run.json` is saved repeatedly; manual edits remain detectable."""
    assert etude("train", *words(tmp_path, "run.stop_at_step=5")).code == 0
    folder = next((tmp_path / "tiny").iterdir())
    before = (folder / "run.json").read_text()
    edit(folder / "run.json", '"seed": 1337', '"seed": 1')
    answer = etude("train", *words(tmp_path))
    assert (answer.code, "run.json: seed = 1: expected the value" in answer.err) == (2, True)
    record = Record.read(folder)
    record.update(status="failed", error="as of a killed job")
    assert "field seed" in etude("runs", "verify", folder).out
    (folder / "run.json").write_text(before)
    (folder / "tokenizer.json").unlink()
    answer = etude("train", *words(tmp_path))
    assert answer.code == 0
    assert "tokenizer.json was missing and has been written again" in answer.out + answer.err
    assert etude("runs", "verify", folder).code == 0


def test_what_a_kill_left_before_the_first_entry_is_not_taken_over(
    etude: Etude, words: Callable, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny" / finished.name
    folder.mkdir(parents=True)
    edited = (finished / "tokenizer.json").read_text().replace('"t"', '"T"')
    (folder / "tokenizer.json").write_text(edited)
    (folder / ".tokenizer.json.4242.partial").write_text("half")
    assert etude("train", *words(tmp_path)).code == 0
    assert (folder / "tokenizer.json").read_text() == (finished / "tokenizer.json").read_text()
    assert not list(folder.glob(".*.partial"))
    assert etude("runs", "verify", folder).code == 0


def test_changed_metrics_of_a_finished_run_are_not_shown(record: Path) -> None:
    assert len(framework.load_run(record).metrics) == 2
    edit(record / "metrics.jsonl", '"lr": 0.', '"lr": 1.')
    with pytest.raises(RequestError, match=r"metrics\.jsonl was changed"):
        _ = framework.load_run(record).metrics


# -- evaluations and predictions --------------------------------------------------------------


def test_kept_losses_are_checked(etude: Etude, record: Path) -> None:
    run = framework.load_run(record)
    scores = run.scores()
    file = next((record / "predictions").glob("val-*.json"))
    assert run.scores() == scores
    edit(file, f"{scores[0]}", f"{scores[0] + 1}")
    with pytest.raises(RequestError, match=r"to compute .* again, delete the file"):
        run.scores()
    answer = etude("runs", "verify", record)
    assert (answer.code, f"predictions/{file.name}" in answer.out) == (1, True)
    file.unlink()
    assert run.scores() == scores
    assert etude("runs", "verify", record).code == 0


def test_a_kept_evaluation_is_checked(etude: Etude, record: Path) -> None:
    from etude.papers.readings import _scores

    run = framework.load_run(record)
    metrics = dict(_scores(run, "val", {}))
    (file,) = (record / "evaluations").glob("*.json")
    assert dict(_scores(run, "val", {})) == metrics
    edit(file, '"loss": ', '"loss": 1')
    with pytest.raises(RequestError, match=r"to compute .* again, delete the file"):
        _scores(run, "val", {})
    answer = etude("runs", "verify", record)
    assert (answer.code, f"evaluations/{file.name}" in answer.out) == (1, True)


def test_a_kept_evaluation_of_other_weights_is_made_again(record: Path) -> None:
    run = framework.load_run(record)
    scores = run.scores()
    file = next((record / "predictions").glob("val-*.json"))
    content = read_sealed(file, PREDICTIONS, "")
    write_sealed(file, {**content, "weights": ["0" * 64], "loss": [1.0]}, PREDICTIONS)
    assert run.scores() == scores


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory, etude: Etude, toy: Callable) -> Path:
    root = tmp_path_factory.mktemp("classified")
    assert etude("train", *toy("classification", root)).code == 0
    return next((root / "classification").iterdir())


def test_kept_predictions_are_checked(etude: Etude, classified: Path) -> None:
    run = framework.load_run(classified)
    scores = run.scores()
    (file,) = (classified / "predictions").glob("*.jsonl")
    assert run.scores() == scores
    assert etude("runs", "verify", classified).code == 0
    edit(file, '"score": 1.0', '"score": 0.0')
    with pytest.raises(RequestError, match=r"to compute .* again, delete the file"):
        run.scores()
    answer = etude("runs", "verify", classified)
    assert (answer.code, f"predictions/{file.name}" in answer.out) == (1, True)
    file.unlink()
    assert run.scores() == scores


def test_predict_refuses_a_changed_tokenizer(etude: Etude, classified: Path) -> None:
    before = (classified / "tokenizer.json").read_text()
    try:
        edit(classified / "tokenizer.json", '"[UNK]"', '"[unk]"')
        answer = etude("predict", classified, "--text", "the quick cats")
        assert (answer.code, "tokenizer.json was changed" in answer.err) == (2, True)
        info = json.loads((classified / "run.json").read_text())
        info["data"]["labels"].reverse()
        (classified / "run.json").write_text(json.dumps(info))
        answer = etude("predict", classified, "--text", "the quick cats")
        assert (answer.code, "run.json: data" in answer.err) == (2, True)
    finally:
        (classified / "tokenizer.json").write_text(before)
