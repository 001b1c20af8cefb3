"""The examples of the contracts' pages can be trained; without a required member they are
reported.
"""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pages import PAGES, example

from etude.api import load_run
from etude.config.checks import check
from etude.config.compose import compose
from etude.contracts.slots import CONTRACTS
from etude.errors import RequestError

CORPUS = ["the quick brown fox jumps over the lazy dog", "and the cats ran over the quick dogs"]
GROUPS = {
    slot.replace(".*", "").replace(".", "/"): contract.name
    for slot, contract in CONTRACTS.items()
    if "kinds" not in slot and slot != "hydra.launcher"
}


@pytest.fixture
def run_overrides(
    tmp_path: Path, tiny: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., list[str]]]:
    """Function that returns the overrides of a run with a page's class."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(CORPUS * 20), encoding="utf-8")
    rows = tmp_path / "rows.csv"
    lines = (f"{'spam' if n % 3 else 'ham'},{CORPUS[n % 2]}" for n in range(60))
    rows.write_text("label,text\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def overrides(*groups: str) -> list[str]:
        small = tiny(text, tmp_path / "runs", "trainer.max_steps=3", "trainer.val_check_interval=3")
        chosen = {"model": "nano", "data": "text_files", "task": "causal_lm"}
        if "model/head" in groups:
            small += [
                f"data.path={rows}",
                "data.sequence_length=64",
                "data.tokenizer.vocab_size=300",
            ]
            chosen |= {"model": "encoder_nano", "data": "labelled_files", "task": "classification"}
        own = tuple(f"{key}." for key in ("model", "optimizer", "schedule") if key in groups)
        small = [item for item in small if not item.startswith(("experiment", *own))]
        files = [
            f"{key}={value}" for key, value in (chosen | dict.fromkeys(groups, "mine")).items()
        ]
        modules = ",".join(example(GROUPS[group]).module for group in groups)
        return ["~experiment", *small, *files, f"extensions=[{modules}]"]

    yield overrides
    for name in [name for name in sys.modules if name.startswith("page_of_")]:
        del sys.modules[name]


ALONE = {"model", "model/head"}


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param(["model"], id="model"),
        pytest.param(["model/head"], id="head"),
        pytest.param([group for group in GROUPS if group not in ALONE], id="all others together"),
        *(
            pytest.param([group], id=group, marks=pytest.mark.slow)
            for group in GROUPS
            if group not in ALONE
        ),
    ],
)
def test_its_example_is_trained(
    groups: list[str], run_overrides: Callable, etude: Callable, tmp_path: Path
) -> None:
    for group in groups:
        example(GROUPS[group]).write(tmp_path, group)
    answer = etude("train", f"--config-dir={tmp_path / 'conf'}", *run_overrides(*groups))
    assert answer.code == 0, answer.err
    assert "finished" in answer.out
    (record,) = (tmp_path / "runs" / "tiny").iterdir()
    if "task" not in groups and "model/head" not in groups:
        assert (
            f"--trust {' '.join(example(GROUPS[group]).module for group in groups)}" in answer.out
        )
    run = load_run(record, trust=[example(GROUPS[group]).module for group in groups])
    assert all(math.isfinite(value) for value in run.evaluate().values())
    if not set(groups) & ALONE:
        assert run.model().generate("the", max_new_tokens=4).startswith("the")
        module = run.model().module
        tokens = torch.arange(6)[None]
        cache = module.new_cache(1, 6)
        with torch.no_grad():
            steps = [module(tokens[:, i : i + 1], cache) for i in range(6)]
            torch.testing.assert_close(torch.cat(steps, 1), module(tokens))


def without(code: str, kind: str, member: str) -> str:
    """Returns the code without one member of a class, or without the statement that sets it."""
    tree = ast.parse(code)
    (found,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind]
    found.body = [
        item
        for item in found.body
        if getattr(item, "name", None) != member
        and not (isinstance(item, ast.Assign) and item.targets[0].id == member)
    ]
    for method in found.body:
        if isinstance(method, ast.FunctionDef):
            method.body = [
                line
                for line in method.body
                if not (
                    isinstance(line, ast.Assign)
                    and isinstance(line.targets[0], ast.Attribute)
                    and line.targets[0].attr == member
                )
            ]
    return ast.unparse(tree)


NEEDED = [
    ("model", "max_length"),
    ("model", "mask"),
    ("model", "forward"),
    ("model/norm", "forward"),
    ("model/feedforward", "forward"),
    ("model/block", "final_norm"),
    ("model/block", "forward"),
    ("model/head", "gives"),
    ("model/head", "forward"),
    ("model/initialise", "__call__"),
    ("data", "documents"),
    ("data", "content_fingerprint"),
    ("data", "split_settings"),
    ("data", "check"),
    ("data/tokenizer", "train"),
    ("optimizer", "__call__"),
    ("schedule", "__call__"),
]


@pytest.mark.parametrize(("group", "member"), NEEDED)
def test_a_missing_member_is_reported_before_anything_is_built(
    group: str, member: str, run_overrides: Callable, tmp_path: Path
) -> None:
    page = example(GROUPS[group])
    code = without(page.code, page.kind, member)
    assert code != ast.unparse(ast.parse(page.code))
    page.write(tmp_path, group, code)
    config = compose(run_overrides(group), config_dir=tmp_path / "conf")
    with pytest.raises(RequestError) as error:
        check(config)
    (problem,) = error.value.problems
    assert problem.where == f"{group.replace('/', '.')}._target_"
    assert problem.value == f"{page.module}.{page.kind}"
    assert member in problem.expected.replace("(", " ").replace(":", " ").split()
    assert problem.hint == f"see docs/contracts/{page.name}.md"


def test_every_contract_has_a_page_that_names_its_members() -> None:
    for contract in CONTRACTS.values():
        text = (PAGES / f"{contract.name}.md").read_text(encoding="utf-8")
        assert f"etude.contracts.{contract.protocol.__module__.rpartition('.')[2]}." in text
        for name in (*contract.arguments, *contract.methods, *contract.attributes):
            assert f"`{name}" in text, (contract.name, name)
    pages = {file.stem for file in PAGES.glob("*.md")} - {"README"}
    assert pages == {contract.name for contract in CONTRACTS.values()}
    listed = (PAGES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.md)" in listed for name in pages)


@pytest.mark.parametrize(
    ("group", "own", "wrong", "message"),
    [
        (
            "optimizer",
            "return torch.optim.RMSprop",
            "torch.optim.RMSprop",
            "the instance returns NoneType",
        ),
        ("schedule", "return self.factor", "self.factor", "NoneType at step 0 of 3"),
        ("schedule", "return self.factor", "return True or self.factor", "bool at step 0 of 3"),
        ("schedule", "return self.factor", "return 1 / (step - 2) + self.factor", "ZeroDivision"),
        ("schedule", "return self.factor", "return float('inf') * self.factor", "inf at step 0"),
    ],
)
def test_a_wrong_result_is_reported_before_there_is_a_record(
    group: str,
    own: str,
    wrong: str,
    message: str,
    run_overrides: Callable,
    etude: Callable,
    tmp_path: Path,
) -> None:
    page = example(GROUPS[group])
    assert own in page.code
    page.write(tmp_path, group, page.code.replace(own, wrong))
    answer = etude("train", f"--config-dir={tmp_path / 'conf'}", *run_overrides(group))
    assert answer.code == 2, answer.out
    assert f"{group}._target_ = '{page.module}.{page.kind}': expected a class whose" in answer.err
    assert message in answer.err
    assert f"see docs/contracts/{group}.md" in answer.err
    assert not list((tmp_path / "runs").glob("tiny/*"))
