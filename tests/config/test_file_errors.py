"""Errors in a config file are reported with the file, their cause and the line to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config.compose import compose
from etude.errors import Problem, RequestError

GLOBAL = "# @package _global_\n"


def problem(folder: Path, content: str | bytes, *overrides: str) -> Problem:
    """The only problem of an experiment file with this content."""
    file = folder / "experiment" / "own.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RequestError) as caught:
        compose(["experiment=own", *overrides], config_dir=folder)
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name: a\n".encode("utf-16"), "own.yaml: expected a text file in UTF-8 (the file is UTF-"),
        (b"name: \xff\xfe\x00", "own.yaml: expected a text file in UTF-8 ('utf-8' codec can't"),
        ("name: a\0b", "own.yaml: expected valid YAML (unacceptable character #x0000"),
        ("- a\n- b\n", "own.yaml = ['a', 'b']: expected a mapping of keys to values"),
        ("dim 32", "own.yaml = 'dim 32': expected a mapping of keys to values (did you mean `dim:"),
        ("# @package a b\nname: a", "own.yaml: expected a header such as `# @package _global_`"),
        ("defaults: nano", "own.yaml: defaults = 'nano': expected a list of entries"),
        ("defaults: [3]", "own.yaml: defaults[0] = 3: expected a file, or `GROUP: FILE`"),
        ("defaults: [{a: 3}]", "own.yaml: defaults[0] = {'a': 3}: expected a file, or"),
        ("defaults: [{a: b, c: d}]", "own.yaml: defaults[0] = {'a': 'b', 'c': 'd'}: expected"),
    ],
)
def test_a_file_that_cannot_be_read(content: str | bytes, told: str, tmp_path: Path) -> None:
    found = problem(tmp_path, content)
    assert Path(found.where.partition(":")[0]) == tmp_path / "experiment" / "own.yaml"
    assert told in str(found)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "own.yaml, line 1: expected `# @package _global_` (without it, the keys of the file"),
        ("defaults: [override /model: nano]\n", "own.yaml, line 1: expected `# @package _global_`"),
        ("# @package global\nseed: 1", "line 1 = '# @package global': expected `# @package _globa"),
        (
            GLOBAL + "defaults:\n  - override model/position: rotary\n",
            "own.yaml: defaults = 'override model/position: rotary': expected `- override "
            "/model/position: rotary` (without the slash, the group is experiment/model/position)",
        ),
        (
            GLOBAL + "defaults:\n  - model/position: rotary\n",
            "expected `- /model/position: rotary` (without the slash",
        ),
        (
            GLOBAL + "defaults:\n  - /model: nano\n",
            "own.yaml: defaults = '/model: nano': expected `- override /model: nano` (another file",
        ),
        (
            GLOBAL + "defaults:\n  - override /modle: nano\n",
            "expected an existing config group (did you mean model?)",
        ),
        (
            GLOBAL + "defaults:\n  - /experiment: debug\n",
            "own.yaml: defaults = '/experiment: debug': expected `- debug` (a file of the same",
        ),
        (GLOBAL + "defaults: [own]\n", "own.yaml: expected a `defaults` list that does not lead"),
        (GLOBAL + "defaults: [debgu]\n", "refers only to existing files (did you mean debug?)"),
        (GLOBAL + "defaults: [self_]\n", "refers only to existing files (did you mean _self_?)"),
        (
            GLOBAL + "defaults:\n  - override /model/position: rotery\n",
            "refers only to existing files (did you mean rotary?)",
        ),
        (
            GLOBAL + "defaults:\n  - override /model: nano\n  - debug\n",
            "Overrides must be at the end of the defaults list",
        ),
        (
            GLOBAL + "defaults:\n  - override /model/head: mean\n",
            "own.yaml: defaults = 'override /model/head': expected a config group in a `defaults` "
            "list of the chosen model (the task needs an encoder, which has a head; to choose "
            "another model, add `- override /model: bert_base`)",
        ),
        (
            GLOBAL + "model:\n  dim 32\n",
            "own.yaml: model = 'dim 32': expected a mapping (did you mean `dim: 32`?)",
        ),
    ],
)
def test_a_file_that_hydra_cannot_compose(content: str, told: str, tmp_path: Path) -> None:
    assert told in str(problem(tmp_path, content))


@pytest.mark.parametrize("other", [b"seed: 1\nseed: 2\n", b"\xff\xfe", b"defaults: 3\n"])
def test_errors_of_files_that_are_not_chosen_are_not_reported(other: bytes, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "other.yaml").write_bytes(other)
    for content in ("defaults:\n  - override /optimizer: sgd\n", GLOBAL + "nosuch: 1\n"):
        assert problem(tmp_path, content).where.startswith("experiment/own.yaml")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "other.yaml").write_bytes(other)
    found = problem(tmp_path, GLOBAL + "defaults: [spam, _self_]\n", "model=nano")
    assert (found.where, found.value) == ("model", "nano")


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = GLOBAL + "defaults: [debug, _self_]\nname: a\n"
    (tmp_path / "experiment" / "own.yaml").write_text(text, encoding="utf-8-sig")
    assert compose("experiment=own", config_dir=tmp_path).name == "a"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("experiment=conf/experiment/debug.yaml", "use experiment=debug"),
        ("optimizer=cosine", "use schedule=cosine"),
        ("model/attention=rotary", "use model/position=rotary"),
        ("model=rotary", "use model/position=rotary"),
    ],
)
def test_hints_at_files(typed: str, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        compose([typed])
    assert caught.value.problems[0].hint == hint


def test_files_of_your_own_need_config_dir(tmp_path: Path) -> None:
    own = "to use a file of your own, add --config-dir DIR"
    for typed in ("model/attention=cosine", "model=elephant"):
        for folder in (None, tmp_path):
            with pytest.raises(RequestError) as caught:
                compose([typed], config_dir=folder)
            (found,) = caught.value.problems
            assert (own in (found.hint or "")) == (folder is None)
            assert "schedule" not in (found.hint or "")
