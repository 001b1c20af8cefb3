"""Lazy modules behave as if they were imported at once."""

from __future__ import annotations

import subprocess
import sys

import pytest


def executed(program: str) -> str:
    """Returns the output of a new interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_training_needs_no_compiler_and_compiling_works_afterwards() -> None:
    program = """
import sys
import etude, torch, pytorch_lightning
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([weight], lr=0.5)
def step():
    optimizer.zero_grad()
    (2 * weight).sum().backward()
    optimizer.step()
    return weight.tolist()
print(step())
torch.use_deterministic_algorithms(True)
torch.use_deterministic_algorithms(False)
names = ("sympy", "torch._dynamo.utils", "transformers", "scipy", "matplotlib")
print([name for name in names if name in sys.modules])
print(isinstance(weight, torch._dynamo.OptimizedModule), torch._dynamo.executed)
assert torch._dynamo.__spec__.name == "torch._dynamo"
module = torch.compile(torch.nn.Linear(2, 2), backend="eager")
print(module(torch.ones(2)).shape, torch._dynamo.executed)
print(isinstance(module, torch._dynamo.OptimizedModule))
import pytorch_lightning.utilities.compile as lightning
print(isinstance(module, lightning.OptimizedModule), isinstance(step, lightning.OptimizedModule))
print(step())
import torch._dynamo.config, torch._inductor.config
print(torch._dynamo.config.recompile_limit > 0, torch._inductor.config.deterministic)
print(len(dir(torch._dynamo)) > 50)
"""
    assert executed(program).splitlines() == [
        "[0.0, 0.0]",
        "[]",
        "False False",
        "torch.Size([2]) True",
        "True",
        "True False",
        "[-1.0, -1.0]",
        "True False",
        "True",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        "import torchmetrics; metric = torchmetrics.MeanMetric()",
        "from torchmetrics import MeanMetric; metric = MeanMetric()",
        "from torchmetrics.aggregation import MeanMetric; metric = MeanMetric()",
        "import torchmetrics.aggregation as a; metric = a.MeanMetric()",
    ],
)
def test_torchmetrics_is_whole_when_it_is_used(use: str) -> None:
    program = f"""
import sys
import etude, pytorch_lightning
assert "torchmetrics.functional" not in sys.modules
base = pytorch_lightning.core.module.Metric
assert "torchmetrics.functional" not in sys.modules
{use}
metric.update(3.0)
figure, axes = metric.plot()
print(isinstance(metric, base), float(metric.compute()), type(figure).__name__)
import torchmetrics
print(torchmetrics.Metric is base, torchmetrics.functional.mean_squared_error.__name__)
"""
    told = ["True 3.0 Figure", "True mean_squared_error"]
    assert executed(program).splitlines() == told


def test_a_module_that_fails_can_be_tried_again() -> None:
    program = """
import sys
import etude.lazy_modules as lazy_modules
class Broken:
    name = "torch._dynamo"
    def exec_module(self, module):
        raise ImportError("not today")
from importlib.machinery import ModuleSpec
module = lazy_modules.LazyModule(ModuleSpec("broken", Broken()), {"here": lambda _: 1})
for _ in range(2):
    try:
        module.there
    except ImportError as error:
        print(error, module.here, module.executed)
"""
    assert executed(program).splitlines() == ["not today 1 False"] * 2
