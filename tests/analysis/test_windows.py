"""Tests of evaluation windows on continuous text: options have effect, no result is overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import etude as package
from etude.analysis.scoring import evaluate_run, stored_metrics
from etude.errors import RequestError
from etude.tasks import options


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 100)
    return package.train(
        package.compose(
            "experiment=debug", "data=text_files", "data/tokenizer=char", f"data.path='{text}'",
            "model/position=alibi", "data.sequence_length=8", "trainer.max_steps=3",
            "trainer.val_check_interval=3", f"run.root='{text.parent}'", "run.samples=0",
            "schedule.warmup_steps=0",
        )
    )  # fmt: skip


def test_each_has_a_file_of_its_own_and_says_which(run: Any) -> None:
    hows: list[dict[str, int]] = [{}, {"sequence_length": 4}, {"stride": 2}]
    hows += [{"sequence_length": 16, "stride": 3}]
    first = [evaluate_run(run, "val", **how) for how in hows]  # type: ignore[arg-type]
    assert len({each["files"][0] for each in first}) == 4
    assert [each["windows"] for each in first] == hows
    losses = [each["metrics"]["loss"] for each in first]
    assert len(set(losses)) == 4
    for how, each in zip(hows, first, strict=True):
        assert stored_metrics(run, "val", how) == each["metrics"]
    log = run.path / "evaluations" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()[-4:]]
    assert [line.get("sequence_length") for line in lines] == [None, 4, None, 16]
    assert [line.get("stride") for line in lines] == [None, None, 2, 3]


def test_what_an_older_version_kept_is_not_used(run: Any) -> None:
    """Older versions used the name of the training windows for all windows."""
    found = evaluate_run(run, "val")
    file = Path(found["files"][0])
    content = {key: value for key, value in json.loads(file.read_text()).items() if key != "seal"}
    file.write_text(json.dumps({**content, "metrics": {"loss": 9.0}}))
    assert stored_metrics(run, "val", {}) == {"loss": 9.0}
    del content["windows"]
    file.write_text(json.dumps(content))
    assert stored_metrics(run, "val", {}) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sequence_length": 0}, "sequence_length = 0: expected a positive number"),
        ({"stride": 0}, "stride = 0: expected a positive number"),
        ({"stride": -1}, "stride = -1: expected a positive number"),
        ({"stride": 9}, "stride = 9: expected at most 8, the number of targets in a window"),
        (
            {"sequence_length": 4, "stride": 5},
            "stride = 5: expected at most 4, the number of targets in a window",
        ),
    ],
)
def test_values_that_cannot_be(run: Any, given: dict[str, int], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        run.evaluate("val", **given)


def test_logits_that_fit_into_no_memory(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = run.data()
    run.prepare(data)
    there = 4 * data.tokenizer_.vocab_size * 100
    monkeypatch.setattr(options, "memory_for", lambda device: there)
    assert run.evaluate("val", sequence_length=100)["loss"] > 0
    with pytest.raises(
        RequestError,
        match="sequence_length = 1000000000: expected a window of at most 100 target tokens, whose",
    ):
        run.evaluate("val", sequence_length=10**9)


@pytest.mark.parametrize("kind", ["masked_lm", "span_denoising"])
def test_other_tasks_have_none(toy: Callable[..., list[str]], kind: str, tmp_path: Path) -> None:
    found = package.train(package.compose(*toy(kind, tmp_path)))
    for key in ("sequence_length", "stride"):
        with pytest.raises(RequestError, match=f"{key} = 4: expected no value"):
            found.evaluate("val", **{key: 4})
