"""Ambiguous values in config files are refused with their key path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.config.compose import compose
from etude.config.paths import conf_dir
from etude.config.yaml_file import parse_yaml, read_yaml
from etude.errors import RequestError

SEEN = {
    "12:30": "12:30",
    "190:20:30": "190:20:30",
    "1:30.5": "1:30.5",
    "-3:10": "-3:10",
    "=": "=",
    "2001-01-01": "2001-01-01",
    "2001-01-01 10:00:00": "2001-01-01 10:00:00",
    "1.0.0": "1.0.0",
    "'010'": "010",
    "'no'": "no",
    '"12:30"': "12:30",
    "010.5": 10.5,
    "1_000": 1000,
    "1_000.5": 1000.5,
    "0x1f": 31,
    "0b11": 3,
    "+5": 5,
    "-0": 0,
    "1e3": 1000.0,
    "3e-4": 3e-4,
    ".5": 0.5,
    "5.": 5.0,
    "-.inf": float("-inf"),
    "true": True,
    "False": False,
    "~": None,
    "null": None,
    "": None,
    "inf": "inf",
    "08": "08",
    "[1:2, 3]": ["1:2", 3],
    "{12:30: 1}": {"12:30": 1},
    "${vars.x}": "${vars.x}",
    "!!str 5": "5",
}

REFUSED = ["010", "-017", "0o17", "00", "1__0", "1_", "0x1_f", "0b1_1", "1_.5", "1._5",
           "yes", "No", "ON", "off", "[a, yes]", "!!binary aGk=", "!!set {x}", "!mine 3",
           "!!python/name:os.system", "{yes: 1}", "{true: 1}", "{null: 1}", "{010: 1}",
           "{? [1, 2] : 3}", "!!timestamp 2001-01-01"]  # fmt: skip


@pytest.mark.parametrize("written", SEEN)
def test_a_value_is_what_a_reader_sees(written: str) -> None:
    found = parse_yaml(f"key: {written}", "a.yaml")["key"]
    assert (found, type(found)) == (SEEN[written], type(SEEN[written]))


@pytest.mark.parametrize("written", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(written: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_yaml(f"a: 1\nb:\n  c: {written}", "a.yaml")
    (problem,) = caught.value.problems
    assert problem.where.startswith("a.yaml, line 3")
    if not written.startswith("{?"):
        assert ": b.c" in problem.where


def test_all_are_reported_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        parse_yaml("a: 010\nb: [1, off]\nc: {d: 0o7}", "a.yaml")
    places = [problem.where for problem in caught.value.problems]
    assert places == ["a.yaml, line 1: a", "a.yaml, line 2: b[1]", "a.yaml, line 3: c.d"]


def test_merge_keys_and_aliases_stay() -> None:
    text = "x: &b {c: 1, t: 1:30}\ny:\n  <<: *b\n  d: 2\nz: *b"
    assert parse_yaml(text, "a.yaml") == {
        "x": {"c": 1, "t": "1:30"},
        "y": {"c": 1, "t": "1:30", "d": 2},
        "z": {"c": 1, "t": "1:30"},
    }


def test_shipped_files_read_as_before() -> None:
    for path in sorted(conf_dir().rglob("*.yaml")):
        before = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert repr(read_yaml(path) or {}) == repr(before), path


@pytest.fixture
def mine(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str) -> Path:
        (tmp_path / "experiment").mkdir(exist_ok=True)
        head = "# @package _global_\ndefaults: [debug, _self_]\n"
        (tmp_path / "experiment" / "mine.yaml").write_text(head + text)
        return tmp_path

    return write


def test_a_seed_of_12_30_does_not_train(mine: Callable[..., Path], etude: Any) -> None:
    folder = mine("seed: 12:30\n")
    answer = etude("train", "--cfg", "job", "experiment=mine", f"--config-dir={folder}")
    assert answer.code == 2
    assert "seed: Value '12:30' of type 'str' could not be converted to Integer" in answer.err
    with pytest.raises(RequestError, match="seed: Value '12:30'"):
        compose("experiment=mine", config_dir=folder)


def test_texts_arrive_as_written_and_the_rest_is_refused(mine: Callable[..., Path]) -> None:
    config = compose("experiment=mine", config_dir=mine("vars: {at: 12:30, n: 1_000}\n"))
    assert config.vars == {"at": "12:30", "n": 1000}
    with pytest.raises(RequestError, match=r"mine\.yaml, line 3: model\.bias = 'no'"):
        compose("experiment=mine", config_dir=mine("model: {bias: no}\n"))


def test_a_key_twice_is_refused(mine: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match=r"duplicate key seed"):
        compose("experiment=mine", config_dir=mine("seed: 1\nseed: 2\n"))


def test_another_program_s_hydra_reads_as_before(mine: Callable[..., Path]) -> None:
    import hydra

    folder = mine("seed: 12:30\n")
    compose("experiment=debug")
    with hydra.initialize_config_dir(str(folder / "experiment"), version_base="1.3"):
        (folder / "experiment" / "plain.yaml").write_text("seed: 12:30\n")
        assert hydra.compose("plain").seed == 750
