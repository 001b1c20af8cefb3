"""The index of constructors matches the classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.config import constructors, targets
from etude.config.checks import InvalidConfig, check
from etude.config.compose import compose
from etude.config.constructors import Constructor, _pack, _unpack, describe_class
from etude.config.table import table
from etude.config.type_names import describe_type


def classes() -> Iterator[tuple[str, Any]]:
    for identifier in sorted(table().everything()):
        module, _, name = table().location(identifier).rpartition(".")
        yield identifier, getattr(import_module(module), name)


def kept(described: Constructor) -> Constructor:
    """Returns a description after a round trip through JSON."""
    return _unpack(json.loads(json.dumps(_pack(described))))


@pytest.mark.parametrize(("identifier", "kind"), classes(), ids=[name for name, _ in classes()])
def test_each_class_comes_back_as_it_is(identifier: str, kind: Any) -> None:
    told = describe_class(kind)
    again = kept(told)
    assert (again.name, again.location) == (told.name, told.location)
    assert list(again.parameters) == list(told.parameters)
    for partial in (False, True):
        assert again.settable(partial) == told.settable(partial)
    assert (again.refused, again.aliases) == (dict(told.refused), dict(told.aliases))
    assert (again.open_ended, again.pins) == (told.open_ended, told.pins)
    for name, parameter in told.parameters.items():
        default = parameter.default
        same = list(default) if isinstance(default, tuple) else default  # one signature
        assert again.parameters[name].default == same
        assert describe_type(again.parameters[name].hint) == describe_type(parameter.hint)


@pytest.fixture
def from_the_index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes checks use the index for shipped classes, although they are imported."""
    asked: list[str] = []

    def lookup(location: str) -> Constructor:
        asked.append(location)
        module, _, name = location.rpartition(".")
        return kept(describe_class(getattr(import_module(module), name), location))

    monkeypatch.setattr(targets, "lookup", lookup)
    return asked


COMMANDS = [
    "experiment=debug",
    "experiment=party model/head=classification",
    "experiment=names data.path=x model/norm=rmsnorm model/attention=grouped_query",
    "experiment=icl_regression",
    "experiment=recall optimizer=muon",
    "experiment=sotu_mlm callbacks=early_stopping",
    "experiment=translate_en_zh data.path=x",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_config_has_the_same_identity(command: str, from_the_index: list[str]) -> None:
    found = check(compose(command))
    assert len(from_the_index) > 8
    built = {key: type(node.build()).__name__ for key, node in found.nodes.items() if key == "data"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "lookup", lambda location: None)
        live = check(compose(command))
    assert found.identity == live.identity
    assert built == {"data": type(live.nodes["data"].build()).__name__}


WRONG = {
    "model.dim": "wide",
    "model.layers": True,
    "model.norm.epss": 1,
    "model.mask": 3,
    "model.attention.scale": "inverse_root",
    "data.batch": 8,
    "data.batch.example": 8,
    "data.batch.examples": "many",
    "data.tokenizer": "bite",
    "optimizer.lr": [1],
    "optimizer.betas": [0.9],
    "trainer.logger": False,
    "trainer.precision": "17",
    "task.label_smoothing": {"a": 1},
    "model.attention.dim": 8,
}


@pytest.mark.parametrize("key", WRONG)
def test_a_mistake_is_told_in_the_same_words(key: str, from_the_index: list[str]) -> None:
    config = compose("experiment=debug")
    OmegaConf.update(config, key, WRONG[key], force_add=True, merge=False)
    with pytest.raises(InvalidConfig) as found:
        check(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "lookup", lambda location: None)
        with pytest.raises(InvalidConfig) as live:
            check(config)
    assert str(found.value) == str(live.value)


class TestTheFile:
    @pytest.fixture(autouse=True)
    def empty(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
        for kept_in_memory in (constructors._file, constructors._index):
            kept_in_memory.cache_clear()
        yield
        for kept_in_memory in (constructors._file, constructors._index):
            kept_in_memory.cache_clear()

    def file(self, tmp_path: Path) -> Path:
        (found,) = (tmp_path / "constructors").iterdir()
        return found

    def test_it_is_of_one_source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        check(compose("experiment=debug"))
        before = self.file(tmp_path).name
        constructors._file.cache_clear()
        monkeypatch.setattr(constructors, "source_hash", lambda: "another")
        assert constructors._file() is not None
        assert constructors._file() != tmp_path / "constructors" / before

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": {"parameters": {}}}'])
    def test_a_broken_one_is_made_again(self, tmp_path: Path, content: str) -> None:
        check(compose("experiment=debug"))
        file = self.file(tmp_path)
        whole = json.loads(file.read_text())
        file.write_text(content)
        constructors._index.cache_clear()
        check(compose("experiment=debug"))
        assert json.loads(file.read_text()) == whole

    def test_a_folder_that_cannot_be_written_is_no_mistake(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "constructors").write_text("a file")
        check(compose("experiment=debug"))
        assert [path.name for path in tmp_path.iterdir()] == ["constructors"]
