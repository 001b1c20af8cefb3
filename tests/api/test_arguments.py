"""Wrong arguments of the Python interface are reported by the names of the arguments."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

import etude
from etude.analysis.comparison import Comparison
from etude.analysis.run_groups import Groups
from etude.arguments import check_arguments
from etude.errors import InvalidArguments, RequestError

CONFIG = "the result of etude.compose(...)"
STRINGS = "a string or a list of strings"
OVERRIDES = "a string, a list of strings or a dict"

WRONG = [
    ("etude.train('experiment=debug')", "config = 'experiment=debug'", CONFIG),
    ("etude.train(['experiment=debug'])", "config = ['experiment=debug']", CONFIG),
    ("etude.train({})", "config = {}", CONFIG),
    ("etude.train(config.model)", "config", "result of etude.compose(...) (the key name is"),
    ("etude.find_learning_rate('x')", "config = 'x'", CONFIG),
    ("etude.find_learning_rate(config, steps='a')", "steps = 'a'", "an integer"),
    ("etude.coordinate_check('x', [1])", "config = 'x'", CONFIG),
    ("etude.coordinate_check(config, '64')", "widths = '64'", "a list of integers"),
    ("etude.compose('experiment=debug', 1)", "overrides = 1", OVERRIDES),
    ("etude.compose(config_dir='gone')", "config_dir = 'gone'", "an existing folder"),
    ("etude.plan(config)", "overrides = {'name'", OVERRIDES),
    ("etude.compose({'seed': object()})", "seed", "a value of a config: a string, a number"),
    ("etude.sweep({'seed': [0, object()]})", "seed", "a value of a config"),
    ("etude.sweep(config)", "overrides = {'name'", OVERRIDES),
    ("etude.choices(5)", "group = 5", "a string"),
    ("etude.choices('model/positon')", "group", "(did you mean model/position?)"),
    ("etude.plan('seed=0,1')", "seed=0,1", "one value (to sweep over several values, add multirun"),
    ("etude.plan('seed=0', multirun='yes')", "multirun = 'yes'", "True or False"),
    ("etude.load_run(5)", "run = 5", "a string, a path or a run"),
    ("etude.load_run('debgu')", "run = 'debgu'", "a run's path"),
    ("etude.load_run('debug', trust=5)", "trust = 5", STRINGS),
    ("etude.load_run('debug', root=5)", "root = 5", "a string or a path"),
    ("etude.load_run('debug', trust='gone')", "trust = 'gone'", "a module that can be imported"),
    ("etude.load_pretrained(5)", "source = 5", "a string or a path"),
    ("etude.load_pretrained('./gone')", "source = './gone'", "a folder with config.json"),
    ("etude.load_pretrained('gpt2', revision=5)", "revision = 5", "a string or None"),
    ("etude.runs(5)", "root = 5", "a string or a path"),
    ("etude.runs('debug')", "root = 'debug'", "(did you mean runs('experiments/debug')?)"),
    ("etude.runs().filter(5)", "conditions = 5", "a string"),
    ("etude.runs().compare(5)", "metrics = 5", "a string"),
    ("etude.runs().compare('val/los')", "metrics = 'val/los'", "(did you mean val/loss?)"),
    ("etude.runs().compare(x='stp')", "x = 'stp'", "one of step, tokens, time"),
    ("etude.runs().group(5)", "metric = 5", "a string or None"),
    ("etude.runs().group('val/los')", "metric = 'val/los'", "(did you mean val/loss?)"),
    ("etude.runs().group(by='model.dmi')", "by = 'model.dmi'", "(did you mean model.dim?)"),
    ("etude.runs().group(by=5)", "by = 5", STRINGS),
    ("etude.runs().group().export('cvs')", "form = 'cvs'", "(did you mean csv?)"),
    ("etude.runs().group().export('csv', label='a')", "label = 'a'", "(set form=latex)"),
    ("etude.runs().group().heat('model.dim', 'b')", "y = 'b'", "a key of at least one run"),
    ("etude.runs().group().comparison('bst')", "against = 'bst'", "best or first"),
    ("groups([run.record], by='model.dim')", "by = 'model.dim'", "a list of strings"),
    ("compared([run.record], metrics='loss')", "metrics = 'loss'", "a list of strings"),
    ("etude.runs().significance()", "runs = 1", "at least two runs"),
    ("etude.Runs('ab')", "runs = 'ab'", "a list of runs"),
    ("etude.Run('debug')", "record = 'debug'", "a Record"),
    ("run.model('lst')", "which = 'lst'", "best, last, the step of a checkpoint"),
    ("run.evaluate(which='lst')", "which = 'lst'", "best, last, the step of a checkpoint"),
    ("run.evaluate(stride='a')", "stride = 'a'", "an integer or None"),
    ("run.evaluate(stride=True)", "stride = True", "an integer or None"),
    ("run.predict(['a'])", "run = 'CausalLM'", "a run whose task makes predictions"),
    ("run.predict([1])", "texts = [1]", STRINGS),
    ("run.predict({'a': 'b'})", "texts = {'a': 'b'}", STRINGS),
    ("run.scores(5)", "split = 5", "a string"),
    ("run.data('tst')", "split = 'tst'", "val or train"),
    ("run.data(5)", "split = 5", "a string or None"),
    ("run.generate(5)", "prompt = 5", STRINGS),
    ("run.generate(temperature='a')", "temperature = 'a'", "a number"),
    ("run.generate(which='lst')", "which = 'lst'", "best, last, the step of a checkpoint"),
    ("run.generate(temprature=1)", "temprature = 1", "(did you mean temperature?)"),
    ("run.plot(metric='a')", "metric = 'a'", "no such argument of plot"),
    ("etude.compose(lr=1)", "lr = 1", "no such argument of compose"),
    ("etude.choices()", "arguments of choices", "(missing a required argument: 'group')"),
    ("model([500])", "ids = 500", "ids from 0 to"),
    ("model.capture('embed', position=-1)", "position = -1", "no such argument of capture"),
    ("model.replace({'embd': 0})", "site = 'embd'", "(did you mean embed?)"),
    ("etude.runs().group(by='drop')", "by = 'drop'", "a key of at least one run"),
    ("etude.runs().group(by='dropout')", "by = 'dropout'", "one key of the runs"),
    (
        "etude.sweep('experiment=debug', {'model.heads': 3, 'seed': [0, 1]})",
        "overrides",
        "values with which at least one job can be trained (model",
    ),
    ("run.diff(5)", "other = 5", "a string, a path or a run"),
    ("run.diff('debgu')", "run = 'debgu'", "a run's path"),
    ("run.plot('val/los')", "metrics = 'val/los'", "(did you mean val/loss?)"),
    ("run.plot(log='z')", "log = 'z'", "one of x, y, xy"),
    ("etude.runs().where('optimzer.lr>1')", "condition", "(did you mean optimizer.lr?)"),
    ("etude.runs().where('dropout=0')", "condition = 'dropout'", "one key of the runs (choose"),
    ("run.batch('a')", "step = 'a'", "an integer"),
    ("run.places('a')", "step = 'a'", "an integer"),
    ("run.readings(5)", "text = 5", "a string"),
    ("model.generate(5)", "prompt = 5", STRINGS),
    ("model.generate('a', stop=5)", "stop = 5", STRINGS),
    ("model.generate('a', stream=5)", "stream = 5", "a function or None"),
    ("model.generate('a', seed='b')", "seed = 'b'", "an integer or None"),
    ("model.answer('a')", "prompt = 'a'", "a list of integers"),
    ("model('a')", "ids = 'a'", "a Tensor, a list of integers or a list of lists of integers"),
]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names in the calls; the working folder contains the run."""
    with contextlib.chdir(tmp_path_factory.mktemp("arguments")):
        config = etude.compose("experiment=debug", "trainer.max_steps=2")
        run = etude.train(config)
        classes = {"groups": Groups, "compared": Comparison}
        yield {"etude": etude, "config": config, "run": run, "model": run.model(), **classes}


@pytest.mark.parametrize(("call", "where", "expected"), WRONG)
def test_the_argument_is_named(call: str, where: str, expected: str, names: dict[str, Any]) -> None:
    with pytest.raises((RequestError, InvalidArguments)) as raised:
        eval(call, names)
    (problem,) = str(raised.value).splitlines()
    assert problem.startswith(where)
    assert expected in problem


def test_one_string_is_one_item(names: dict[str, Any]) -> None:
    run = etude.load_run("debug", trust="this")
    assert run._trust == ["this"]
    (group,) = etude.runs().group(by="model.dim").groups
    assert list(group.keys) == ["model.dim"]


def test_a_run_is_loaded_as_it_is(names: dict[str, Any]) -> None:
    run = names["run"]
    assert etude.load_run(run) is run
    again = etude.load_run(run, trust=["this"])
    assert (again.path.resolve(), again._trust) == (run.path.resolve(), ["this"])


def test_numbers_and_lists_of_other_libraries_are_accepted(names: dict[str, Any]) -> None:
    run, model = names["run"], names["model"]
    assert run.batch(np.int64(1))["tokens"].equal(run.batch(1)["tokens"])
    assert run.model(2).module is not run.model(np.int64(2)).module
    ids = [[1, 2, 3]]
    assert model(ids).equal(model(np.array(ids)))
    assert model(ids).equal(model(torch.tensor(ids)))
    texts = model.generate(
        (text for text in ("a", "b")), max_new_tokens=1, temperature=np.float32(1)
    )
    assert len(texts) == 2


def test_all_public_functions_are_checked() -> None:
    """A new function or method of the interface, too."""
    from etude.models.language_model import LanguageModel
    from etude.models.seq2seq import Seq2Seq
    from etude.models.text_encoder import TextEncoder

    not_typed = {
        "data",
        "prepare",
        "evaluated",
        "frame",
        "tokenizer",
        "sites",
    }  # no arguments, or any object
    functions = [getattr(etude, name) for name in etude.__all__ if name[0].islower()]
    methods = [
        value
        for owner in (etude.Run, etude.Runs, LanguageModel, Seq2Seq, TextEncoder)
        for kind in owner.__mro__
        if kind.__module__.startswith("etude")
        for name, value in vars(kind).items()
        if callable(value) and not name.startswith("_") and name not in not_typed
    ]
    assert len(methods) > 15
    unchecked = [f.__qualname__ for f in functions + methods if not hasattr(f, "__wrapped__")]
    assert not unchecked


def test_a_check_is_fast() -> None:
    @check_arguments(RequestError)
    def function(
        config: DictConfig, *names: str, number: float = 1.0, path: str | Path = ""
    ) -> None:
        pass

    config = DictConfig({})
    function(config, "a")
    began = time.perf_counter()
    for _ in range(1000):
        function(config, "a", "b", number=2, path="c")
    assert time.perf_counter() - began < 0.5


def test_the_checks_import_neither_torch_nor_pandas() -> None:
    code = "import sys, etude.arguments; print({'torch', 'pandas', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
