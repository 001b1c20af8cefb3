"""Labelled data, pairs and tags of a hub, end to end: the command against a small hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from fake_hub import Hub, Remote, commit_of, record_of

from etude.data.examples.split_writer import ExampleSplitMeta
from etude.data.store import Store, open_store

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = ["cats", "and", "dogs", "ran", "over", "the", "hill"]
SENTENCES = [[WORDS[(i * k + 3) % 7] for k in range(1, 3 + i % 5)] for i in range(60)]
COMMON = [
    "~experiment",
    "name=hub",
    "data.sequence_length=24",
    "data.batch.examples=4",
    "model.layers=1",
    "model.heads=2",
    "model.dim=8",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.accelerator=cpu",
    "schedule.warmup_steps=1",
    "run.samples=0",
]
LABELLED = ["task=classification", "model=encoder_nano", "data=labelled_hub"]
LABELLED += ["data.tokenizer.vocab_size=60", "data.path.name=org/mood"]
PAIRS = ["task=translation", "model=transformer_nano", "data=pairs_hub"]
PAIRS += ["data.tokenizer.vocab_size=270", "data.path.name=org/pairs"]
PAIRS += ["data.source=translation.en", "data.target=translation.zh"]
TAGGED = ["task=tagging", "model=encoder_nano", "model/head=tagging", "data=tagged_hub"]
TAGGED += ["data.tokenizer.vocab_size=60", "data.path.name=org/tags", "data.tags=ner_tags"]


def publish(folder: Path) -> None:
    """Data sets with features as the hub's: named labels, nested translations, lists of tags."""
    plain = [" ".join([*words, str(i)]) for i, words in enumerate(SENTENCES)]
    mood = datasets.ClassLabel(names=["sad", "glad", "other"])
    labels = [i % 2 for i in range(60)]
    features = datasets.Features({"text": datasets.Value("string"), "label": mood})
    kinds = datasets.List(datasets.ClassLabel(names=["O", "ANIMAL"]))
    tags = [[int(word in ("cats", "dogs")) for word in words] for words in SENTENCES]
    both = [{"en": text, "zh": text[::-1]} for text in plain]
    pairs = datasets.Features({"translation": datasets.Translation(languages=["en", "zh"])})
    words = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": kinds}
    )
    made = {
        "mood": ({"text": plain, "label": labels}, features),
        "unnamed": ({"text": plain, "label": [-1, *labels[1:]]}, features),
        "pairs": ({"translation": both}, pairs),
        "tags": ({"tokens": SENTENCES, "ner_tags": tags}, words),
    }
    for name, (columns, kind) in made.items():
        place = folder / "org" / name
        place.mkdir(parents=True)
        whole = datasets.Dataset.from_dict(columns, features=kind)
        for split, rows in (
            ("train", range(40)),
            ("validation", range(40, 50)),
            ("test", range(50, 60)),
        ):
            whole.select(rows).to_parquet(place / f"{split}-00000-of-00001.parquet")
    (folder / "org/lines").mkdir()
    lines = [json.dumps({"sentence": text, "stars": i % 5}) for i, text in enumerate(plain)]
    (folder / "org/lines/train.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "org/nested").mkdir()
    lines = [json.dumps({"translation": pair}) for pair in both]
    (folder / "org/nested/train.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    publish(folder)
    with Hub(folder) as hub:
        yield hub


@pytest.fixture(scope="module")
def remote(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    remote = Remote(tmp_path_factory.mktemp("remote"), COMMON, HF_ENDPOINT=hub.url)
    yield remote
    remote.close()


def prepared(remote: Remote) -> Store:
    """The folder that was made last."""
    folders = [path.parent for path in (remote.folder / "cache").glob("*/meta.json")]
    latest = max(folders, key=lambda path: path.stat().st_mtime)
    return open_store(latest, ExampleSplitMeta)


def field(store: Store, name: str) -> list[list[int]]:
    lists = store.column(*name.split("."))
    return [lists[index].tolist() for index in range(len(lists))]


@pytest.mark.slow
def test_labels_by_their_names_and_a_branch_by_its_commit(hub: Hub, remote: Remote) -> None:
    words = [*LABELLED, "data.validation=validation", "data.test=test"]
    before = commit_of(hub.folder / "org/mood")
    info: dict[str, Any] = record_of(remote(*words))
    assert (info["data"]["repository"], info["data"]["commit"]) == ("org/mood", before)
    assert f"revision: {before}" in (info["path"] / "config.yaml").read_text()
    assert info["data"]["labels"] == ["sad", "glad", "other"]  # in the data set's order
    store = prepared(remote)
    assert {name: split.examples for name, split in store.meta.splits.items()} == {
        "train": 40, "val": 10, "test": 10,
    }  # fmt: skip
    assert store.meta.splits["train"].labels == [20, 20, 0]
    assert field(store, "val.label") == [[i % 2] for i in range(40, 50)]
    ids = field(store, "test.tokens")[0]
    assert store.tokenizer.decode(ids[1:-1]) == " ".join([*SENTENCES[50], "50"])

    hub.asked.clear()
    code, out, _ = remote(*words)
    assert code == 0
    assert "already finished" in out
    assert len(hub.asked) == 1  # what main is now
    downloaded = remote(*words, "data.path.streaming=false", f"data.path.revision={before}")
    assert "already finished" in downloaded[1]  # how it is read is no part of a run


def test_nested_columns_of_translations(remote: Remote) -> None:
    record_of(remote(*PAIRS, "data.path.streaming=false"))
    store = prepared(remote)
    assert [store.meta.splits[name].examples for name in ("train", "val", "test")] == [36, 4, 0]
    pairs = [
        tuple(store.tokenizer.decode(ids) for ids in pair)
        for pair in zip(field(store, "val.source"), field(store, "val.target"), strict=True)
    ]
    text = " ".join([*SENTENCES[9], "9"])  # a tenth is held out: every tenth row
    assert pairs[0] == (text, text[::-1])


def test_nested_objects_of_json_lines(remote: Remote) -> None:
    record_of(remote(*PAIRS, "data.path.name=org/nested"))
    store = prepared(remote)
    text = " ".join([*SENTENCES[9], "9"])
    assert store.tokenizer.decode(field(store, "val.target")[0]) == text[::-1]


def test_lists_of_tags_by_their_names(remote: Remote) -> None:
    info = record_of(remote(*TAGGED, "data.validation=validation"))
    assert info["data"]["labels"] == ["O", "ANIMAL"]
    store = prepared(remote)
    found = [[tag for tag in tags if tag >= 0] for tags in field(store, "train.tags")]
    assert found == [[int(w in ("cats", "dogs")) for w in words] for words in SENTENCES[:40]]


def test_rows_without_stated_features(remote: Remote) -> None:
    words = [*LABELLED, "data.path.name=org/lines", "data.text=sentence", "data.label=stars"]
    assert record_of(remote(*words))["data"]["labels"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.path.name=mood"], "data.path.name = 'mood': expected owner/name"),
        (
            ["data.path.name=org/none"],
            "data.path.name = 'org/none': expected a dataset on the Hugging Face Hub",
        ),
        (
            [f"data.path.revision={COMMIT}"],
            f"data.path.revision = '{COMMIT}': expected a branch, a tag or a commit",
        ),
        (
            ["data.path.split=trian"],
            "data.path.split = 'trian': expected a split of org/mood: train, validation, test",
        ),
        (
            ["data.validation=validaton"],
            "data.validation = 'validaton': expected a split of org/mood: train, validation, test",
        ),
        (["data.path.config=en"], "data.path.config = 'en': expected a config of org/mood"),
        (["data.text=txt"], "data.text = 'txt': expected an existing column (org/mood has"),
        (
            ["data.path.name=org/unnamed"],
            "org/unnamed, split train, row 1, column label = None: expected a label",
        ),
    ],
)
def test_a_mistake_is_told(words: list[str], message: str, remote: Remote) -> None:
    runs = sorted((remote.folder / "runs").rglob("run.json"))
    code, _, err = remote(*LABELLED, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert sorted((remote.folder / "runs").rglob("run.json")) == runs


def test_without_a_network_it_says_what_helps(hub: Hub, remote: Remote) -> None:
    hub.gone.set()
    try:
        code, _, err = remote(*LABELLED, "data.path.name=org/other")
    finally:
        hub.gone.clear()
    assert code == 2
    assert "expected a connection to the Hugging Face Hub" in err
    assert "set data.revision=<commit hash of 40 hexadecimal digits> (data.path.revision if " in err
    assert "labelled_files, pairs or tagged" in err
