"""Data sets of a hub, end to end: the command against a small hub that answers over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_hub import Hub, Remote, commit_of, record_of
from omegaconf import DictConfig

from etude.config.checks import check
from etude.config.compose import compose
from etude.data.hub_text import HubText
from etude.data.splits import TextSplitMeta
from etude.data.store import Store, open_store
from etude.data.text import Batch
from etude.data.tokenizer import Byte
from etude.errors import InvalidArguments
from etude.records.signature import signature

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPEECH = [f"document {i}: the quick brown fox ☕\r\njumps over {i * 7919}\n" for i in range(60)]

TINY = [
    "experiment=debug",
    "data=hub_text",
    "data/tokenizer=byte",
    "data.sequence_length=8",
    "data.batch.examples=2",
    "model.layers=1",
    "model.dim=8",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.accelerator=cpu",
    "run.samples=0",
]


def publish(folder: Path) -> None:
    """Data sets of the kinds that there are on the hub."""
    for name in ("speech", "two", "table", "gated", "broken", "numbers"):
        (folder / "org" / name).mkdir(parents=True)
    rows = [json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(SPEECH)]
    (folder / "org/speech/train.jsonl").write_text("".join(rows))
    card = """\
---
configs:
- config_name: en
  data_files:
  - {split: train, path: en.csv}
  - {split: validation, path: en_val.csv}
- config_name: de
  data_files:
  - {split: train, path: de.csv}
---
"""
    (folder / "org/two/README.md").write_text(card)
    for name in ("en", "en_val", "de"):
        lines = [f"{i},words of {name} number {i}\n" for i in range(30)]
        (folder / f"org/two/{name}.csv").write_text("id,body\n" + "".join(lines))
    frame = pd.DataFrame({"text": SPEECH, "other": SPEECH})
    frame.to_parquet(folder / "org/table/train-00000.parquet")
    (folder / "org/broken/train.jsonl").write_text('{"text": "a"}\n{"text": "b\n')
    (folder / "org/numbers/train.jsonl").write_text('{"text": 1}\n{"text": 2}\n')


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    publish(folder)
    with Hub(folder) as hub:
        hub.gated.add("org/gated")
        yield hub


@pytest.fixture(scope="module")
def remote(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    remote = Remote(tmp_path_factory.mktemp("remote"), TINY, HF_ENDPOINT=hub.url)
    yield remote
    remote.close()


def prepared(remote: Remote) -> Store:
    """The prepared folder that was made last."""
    folders = [path.parent for path in (remote.folder / "cache").glob("*/meta.json")]
    return open_store(max(folders, key=lambda path: path.stat().st_mtime), TextSplitMeta)


class TestEndToEnd:
    @pytest.mark.slow
    def test_a_branch_becomes_the_commit_and_the_record_says_so(
        self, hub: Hub, remote: Remote
    ) -> None:
        folder = hub.folder / "org/speech"
        before = commit_of(folder)
        first = record_of(remote("data.name=org/speech"))
        assert first["data"]["repository"] == "org/speech"
        assert first["data"]["commit"] == before
        text = (first["path"] / "config.yaml").read_text()
        assert f"revision: {before}" in text

        data = prepared(remote)
        val = [text for i, text in enumerate(SPEECH) if i % 10 == 9]
        train = [text for i, text in enumerate(SPEECH) if i % 10 != 9]
        for split, documents in (("train", train), ("val", val)):
            ids = data.column(split, "tokens").values.tolist()
            assert bytes(i for i in ids if i < 256) == "".join(documents).encode()
            assert ids.count(256) == len(documents) - 1

        hub.asked.clear()
        code, out, _ = remote("data.name=org/speech")
        assert code == 0
        assert "already finished" in out
        assert len(hub.asked) == 1  # what main is now

        hub.asked.clear()
        assert "already finished" in remote("data.name=org/speech", f"data.revision={before}")[1]
        assert hub.asked == []

        with (folder / "train.jsonl").open("a") as file:  # main moves on
            file.write('{"text": "one more"}\n')
        assert commit_of(folder) != before
        second = record_of(remote("data.name=org/speech"))
        assert second["data"]["commit"] == commit_of(folder)
        assert second["signature"] != first["signature"]
        assert second["data"]["fingerprint"] != first["data"]["fingerprint"]

    def test_streamed_or_downloaded_is_the_same_run(self, hub: Hub, remote: Remote) -> None:
        words = ("data.name=org/table", "data.documents=40")
        streamed = record_of(remote(*words))
        assert any("GET" in asked and asked.endswith(".parquet") for asked in hub.asked)
        code, out, _ = remote(*words, "data.streaming=false")
        assert code == 0
        assert "already finished" in out
        downloaded = record_of(
            remote(
                *words,
                "data.streaming=false",
                f"run.cache={remote.folder / 'other'}",
                "run.on_existing=again",
            )
        )
        assert downloaded["data"] == streamed["data"]
        assert streamed["data"]["splits"]["train"]["documents"] == 36

    def test_configs_and_splits_are_chosen(self, hub: Hub, remote: Remote) -> None:
        words = ("data.name=org/two", "data.config=en", "data.validation_split=validation")
        info = record_of(remote(*words))
        data = prepared(remote)
        val = [f"words of en_val number {i}" for i in range(30)]
        ids = data.column("val", "tokens").values.tolist()
        assert bytes(i for i in ids if i < 256) == "".join(val).encode()
        assert info["data"]["splits"]["train"]["documents"] == 30
        assert info["data"]["config"] == "en"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["data.name=org/none"],
                "data.name = 'org/none': expected a dataset on the Hugging Face Hub",
            ),
            (
                ["data.name=org/gated"],
                "to which you have access (the dataset is gated: accept its terms",
            ),
            (["data.name=speech"], "data.name = 'speech': expected owner/name"),
            (
                ["data.name=org/speech", "data.revision=v7"],
                "data.revision = 'v7': expected a branch, a tag or a commit of org/speech",
            ),
            (
                ["data.name=org/speech", f"data.revision={COMMIT}"],
                f"data.revision = '{COMMIT}': expected a branch, a tag or a commit",
            ),
            (["data.name=org/two"], "data.config = None: expected a config of org/two: en, de"),
            (
                ["data.name=org/two", "data.config=em"],
                "data.config = 'em': expected a config of org/two: en, de (choose from: de, en)",
            ),
            (
                ["data.name=org/two", "data.config=en", "data.split=trian"],
                "data.split = 'trian': expected a split of org/two: train, validation (did you",
            ),
            (
                ["data.name=org/two", "data.config=en", "data.validation_split=test"],
                "data.validation_split = 'test': expected a split of org/two: train, validation",
            ),
            (
                ["data.name=org/two", "data.config=en", "data.column=boddy"],
                "has the columns id (no text), body; did you mean body?",
            ),
            (["data.name=org/broken"], "a dataset whose rows the `datasets` library can read"),
            (["data.name=org/numbers"], "a column with text (org/numbers has the columns"),
            (
                ["data.name=org/numbers", "data.column=text"],
                "org/numbers, split train, row 1, column text = 1: expected text or null",
            ),
        ],
    )
    def test_a_mistake_is_told(self, words: list[str], message: str, remote: Remote) -> None:
        runs = sorted((remote.folder / "runs").rglob("run.json"))
        code, _, err = remote(*words)
        assert code == 2
        assert message in err
        assert "Traceback" not in err
        assert sorted((remote.folder / "runs").rglob("run.json")) == runs
        assert not list((remote.folder / "cache").glob("*.partial"))

    def test_a_folder_of_that_name_is_not_taken_for_it(self, remote: Remote) -> None:
        (remote.folder / "org/speech").mkdir(parents=True)
        try:
            code, _, err = remote("data.name=org/speech", "data.documents=20")
        finally:
            (remote.folder / "org/speech").rmdir()
        assert code == 2
        assert "data=text_files" in err
        assert (
            "set data.path=org/speech and data=text_files, labelled_files, pairs or tagged" in err
        )


class TestWithoutANetwork:
    @pytest.fixture
    def gone(self, hub: Hub) -> Iterator[Callable[[], None]]:
        """Call it, and the hub can't be reached until the end of the test."""
        yield hub.gone.set
        hub.gone.clear()

    def test_what_was_here_once_is_enough(
        self, hub: Hub, remote: Remote, gone: Callable[[], None]
    ) -> None:
        words = ("data.name=org/later", "data.streaming=false")
        (hub.folder / "org/later").mkdir()
        (hub.folder / "org/later/train.parquet").write_bytes(
            (hub.folder / "org/table/train-00000.parquet").read_bytes()
        )
        first = record_of(remote(*words))
        gone()
        code, out, err = remote(*words)
        assert code == 0
        assert "already finished" in out
        assert (
            "could not reach the Hugging Face Hub; using the last known commit for the revision "
            "main of the dataset org/later" in out + err
        )
        # Another tokenizer: the rows that were downloaded are still there, of this commit.
        other = record_of(remote(*words, "data/tokenizer=char"))
        assert other["data"]["commit"] == first["data"]["commit"]
        assert other["data"]["fingerprint"] == first["data"]["fingerprint"]
        assert other["tokenizer"] != first["tokenizer"]

        began = time.monotonic()
        for more in (("data.name=org/other",), (*words, f"data.revision={COMMIT}")):
            code, _, err = remote(*more)
            assert code == 2
            assert "expected a connection to the Hugging Face Hub" in err
            assert "prepare it once with network access" in err
            assert "data=text_files" in err
        assert time.monotonic() - began < 30

    @pytest.mark.slow
    def test_offline_by_the_environment(self, tmp_path: Path) -> None:
        remote = Remote(tmp_path, TINY, HF_HUB_OFFLINE="1")
        for words in (
            ["data.name=org/speech"],
            ["data.name=org/speech", f"data.revision={COMMIT}"],
        ):
            code, _, err = remote(*words)
            assert code == 2
            assert "OfflineModeIsEnabled" in err
            assert "set data.revision=<commit" in err
        assert not (tmp_path / "runs").exists()
        remote.close()

    @pytest.mark.slow
    def test_a_hub_that_does_not_answer(self, tmp_path: Path) -> None:
        publish(tmp_path / "hub")
        with Hub(tmp_path / "hub") as hub:
            hub.silent.set()
            remote = Remote(tmp_path, TINY, HF_ENDPOINT=hub.url)
            began = time.monotonic()
            code, _, err = remote("data.name=org/speech")
            assert code == 2
            assert "expected a connection to the Hugging Face Hub" in err
            assert time.monotonic() - began < 60
            remote.close()


def with_data(*overrides: str) -> DictConfig:
    named = ["experiment=debug", "data=hub_text", "data.name=org/name"]
    return compose([*named, f"data.revision={COMMIT}", *overrides])


class TestPinned:
    def test_how_it_is_read_is_no_part_of_the_signature(self) -> None:
        names = {
            signature(check(with_data(f"data.streaming={value}")).identity)
            for value in ("true", "false")
        }
        assert len(names) == 1
        assert check(with_data()).identity["data"]["revision"] == COMMIT

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        """What the hub is asked; it says `COMMIT` to everything."""
        asked: list[tuple[str, str]] = []

        def commit(name: str, revision: str) -> str:
            asked.append((name, revision))
            return COMMIT

        monkeypatch.setattr("etude.data.hub.commit_of", commit)
        return asked

    def test_in_a_mixture_too(self, asked: list[tuple[str, str]]) -> None:
        config = compose(["experiment=debug", "data=mixture"])
        source = {"_target_": "etude.data.hub_text.HubText", "_partial_": True, "name": "org/name"}
        config.data.sources = {"hub": source, "recent": config.data.sources.recent}
        config.data.weights = {"hub": 1, "recent": 1}
        checked = check(config)
        assert asked == [("org/name", "main")]
        assert checked.identity["data"]["sources"]["hub"]["revision"] == COMMIT
        assert checked.config.data.sources.hub.revision == COMMIT
        data = checked.nodes["data"].build()
        assert COMMIT in json.dumps(data.origin())
        assert "revision" not in config.data.sources.hub

    def test_a_branch_becomes_a_commit_and_the_config_of_the_user_is_left_alone(
        self, asked: list[tuple[str, str]]
    ) -> None:
        config = with_data("data.revision=v2", "seed=3")
        checked = check(config)
        assert checked.identity == check(with_data("seed=3")).identity
        assert checked.config.data.revision == COMMIT
        assert checked.shown["data"]["revision"] == COMMIT
        assert config.data.revision == "v2"
        assert asked == [("org/name", "v2")]
        assert checked.nodes["data"].build().commit == COMMIT

    def test_the_fingerprint_says_what_is_read(self) -> None:
        def fingerprint(**arguments: Any) -> str:
            stated = {"name": "a/b", "revision": COMMIT} | arguments
            data = HubText(tokenizer=Byte(), sequence_length=8, batch=Batch(examples=2), **stated)
            return data.content_fingerprint()

        others: list[dict[str, Any]] = [
            {},
            {"name": "a/c"},
            {"revision": COMMIT[::-1]},
            {"config": "en"},
            {"split": "test"},
            {"validation_split": "validation"},
            {"column": "body"},
            {"documents": 5},
        ]
        assert len({fingerprint(**arguments) for arguments in others}) == len(others)
        assert fingerprint(streaming=False) == fingerprint()


def test_all_mistakes_in_the_arguments_come_at_once() -> None:
    with pytest.raises(InvalidArguments) as caught:
        HubText(
            name="https://hub/a/b",
            split="train",
            validation_split="train",
            validation=0,
            documents=0,
            tokenizer=Byte(),
            sequence_length=0,
            batch=Batch(examples=2),
        )
    where = [problem.where for problem in caught.value.problems]
    expected = ["name", "validation", "validation_split", "documents", "sequence_length"]
    assert where == expected
