"""Data loaders inherit the options of their base, declare their own, and report all mistakes."""

from __future__ import annotations

import importlib
import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from etude.config.constructors import describe_class
from etude.config.table import table
from etude.data.examples.labelled import LabelledFiles
from etude.data.hub_text import HubText
from etude.data.sotu import Sotu
from etude.data.synthetic.sequences import Sort
from etude.data.text import Batch, TextData
from etude.data.tokenizer import Char
from etude.errors import InvalidArguments


def test_a_loader_adds_options_to_those_it_inherits() -> None:
    names = {field.name for field in fields(Sotu)}
    assert {"first_year", "without", "tokenizer", "sequence_length", "workers"} <= names
    told = describe_class(Sotu).parameters
    assert told["batch"].hint is Batch  # of another module, whose names sotu.py need not know
    assert told["order"].hint == Literal["windows", "epochs"]
    assert told["last_year"].hint == int | None
    assert "section_names" not in told  # no argument


def test_annotations_of_a_constructor_that_is_written_out() -> None:
    """`HubText` has an argument with the name of a method, and inherits from a dataclass."""
    told = describe_class(HubText).parameters
    assert told["documents"].hint == int | None
    assert told["batch"].hint is Batch
    assert told["documents"].default is None


class Undecorated(Sotu):
    """Adds no options."""


def test_a_subclass_without_options_of_its_own() -> None:
    assert describe_class(Undecorated).parameters == describe_class(Sotu).parameters
    made = Undecorated(tokenizer=Char(), sequence_length=8, batch=Batch(examples=1))
    assert (made.first_year, made.workers) == (1790, 0)
    # Compared by identity, so that they can be keys.
    again = Undecorated(tokenizer=made.tokenizer, sequence_length=8, batch=made.batch)
    assert made != again
    assert {made: 1}[made] == 1


@pytest.mark.parametrize(
    ("kind", "given", "wrong"),
    [
        (Sotu, {"held_out_from": 1700, "workers": -1}, {"held_out_from", "workers"}),
        (LabelledFiles, {"path": "", "labels": ["a"], "fraction": 2.0},
         {"path", "labels", "fraction"}),
        (HubText, {"name": "a/b", "documents": 0, "order": "any"}, {"documents", "order"}),
    ],
)  # fmt: skip
def test_mistakes_in_all_options_are_reported_at_once(
    kind: Any, given: dict[str, Any], wrong: set[str]
) -> None:
    usual = {"tokenizer": Char(), "sequence_length": 8, "batch": Batch(examples=1)}
    with pytest.raises(InvalidArguments) as caught:
        kind(**usual | given)
    assert {problem.where for problem in caught.value.problems} == wrong


def test_a_rule_says_its_size_before_the_splits_are_counted() -> None:
    made = Sort(batch=Batch(examples=1), length=3, numbers=2, sequence_length=5)
    assert (made.size, made.validation_size, made.training_size) == (8, 2, 6)
    with pytest.raises(InvalidArguments) as caught:
        Sort(batch=Batch(examples=1), length=99, numbers=2, sequence_length=5, data_seed=-1)
    assert {"length", "data_seed"} <= {problem.where for problem in caught.value.problems}


def test_labels_are_those_stated_until_all_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\nc,x\nd,y\n")
    usual = {"tokenizer": Char(), "sequence_length": 8, "batch": Batch(examples=1)}
    made = LabelledFiles(path=str(tmp_path / "a.csv"), **usual)  # type: ignore[arg-type]
    assert made.labels is None
    assert made.settings()["labels"] is None
    made.labels = ["x", "y"]  # as `prepare` does; what decides the examples stays as stated
    assert made.settings()["labels"] is None


def test_loaders_can_be_sent_to_another_process() -> None:
    made = Sort(batch=Batch(examples=1), length=3, numbers=2, sequence_length=5)
    again = pickle.loads(pickle.dumps(made))
    assert (again.size, again.batch) == (made.size, made.batch)
    assert again.training_size == made.training_size


@dataclass(kw_only=True, eq=False)
class Own(Sotu):
    """A user's, with one option more."""

    spelling: Literal["old", "new"] = "old"


def test_of_a_user() -> None:
    told = describe_class(Own).parameters
    assert told["spelling"].hint == Literal["old", "new"]
    assert told["tokenizer"].hint is describe_class(TextData).parameters["tokenizer"].hint


def test_no_shipped_loader_collects_arguments_unseen() -> None:
    for location in table().slots["data"]:
        module, name = location.rsplit(".", 1)
        told = describe_class(getattr(importlib.import_module(module), name))
        assert not told.open_ended
        assert all(p.hint is not Any for p in told.parameters.values()), location
