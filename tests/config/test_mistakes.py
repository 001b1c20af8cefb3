"""Errors in a request are reported by key, with the nearest valid choice, all at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from etude.config.checks import CheckedConfig, check
from etude.config.compose import compose, plain_yaml
from etude.config.nodes import check_node
from etude.errors import Problem, RequestError
from etude.training.build import build_parts, check_all


def checked(*overrides: str, config_dir: Path | None = None) -> CheckedConfig:
    return check(compose(["experiment=debug", *overrides], config_dir=config_dir))


def problems(*overrides: str, config_dir: Path | None = None) -> list[Problem]:
    with pytest.raises(RequestError) as refused:
        checked(*overrides, config_dir=config_dir)
    return refused.value.problems


@pytest.mark.parametrize(
    ("typed", "where", "hint"),
    [
        ("modle=nano", "modle", "did you mean model?"),
        ("sede=3", "sede", "did you mean seed?"),
        ("+sede=3", "sede", "did you mean seed?"),
        ("model=nanno", "model", "did you mean nano?"),
        ("model/positon=rotary", "model/positon", "did you mean model/position?"),
        ("model/position=rotry", "model/position", "did you mean rotary?"),
        ("model.hedas=2", "model.hedas", "did you mean heads?"),
        ("model.attention.kv_haeds=1", "model.attention.kv_haeds", "did you mean kv_heads?"),
        ("data.batch.exmples=3", "data.batch.exmples", "did you mean examples?"),
        ("data.tokenizer.vocab=9", "data.tokenizer.vocab", None),
        ("trainer.max_step=3", "trainer.max_step", "did you mean max_steps?"),
        (
            "trainer.logger=true",
            "trainer.logger",
            "Étude writes the metrics itself; to add loggers, set logger=...",
        ),
        ("run.wiat=true", "run.wiat", "did you mean wait?"),
        ("+run.wiat=true", "run.wiat", "did you mean wait?"),
        ("init_from.freze=body", "init_from.freze", "did you mean freeze?"),
        ("+init_from.freze=body", "init_from.freze", "did you mean freeze?"),
        ("init_from.lora.rnk=2", "init_from.lora.rnk", "did you mean rank?"),
        ("++init_from.lora.rnk=2", "init_from.lora.rnk", "did you mean rank?"),
        (
            "model.position=rotary",
            "model.position",
            "to choose the file rotary.yaml, use model/position=rotary",
        ),
        ("run.on_existing=agian", "run.on_existing", "did you mean again?"),
        ("optimizer._target_=SGD", "optimizer._target_", "did you mean etude.optim.sgd.SGD?"),
        ("compile=true", "compile", "did you mean trainer.compile?"),
        ("+compile=true", "compile", "did you mean trainer.compile?"),
        ("lr=1e-3", "lr", "did you mean optimizer.lr?"),
        ("warmup_steps=5", "warmup_steps", "did you mean schedule.warmup_steps?"),
        ("trainer.accelerator=gpus", "trainer.accelerator", "did you mean gpu?"),
    ],
)
def test_a_misspelt_word(typed: str, where: str, hint: str | None) -> None:
    (problem,) = problems(typed)
    assert (problem.where, problem.hint) == (where, hint)


_FILLED_IN = "no value (the key is set automatically)"


@pytest.mark.parametrize(
    ("typed", "where", "expected"),
    [
        ("model.layers=two", "model.layers", "an integer"),
        ("model.layers=2.5", "model.layers", "an integer"),
        ("optimizer.lr=abc", "optimizer.lr", "a number"),
        ("optimizer.betas=[0.9]", "optimizer.betas", "a list of 2 values: a number, a number"),
        ("data.order=sorted", "data.order", "one of windows, epochs"),
        ("model.bias=perhaps", "model.bias", "true or false"),
        ("trainer.deterministic=foo", "trainer.deterministic", "true or false or warn or null"),
        ("trainer.profiler=fast", "trainer.profiler", "one of simple, advanced, pytorch or null"),
        ("seed=one", "seed", "an integer"),
        ("seed=-1", "seed", "an integer from 0 to 2**63 - 1"),
        (
            "name=_hidden",
            "name",
            "a name that begins with a letter or digit and does not end with a space",
        ),
        (
            "name=-x",
            "name",
            "a name that begins with a letter or digit and does not end with a space",
        ),
        ("name='a*b'", "name", "a name without any of the characters *"),
        ("run.root=''", "run.root", "a folder in which runs can be saved"),
        ("name=a/b", "name", "the name of a single folder, without /, \\ and ~"),
        ("run.stop_at_step=0", "run.stop_at_step", "a positive number of steps or null"),
        (
            "init_from.checkpoint=9",
            "init_from.checkpoint",
            "no value, as init_from.source is not set "
            "(to load initial weights, set init_from.source=SOURCE)",
        ),
        (
            "init_from.head=new",
            "init_from.head",
            "no value, as init_from.source is not set "
            "(to load initial weights, set init_from.source=SOURCE)",
        ),
        ("init_from.lora=8", "init_from.lora", "a mapping of settings"),
        ("run=3", "run", "a mapping of settings"),
        ("init_from.lora.rank=2.5", "init_from.lora.rank", "an integer"),
        ("run.save_every=often", "run.save_every", "an integer or null"),
        (
            "model.attention.heads=2",
            "model.attention.heads",
            "no value (the model sets this argument; to change it, set model.heads)",
        ),
        ("model.dim=1,2", "model.dim=1,2", "one value"),
        ("callbacks.stop=5", "callbacks.stop", "a mapping with the key _target_"),
        ("model.dim=${data.lenght}", "model.dim", "an interpolation that can be resolved"),
        # items and interpolations that OmegaConf does not check
        ("init_from.freeze={a:b}", "init_from.freeze", "a list in which each item is a string"),
        ("init_from.freeze=[[a]]", "init_from.freeze", "a list in which each item is a string"),
        (
            "init_from.lora.targets=[{a:1}]",
            "init_from.lora.targets",
            "a list in which each item is a string",
        ),
        ("run.tags=[{a:1}]", "run.tags", "a list in which each item is a string"),
        ("run.tags=${name}", "run.tags", "a list in which each item is a string"),
        ("extensions=[[a]]", "extensions", "a list in which each item is a string"),
        ("extensions=${name}", "extensions", "a list in which each item is a string"),
        ("init_from.lora=${seed}", "init_from.lora", "a mapping of settings"),
        ("run.root=???", "run.root", "a value (set run.root=...)"),
        ("run.tags=[a,???]", "run.tags", "a value (set run.tags=...)"),
        ("run.overrides=[a]", "run.overrides", _FILLED_IN),
        ("++run.choices.model=nano", "run.choices", _FILLED_IN),
        ("++init_from.found.run=x", "init_from.found", _FILLED_IN),
    ],
)
def test_a_value_that_cannot_be(typed: str, where: str, expected: str) -> None:
    (problem,) = problems(typed)
    told = f"{problem.expected} ({problem.hint})" if " (" in expected else problem.expected
    assert (problem.where, told) == (where, expected)


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        ("run: {tags: {a: 1}}", "run.tags", "a list in which each item is a string"),
        ("run: [1]", "run", "a mapping of settings"),
        ("init_from: 3", "init_from", "a mapping of settings"),
        ("init_from: {lora: [1]}", "init_from.lora", "a mapping of settings"),
        ("extensions: {a: b}", "extensions", "a list in which each item is a string"),
        ("name: [a]", "name", "a string"),
        ("callbacks: [a]", "callbacks", "a mapping"),
        ("model: 3", "model", "a mapping"),
    ],
)
def test_a_file_that_does_not_fit_the_schema(
    text: str, where: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    head = "# @package _global_\ndefaults: [/experiment/debug, _self_]\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{head}{text}\n")
    (problem,) = problems("experiment=mine", config_dir=tmp_path)
    assert (problem.where, problem.expected) == (f"experiment/mine.yaml: {where}", expected)


def test_options_of_a_source_are_checked_before_it_is_read() -> None:
    (problem,) = problems("init_from=nosuch", "init_from.checkpoint=${vars}")
    assert problem.where == "init_from.checkpoint"
    (problem,) = problems("init_from=nosuch", "+init_from.chekpoint=best")
    assert problem.hint == "did you mean checkpoint?"


@pytest.mark.parametrize("key", ["run.root", "run.cache", "run.notes", "vars.x"])
def test_null_characters_in_a_file(key: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    node, name = key.split(".")
    head = "# @package _global_\ndefaults: [/experiment/debug, _self_]\n"
    text = f'{head}{node}:\n  {name}: "a\\0b"\n'
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    (problem,) = problems("experiment=mine", config_dir=tmp_path)
    assert (problem.where, problem.expected) == (key, "a string without null characters")


def test_a_mapping_in_place_of_a_part_lacks_its_settings() -> None:
    found = problems("init_from.lora=${vars}", "++vars.rnk=2")
    keys = ["rnk", "rank", "alpha", "dropout", "targets"]
    assert [problem.where for problem in found] == [f"init_from.lora.{key}" for key in keys]


def test_mistakes_of_all_kinds_are_told_together() -> None:
    typed = ["model.hedas=2", "optimizer.lr=abc", "trainer.logger=true", "+run.wiat=1"]
    found = problems(*typed, "run.tags=[[a]]")
    assert {problem.where for problem in found} == {
        "run.wiat",
        "run.tags",
        "model.hedas",
        "optimizer.lr",
        "trainer.logger",
    }


def test_behind_a_file_that_is_not_there_nothing_is_guessed() -> None:
    """`data.path` may be valid for the intended file."""
    found = problems("data=text_flies", "data.path=x.txt", "modle=nano")
    assert {problem.where for problem in found} == {"data", "modle"}


def test_what_constructors_refuse_is_told_together() -> None:
    with pytest.raises(RequestError) as refused:
        build_parts(checked("model.layers=0", "optimizer.lr=-1", "schedule.final_scale=2"))
    assert {p.where for p in refused.value.problems} == {
        "model.layers",
        "optimizer.lr",
        "schedule.final_scale",
    }


@pytest.mark.parametrize(
    ("typed", "where", "said"),
    [
        (["trainer.max_steps=9999999999999999999999"], "trainer.max_steps", "fewer than 2**40"),
        (["trainer.strategy=fsdp"], "trainer.strategy", "auto, or ddp to train on several devices"),
        (["data=mixture", "data.sources.early=null"], "data.sources.early", "to remove the source"),
        (
            ["optimizer.weight_decay=inf"],
            "optimizer.weight_decay",
            "a finite number of at least 0",
        ),
        (
            ["schedule=wsd", "schedule.decay_steps=5"],
            "schedule.decay_steps",
            "a value for exactly one of decay_steps and decay_fraction",
        ),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/los"],
            "callbacks.early_stopping.monitor",
            "did you mean val/loss?",
        ),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=f1"],
            "callbacks.early_stopping.monitor",
            "choose from: val/bits_per_byte, val/loss, val/perplexity",
        ),
    ],
)
def test_what_can_never_work(typed: list[str], where: str, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        build_parts(checked(*typed))
    (problem,) = refused.value.problems
    assert problem.where == where
    assert said in str(problem)


def test_a_metric_that_there_is_may_be_watched() -> None:
    parts = build_parts(
        checked("callbacks=early_stopping", "callbacks.early_stopping.monitor=val/perplexity")
    )
    assert parts.callbacks[0].monitor == "val/perplexity"


def test_what_constructors_refuse_is_told_beside_wrong_types() -> None:
    config = compose(
        ["experiment=debug", "model.layers=0", "optimizer.lr=abc", "schedule.final_scale=2"]
    )
    with pytest.raises(RequestError) as refused:
        check_all(config)
    found = [problem.where for problem in refused.value.problems]
    assert sorted(found) == ["model.layers", "optimizer.lr", "schedule.final_scale"]


def test_a_class_that_does_not_exist() -> None:
    (problem,) = problems("optimizer._target_=etude.optim.adamw.AdmW")
    assert problem.hint == "did you mean etude.optim.adamw.AdamW?"


def test_a_part_of_another_kind_is_refused_by_its_key() -> None:
    (problem,) = problems("model.attention._target_=etude.nn.norm.LayerNorm")
    assert (problem.where, problem.expected) == (
        "model.attention._target_",
        "a class that is allowed in model.attention",
    )


@pytest.mark.parametrize(
    ("file", "overrides", "where", "said"),
    [
        (
            "experiment/mine.yaml",
            ["experiment=mine"],
            "experiment/mine.yaml",
            "unknown key 'modle'",
        ),
        ("model/mine.yaml", ["model=mine"], "model.hedas", "did you mean heads?"),
    ],
)
def test_a_misspelt_key_in_a_file_of_ones_own(
    tmp_path: Path, file: str, overrides: list[str], where: str, said: str
) -> None:
    texts = {
        "experiment": "# @package _global_\nname: mine\nmodle: {layers: 1}\n",
        "model": "defaults: [nano, _self_]\nhedas: 2\n",
    }
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(texts[path.parent.name])
    with pytest.raises(RequestError) as refused:
        check(compose(overrides, config_dir=tmp_path))
    (problem,) = refused.value.problems
    assert problem.where == where
    assert said in (problem.hint or "")


def test_a_file_of_ones_own_is_found_and_states_only_differences(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - debug\nname: mine\nmodel: {layers: 1}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    config = compose(["experiment=mine"], config_dir=tmp_path)
    assert (config.name, config.model.layers, config.model.dim) == ("mine", 1, 32)


def test_a_config_dir_that_is_not_there() -> None:
    with pytest.raises(RequestError, match=r"^config_dir = 'nowhere'"):
        compose([], config_dir="nowhere")


# -- the environment --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        ["model.layers=${oc.env:LAYERS}"],
        ["name=${oc.env:LAYERS,mine}"],
        ["optimizer.betas=[0.9,'${oc.env:LAYERS}']"],
        ["vars.a=${oc.env:LAYERS}", "model.layers=${vars.a}"],
        ["vars.a=${oc.env:LAYERS}", "vars.b=${vars.a}", "model.layers=${vars.b}"],
        ["run.notes=${oc.env:LAYERS}", "name=${run.notes}"],
        ["run.notes=${oc.env:LAYERS}", "name=run_${run.notes}"],
    ],
)
def test_nothing_in_the_signature_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, typed: list[str]
) -> None:
    monkeypatch.setenv("LAYERS", "secret7")
    found = problems(*typed)
    key = typed[-1].partition("=")[0]
    told = [p for p in found if p.expected == "a value that does not come from the environment"]
    assert [p.where.partition("[")[0] for p in told] == [key]
    assert "secret7" not in "\n".join(map(str, told))


def test_notes_may_come_from_the_environment_and_are_not_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "secret7")
    found = checked("run.notes=${oc.env:TOKEN_OF_MINE}")
    assert found.run.notes == "secret7"
    text = plain_yaml(found.config)
    assert "secret7" not in text
    assert "${oc.env:TOKEN_OF_MINE}" in text


# -- targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "builtins.open",
        "os.system",
        "torch.load",
        "subprocess.Popen",
        "tests_never_import_this.Class",
        "etude_of_another.Class",
        "pytorch_lightning.Trainer",
        "etude.records.files.remove_folder",  # a function, and a dangerous one
        "etude.records.files.Path",  # not Étude's, though imported there
        "etude.cli.main",
        "etude.nowhere.Class",
        "etude",
    ],
)
def test_what_a_config_may_not_build(target: str) -> None:
    node, (problem,) = check_node("optimizer", {"_target_": target}, [])
    assert node is None
    assert problem.where == "optimizer._target_"


def test_a_refused_target_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "side_effect_of_target.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    (problem, *_) = problems("optimizer._target_=side_effect_of_target.Thing")
    assert problem.hint is not None
    assert problem.hint.startswith("to allow this module in your own config, set extensions=[")
    assert "side_effect_of_target" not in sys.modules


def test_a_nested_function_is_no_target_either(tmp_path: Path) -> None:
    """An argument may be a node: loading a record must not delete a folder."""
    precious = tmp_path / "precious"
    precious.mkdir()
    found = problems(
        "+model.dropout={_target_: etude.records.files.remove_folder, folder: "
        + f"'{precious}'"
        + "}"
    )
    assert "model.dropout._target_" in {problem.where for problem in found}
    assert precious.is_dir()


def test_an_extension_is_built_when_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "class Halved:\n"
        "    def __init__(self, after: int = 3) -> None:\n"
        "        self.after = after\n"
        "    def __call__(self, step: int, total: int) -> float:\n"
        "        return 1.0 if step < self.after else 0.5\n"
    )
    (tmp_path / "schedule_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    target = ["~schedule.warmup_steps", "~schedule.final_scale"]
    target.append("schedule._target_=schedule_of_mine.Halved")
    assert problems(*target)[0].where == "schedule._target_"
    listed = checked(*target, "schedule.after=5", "extensions=[schedule_of_mine]")
    schedule = build_parts(listed).schedule
    assert [schedule(step, 10) for step in (4, 5)] == [1.0, 0.5]
    with pytest.raises(RequestError, match=r"schedule\._target_"):
        check(listed.config, trust=[])  # a record's own list is not believed


def test_an_extension_that_is_not_there() -> None:
    (problem,) = problems("extensions=[module_nobody_has]")
    assert problem.where == "extensions"
    assert problem.expected == "a module that can be imported"
    assert problem.hint == "install the module, or run etude in the folder that contains it"


# -- a program's own Hydra --------------------------------------------------------------------


def test_a_hydra_that_was_set_up_before_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("answer: 42\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose(["experiment=debug"])
        with pytest.raises(RequestError):
            compose(["modle=nano"])
        assert hydra_compose("other", ["answer=43"]).answer == 43
    assert not GlobalHydra.instance().is_initialized()
    compose(["experiment=debug"])
    assert not GlobalHydra.instance().is_initialized()


def test_compose_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked()
    assert os.listdir(tmp_path) == []


def test_a_slot_that_the_chosen_files_have_not() -> None:
    with pytest.raises(RequestError) as caught:
        compose(["model/head=mean"])
    assert "to add this config group, use +model/head=mean" in str(caught.value)
    with pytest.raises(RequestError) as caught:
        compose(["experiment=sentiment", "model=nano", "data.path=rows.jsonl"])
    told = str(caught.value)
    assert "expected a file whose `defaults` list contains the group model/head, because" in told
    assert "(the task needs an encoder, which has a head; choose from: bert_base, encoder" in told
    assert "to ignore the files that the experiment chooses, add '~experiment')" in told
