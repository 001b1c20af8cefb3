"""Which classes a config may name in which slot: tests every class of the package in every slot."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import etude
from etude.config import targets
from etude.config.nodes import check_node
from etude.config.table import FILE, Table, generate, table
from etude.errors import RequestError

PACKAGE = Path(etude.__file__).parent


def classes_of_the_source() -> Iterator[str]:
    """Returns the dotted paths of all classes in the package, without importing them."""
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("etude", *file.relative_to(PACKAGE).with_suffix("").parts))
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        yield from (f"{module.removesuffix('.__init__')}.{name}" for name in names)


CLASSES = sorted(set(classes_of_the_source()))
PLACES = [slot.replace("*", "some") for slot in table().slots]
NO_SLOTS = ["optimizer.lr", "model.dropout", "model.norm.eps", "data.batch", "data.tokenizer.path"]


def test_the_file_is_what_make_targets_writes() -> None:
    assert len(CLASSES) > 200
    present = json.loads(FILE.read_text(encoding="utf-8"))
    assert generate(present) == present, "run `make targets`"


def test_a_new_class_enters_the_table_and_an_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    (conf / "data").mkdir(parents=True)
    (conf / "train.yaml").write_text("defaults: []\n")
    (conf / "data" / "new.yaml").write_text(
        "_target_: etude.data.new.New\nsources: {a: {_target_: etude.data.other.Other}}\n"
    )
    monkeypatch.setattr("etude.config.table.conf_dir", lambda: conf)
    before = {"slots": {"data": ["etude.data.old.Old"]}, "factories": [], "moved": {}}
    slots = generate(before)["slots"]
    assert slots["data"] == ["etude.data.new.New", "etude.data.old.Old"]
    assert "etude.data.other.Other" in slots["data.sources.*"]


@pytest.mark.parametrize("where", PLACES + NO_SLOTS)
def test_every_class_in_every_slot(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each class is allowed in a slot, or refused before any import."""

    def imported(location: str, target: str, _: str) -> str:
        return target

    monkeypatch.setattr(targets, "_import", imported)
    monkeypatch.setattr(targets, "nearest", lambda *_: None)  # slow, and only words
    slot = table().slot(where)
    belong = table().slots[slot] if slot else frozenset()
    accepted, wrong = set(), set()
    for target in (*CLASSES, *table().everything()):
        try:
            accepted.add(targets.resolve_class(target, where))
        except RequestError as refused:
            wrong.update(problem.where for problem in refused.problems)
    assert accepted == belong
    assert wrong == {f"{where}._target_"}


@pytest.mark.parametrize("identifier", sorted(table().everything()))
def test_each_identifier_is_a_class_that_knows_its_identifier(identifier: str) -> None:
    module, _, name = table().location(identifier).rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    assert isinstance(kind, type)
    if identifier.startswith("etude."):
        assert table().identifier(kind) == identifier


BASES = {
    "model.position": ("etude.nn.position.Position", set()),
    "model.mask": ("etude.nn.mask.Mask", set()),
    "model.block": ("etude.nn.block.Block", set()),
    "model.head": ("etude.models.heads.Head", {"etude.models.heads.LinearHead"}),
    "model.attention": ("etude.nn.attention.MultiHeadAttention", set()),
    "optimizer": ("etude.optim.recipe.OptimizerRecipe", set()),
    "schedule": ("etude.optim.schedules.Schedule", {"etude.training.range_test.RisingSchedule"}),
    "task": (
        "etude.tasks.base.Task",
        {"etude.tasks.token_task.TokenTask", "etude.tasks.translation.TargetTask"},
    ),
    "logger.*": ("etude.loggers.base.Logger", set()),
    "data.tokenizer": ("etude.data.tokenizer.Recipe", {"etude.data.tokenizer.WithSpecial"}),
}
"""The base of a slot's classes, and those derived from it that are no choice of a config."""


@pytest.mark.parametrize("slot", BASES)
def test_no_shipped_class_of_a_slot_is_missing(slot: str) -> None:
    base_name, others = BASES[slot]
    for target in CLASSES:
        importlib.import_module(target.rpartition(".")[0])
    module, _, name = base_name.rpartition(".")
    base = getattr(importlib.import_module(module), name)
    waiting, derived = [base], set()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        identifier = f"{kind.__module__}.{kind.__qualname__}"
        if identifier in CLASSES and not kind.__name__.startswith("_"):
            derived.add(identifier)
    in_table = table().slots[slot]
    assert derived - others - {base_name} == in_table - {base_name}


def test_a_class_that_moved_keeps_its_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    first, now = "etude.nn.old_place.RMSNorm", "etude.nn.norm.RMSNorm"
    moved = Table({"model.norm": frozenset({first})}, frozenset({"model.norm"}), {first: now})
    monkeypatch.setattr(targets, "table", lambda: moved)
    from etude.nn.norm import RMSNorm

    assert targets.resolve_class(first, "model.norm") is RMSNorm
    assert moved.identifier(RMSNorm) == first
    with pytest.raises(RequestError, match=first):  # one name, one signature
        targets.resolve_class(now, "model.norm")


def test_the_class_that_was_meant_is_named() -> None:
    for target in ("etude.nn.norm.RMSNorn", "etude.nn.RMSNorm", "etude.norms.RMSNorm"):
        with pytest.raises(RequestError, match=r"did you mean etude\.nn\.norm\.RMSNorm"):
            targets.resolve_class(target, "model.norm")


@pytest.mark.parametrize(
    ("where", "node"),
    [
        ("model.norm", {"_target_": "etude.nn.norm.RMSNorm"}),
        ("optimizer", {"_target_": "etude.optim.adamw.AdamW", "_partial_": True, "lr": 1e-3}),
    ],
)
def test_what_is_a_factory_and_what_is_not_is_fixed(where: str, node: dict[str, object]) -> None:
    _, (problem,) = check_node(where, node, [])
    assert problem.where == f"{where}._partial_"


def test_a_class_of_ones_own_may_take_any_shipped_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twice_of_mine.py").write_text(
        "from torch import nn\n"
        "class Twice(nn.Module):\n"
        "    def __init__(self, dim, bias, first=None, second=None): ...\n"
        "    def forward(self, x): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    norm = {"_target_": "etude.nn.norm.RMSNorm", "_partial_": True}
    node, problems = check_node(
        "model.norm",
        {"_target_": "twice_of_mine.Twice", "_partial_": True, "first": norm},
        ["twice_of_mine"],
    )
    assert problems == []
    assert node.arguments["first"].target == "etude.nn.norm.RMSNorm"
    inner = {"_target_": "etude.data.columns.ColumnWriter", "path": "x"}
    _, (problem,) = check_node(
        "model.norm",
        {"_target_": "twice_of_mine.Twice", "_partial_": True, "second": inner},
        ["twice_of_mine"],
    )
    assert problem.where == "model.norm.second._target_"


@pytest.mark.parametrize("named", ["etude", "etude.data"])
def test_trust_in_the_package_itself_opens_nothing(named: str) -> None:
    target = "etude.data.columns.ColumnWriter"
    with pytest.raises(RequestError):
        targets.resolve_class(target, "model.initialise", [named])
