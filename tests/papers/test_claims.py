"""Schema of paper files: each error is reported with its key path."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from etude.config.paths import conf_dir
from etude.errors import RequestError
from etude.papers import claims
from etude.papers.runs import paper_runs

PAPER: dict[str, Any] = {
    "title": "A title",
    "claim": "Something holds",
    "citation": "Somebody (2017)",
    "link": "https://example.org",
    "tier": "cpu",
    "cost": "a second",
    "seeds": [0, 1, 2],
    "measure": {
        "_target_": "etude.papers.attention_scale.AttentionScale",
        "widths": [1, 16],
        "heads": 1,
        "queries": 2,
        "keys": 4,
    },
    "cells": [
        {
            "key": "variance/16",
            "says": "the variance",
            "published": 16,
            "read": "section 3",
            "tolerance": {"relative": 0.05},
            "because": "sampling",
            "control": "scaled",
        }
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """`PAPER` with one value replaced, at a path such as `cells.0.key`; None deletes the key."""
    paper = yaml.safe_load(yaml.safe_dump(PAPER))
    *parents, last = path.split(".")
    node = paper
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return paper


def read(folder: Path, content: dict[str, Any]) -> claims.Paper:
    path = folder / "fixture.yaml"
    path.write_text(yaml.safe_dump(content))
    return claims.read(path)


def test_a_paper_is_read_with_the_values_of_its_file(tmp_path: Path) -> None:
    paper = read(tmp_path, PAPER)
    assert paper.seeds == [0, 1, 2]
    assert paper.cells[0].published == 16
    assert paper.cells[0].tolerance == claims.Tolerance(relative=0.05)
    assert paper.cells[0].unit == ""


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("clain", "x", "fixture.yaml: clain"),
        ("cells.0.publishd", 16, "cells[0].publishd = 16: expected a supported key"),
        ("cells.0.tolerance.relativ", 0.1, "did you mean relative?"),
        ("cells.0.read", None, "cells[0].read: expected a value (the key is required)"),
        ("cells.0.published", "about 16", "cells[0].published = 'about 16'"),
        ("cells.0.published", float("nan"), "cells[0].published"),
        ("cells.0.tolerance", {"relative": 0.1, "above": 3}, "the keys relative, absolute, above"),
        ("cells.0.tolerance", {}, "the keys relative, absolute, above"),
        ("cells.0.tolerance", {"relative": float("inf")}, "cells[0].tolerance.relative"),
        ("cells.0.tolerance", {"absolute": -1}, "cells[0].tolerance.absolute = -1"),
        ("cells.0.tolerance", {"above": 3}, "null (the tolerance is a bound"),
        ("seeds", [0, 0], "seeds = [0, 0]: expected at least one seed, without duplicates"),
        ("cells", [], "cells = []: expected at least one value of the paper's table, each"),
        ("tier", "laptop", "tier = 'laptop'"),
    ],
)
def test_a_mistake_is_refused_by_its_key_path(
    tmp_path: Path, path: str, value: Any, told: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        read(tmp_path, changed(path, value))
    assert told in str(refusal.value)
    assert str(refusal.value).startswith(f"{tmp_path}/fixture.yaml: ")


def test_a_band_needs_a_published_number(tmp_path: Path) -> None:
    paper = changed("cells.0.published", 1)
    paper["cells"][0]["published"] = None
    with pytest.raises(RequestError, match=r"cells\[0\]\.published = None: expected a number"):
        read(tmp_path, paper)


@pytest.mark.parametrize("text", ["title: [", "title: a\ntitle: b", "title: &a [*a"])
def test_what_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "fixture.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"fixture.yaml, line \d: expected valid YAML"):
        claims.read(tmp_path / "fixture.yaml")


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    paper = changed("clain", "x")
    paper["cells"][0]["publishd"] = 1
    with pytest.raises(RequestError) as refusal:
        read(tmp_path, paper)
    assert len(refusal.value.problems) == 2


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("hedas", 2, "measure.hedas = 2: expected an argument of AttentionScale"),
        ("heads", "many", "measure.heads = 'many': expected an integer"),
        ("_target_", "os.path.join", "measure._target_"),
    ],
)
def test_the_settings_are_closed_by_the_constructor_that_they_name(
    tmp_path: Path, key: str, value: Any, told: str
) -> None:
    paper = read(tmp_path, changed(f"measure.{key}", value))
    with pytest.raises(RequestError) as refusal:
        claims.measurement_node("fixture", paper)
    assert f"conf/paper/fixture.yaml: {told}" in str(refusal.value)


def test_every_shipped_paper_is_whole() -> None:
    assert claims.paper_names()
    for name in claims.paper_names():
        paper = claims.load(name)
        assert claims.measurement_node(name, paper).build()
        assert len(paper.seeds) >= 3 or paper.tier != "cpu"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("atention_scale", "attention_scale"),
        ("../train", "lists all papers"),
        ("", "lists all papers"),
    ],
)
def test_an_unknown_paper_is_refused_and_told_where_the_ready_ones_are(
    name: str, told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        claims.load(name)


@pytest.mark.parametrize("content", [b"title: \xe9\n", b"", b"hello", b"[1, 2]"])
def test_what_is_no_paper_at_all(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(RequestError) as told:
        claims.read(file)
    assert f"{tmp_path}/mine.yaml" in str(told.value)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("seeds: [0, 1, 2]", "seeds: [true, false]", "seeds[0]"),
        ("seeds: [0, 1, 2]", "seeds: ['0', '1']", "seeds[0]"),
        ("seeds: [0, 1, 2]", "seeds: [-1]", "seeds[0]"),
        ("published: 16\n", "published: true\n", "cells[0].published"),
        ("published: 16\n", "published: 0\n", "cells[0]"),
        ("control: the same with the scale, whose variance is 1\n", "control: ''\n", "control"),
    ],
)
def test_values_that_only_look_right(tmp_path: Path, old: str, new: str, where: str) -> None:
    text = (conf_dir() / "paper" / "attention_scale.yaml").read_text()
    assert old in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(RequestError) as told:
        claims.read(file)
    assert where in str(told.value)


def test_what_the_measurement_refuses_is_told_by_its_file() -> None:
    paper = claims.load("attention_scale")
    bad = replace(paper, measure={**paper.measure, "heads": 0})
    with pytest.raises(RequestError, match=r"conf/paper/attention_scale.yaml: measure.heads"):
        claims.build_measurement("attention_scale", bad)


def test_what_is_compared_and_read_must_be_there() -> None:
    paper = claims.load("sort")
    cells = [replace(paper.cells[0], key="exakt")]
    with pytest.raises(RequestError, match=r"sort.yaml: cells\[0\].key = 'exakt'.*mean exact"):
        claims.build_measurement("sort", replace(paper, cells=cells))
    runs = {"sortd": paper.runs["sorted"], "untrained": paper.runs["untrained"]}
    with pytest.raises(RequestError, match=r"sort.yaml: measure = 'sorted'.*mean sortd"):
        claims.build_measurement("sort", replace(paper, runs=runs))


def test_the_paper_of_the_guide_is_one(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (found,) = re.findall(r"```yaml\n(   title: Copying\n.*?)```", guide, re.DOTALL)
    file = tmp_path / "copying.yaml"
    file.write_text(textwrap.dedent(found))
    paper = claims.read(file)
    assert claims.build_measurement("copying", paper).cells == {"exact"}
    for arm in paper_runs("copying", paper, tmp_path):
        assert arm.folder() is not None


@pytest.mark.parametrize("name", claims.paper_names())
def test_every_paper_fits_what_measures_it(name: str) -> None:
    paper = claims.load(name)
    built = claims.build_measurement(name, paper)
    assert getattr(built, "arms", set()) <= set(paper.runs)
