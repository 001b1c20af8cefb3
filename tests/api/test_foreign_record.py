"""An untrusted record is only data: none of its code runs, and errors are reported at once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import etude
from etude.config.compose import compose, plain_yaml
from etude.errors import RequestError
from etude.records.config_file import read_config
from etude.records.record import FORMAT

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(9 * [f'*{old}'])}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record with the config of `experiment=debug`."""
    (tmp_path / "run.json").write_text(json.dumps({"format": FORMAT, "status": "finished"}))
    (tmp_path / "config.yaml").write_text(plain_yaml(compose(["experiment=debug"])))
    return tmp_path


def change(record: Path, key: str, value: object) -> None:
    config = OmegaConf.load(record / "config.yaml")
    OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, record / "config.yaml")


def test_the_config_that_was_written_is_read_back(record: Path) -> None:
    found = OmegaConf.to_container(read_config(record / "config.yaml"), resolve=False)
    assert found == OmegaConf.to_container(compose(["experiment=debug"]), resolve=False)
    assert etude.load_run(record).checked.name == "debug"


def test_an_alias_bomb_is_refused_at_once(record: Path) -> None:
    (record / "config.yaml").write_text(BOMB)
    began = time.process_time()
    with pytest.raises(RequestError, match="YAML without aliases"):
        etude.load_run(record)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['true']\n",
        "model: [1,\n",
        "- a list\n",
        "just text\n",
        "seed: many\n",
        "modle: {}\n",
        "run: {wiat: true}\n",
    ],
)
def test_a_config_that_is_none_is_refused(record: Path, text: str) -> None:
    (record / "config.yaml").write_text(text)
    with pytest.raises(RequestError) as refused:
        etude.load_run(record)
    assert str(record / "config.yaml") in str(refused.value)


def test_a_record_without_a_config(record: Path) -> None:
    (record / "config.yaml").unlink()
    with pytest.raises(RequestError, match="the config of a run"):
        etude.load_run(record)


def test_keys_that_were_not_known_when_it_was_written_have_their_defaults(record: Path) -> None:
    config = OmegaConf.load(record / "config.yaml")
    for key in ("vars", "callbacks", "extensions"):
        del config[key]
    del config.run["keep_every"]
    OmegaConf.save(config, record / "config.yaml")
    checked = etude.load_run(record).checked
    assert (checked.run.keep_every, checked.callbacks) == (None, {})


def test_nothing_that_it_names_is_imported_unless_trusted(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "foreign_parts.py").write_text(
        "from etude.nn.norm import RMSNorm\n\n\nclass Theirs(RMSNorm):\n    pass\n"
    )
    monkeypatch.syspath_prepend(modules)
    change(record, "model.norm._target_", "foreign_parts.Theirs")
    change(record, "extensions", ["foreign_parts"])
    with pytest.raises(RequestError, match=r"model\.norm\._target_ = 'foreign_parts\.Theirs'"):
        etude.load_run(record)
    assert "foreign_parts" not in sys.modules
    trusted = etude.load_run(record, trust=["foreign_parts"])
    norm = trusted.checked.nodes["model"].arguments["norm"]
    assert norm.constructor.__name__ == "Theirs"
    sys.modules.pop("foreign_parts")


def test_it_cannot_have_a_function_called(record: Path) -> None:
    precious = record / "precious"
    precious.mkdir()
    node = {"_target_": "etude.records.files.remove_folder", "folder": str(precious)}
    change(record, "optimizer.lr", node)
    with pytest.raises(RequestError, match=r"optimizer\.lr\._target_"):
        etude.load_run(record)
    assert precious.is_dir()


def test_it_cannot_read_the_environment(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "secret7")
    change(record, "name", "${oc.env:TOKEN_OF_MINE}")
    with pytest.raises(RequestError) as refused:
        etude.load_run(record)
    assert "secret7" not in str(refused.value)
