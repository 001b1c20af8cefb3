"""Generated pages of the documentation site: the API reference, the config keys, the commands.

The pages are in docs/api/, which is not in the repository.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import json
import os
import re
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from arguments import descriptions
from omegaconf import MISSING

import etude
import etude.cli
import etude.interpret
import etude.views
from etude.cli.runs import ACTIONS
from etude.config.schema import Config, InitFrom, LoRAOptions, Run

HERE = Path(__file__).parent
os.environ["COLUMNS"] = "100"  # the width of what `--help` prints

KEYS = {"": Config, "run": Run, "init_from": InitFrom, "init_from.lora": LoRAOptions}
"""The classes that define the keys of the config outside its nodes, by the path of the keys."""

MEASURES = [name for name in etude.interpret.__all__ if name != "score_table"]

API_PAGES = {
    "python": (
        "Python interface",
        "Functions and classes for notebooks and scripts.",
        (
            ("Functions", "functions"),
            ("Runs", ["etude.Run", "etude.Runs"]),
            (
                "Results of functions and methods",
                [
                    "etude.analysis.comparison.Comparison",
                    "etude.analysis.run_groups.Groups",
                    "etude.analysis.run_groups.Group",
                    "etude.sweeps.planning.PlannedJob",
                ],
            ),
            (
                "Models with tokenizers",
                [
                    "etude.models.language_model.LanguageModel",
                    "etude.models.seq2seq.Seq2Seq",
                    "etude.models.text_encoder.TextEncoder",
                ],
            ),
            (
                "Text generation",
                [
                    "etude.models.text_generator.TextGenerator",
                    "etude.generation.generation_config.GenerationConfig",
                ],
            ),
            (
                "Errors",
                [
                    "etude.errors.EtudeError",
                    "etude.errors.RequestError",
                    "etude.config.checks.InvalidConfig",
                    "etude.errors.InvalidArguments",
                    "etude.errors.Problem",
                    "etude.errors.RunFailed",
                    "etude.errors.RunHeld",
                    "etude.errors.Interrupted",
                ],
            ),
        ),
    ),
    "models": (
        "Models and parts",
        "Classes for `model` and its slots.",
        (
            ("Models", "model"),
            ("Attention", "model.attention"),
            ("Positions", "model.position"),
            ("Norms", "model.norm"),
            ("Feed-forward parts", "model.feedforward"),
            ("Masks", "model.mask"),
            ("Blocks", "model.block"),
            ("Heads", "model.head"),
            ("Initialisations", "model.initialise"),
            ("Base class of masks", ["etude.nn.mask.Mask"]),
            ("Kinds of layers", ["etude.models.kinds.LayerKind"]),
        ),
    ),
    "data": (
        "Data and tokenizers",
        "Classes for `data` and `data.tokenizer`.",
        (
            ("Data", "data"),
            ("Tokenizers", "data.tokenizer"),
            (
                "Batch sizes and curricula",
                ["etude.data.module.Batch", "etude.data.curriculum.Curriculum"],
            ),
        ),
    ),
    "tasks": (
        "Tasks",
        "Classes for `task`.",
        (("Tasks", "task"), ("Arguments from the run", ["etude.tasks.base.Setup"])),
    ),
    "interpret": (
        "Activations and measures",
        "Captures and changes of a model's activations, and functions that measure a model. The "
        "guide is [Look inside a model](../inside.md).",
        (
            ("Methods of models", ["etude.activations.inspectable.Inspectable"]),
            ("Captures", ["etude.activations.capture.Capture"]),
            (
                "Changes",
                [f"etude.activations.{name}" for name in ("add", "from_", "heads", "positions")],
            ),
            ("Measures", [f"etude.interpret.{name}" for name in MEASURES]),
            ("Tables in colours", ["etude.interpret.score_table"]),
            (
                "Measures during training",
                ["etude.training.measuring.Measured", "etude.training.measuring.HeadScores"],
            ),
        ),
    ),
    "views": (
        "Views",
        "Interactive pages and figures of what happens inside a model. The guide is "
        "[Look inside a model](../inside.md).",
        (
            (
                "Functions",
                [f"etude.views.{name}" for name in etude.views.__all__ if name != "View"],
            ),
            ("Their result", ["etude.views.View"]),
        ),
    ),
    "training": (
        "Optimizers, schedules, trainer, loggers",
        "Classes for `optimizer`, `schedule`, `trainer` and `logger`.",
        (
            ("Optimizers", "optimizer"),
            ("Schedules", "schedule"),
            ("Trainer", "trainer"),
            ("Loggers", "logger.*"),
        ),
    ),
}
"""Pages of the API reference: title, introduction, and sections. A section lists classes, or names
a slot of the config, whose classes are read from targets.json."""


INTERNAL = "evaluated, prepare, under"
"""Public methods that only Étude itself calls."""


MOST_VALUES = 6
"""Maximum number of values of a config file that the reference shows."""


def choices_by_class() -> dict[str, list[str]]:
    """Returns a dict from each class to RST texts of the config files that choose it.

    Such a text is the choice, and the values that the file sets: ``model/position=learned_offset``
    (``offset: 2``).
    """
    conf = HERE.parent / "conf"
    choices: dict[str, list[str]] = defaultdict(list)
    for file in sorted(conf.rglob("*.yaml")):
        group = file.parent.relative_to(conf).as_posix()
        values = values_in(file)
        for target in targets_in(file):
            choices[target].append(
                f"``{group}={file.stem}``" + (f" (``{values}``)" if values else "")
            )
    return choices


def values_in(file: Path) -> str:
    """Returns the values that a small config file sets, as in `kv_heads: 2`.

    The text is empty if the file sets no value, more than `MOST_VALUES`, nested values, or other
    files by `override`.
    """
    text = file.read_text(encoding="utf-8")
    defaults = re.compile(r"^defaults:\n(?: +- .*\n)+", re.MULTILINE)
    lines = [line.partition(" #")[0] for line in defaults.sub("", text).splitlines()]
    lines = [line.rstrip() for line in lines if line and line[0] not in "#_"]
    is_small = len(lines) <= MOST_VALUES and "- override " not in text
    is_flat = all(re.fullmatch(r"\w+: \S.*", line) for line in lines)
    return ", ".join(lines) if is_small and is_flat else ""


def targets_in(file: Path) -> list[str]:
    """Returns the class that a config file sets, or that of the file which it extends.

    Files for loggers and callbacks can set several.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if "_target_" in content:
        return [content["_target_"]]
    if file.parent.name in ("logger", "callbacks"):
        return [node["_target_"] for node in content.values() if "_target_" in node]
    extended = [each for each in content.get("defaults", []) if isinstance(each, str)]
    files = [file.with_name(f"{name}.yaml") for name in extended if name != "_self_"]
    return [target for each in files if each.is_file() for target in targets_in(each)]


def describe_slot(slot: str) -> list[str]:
    """Returns the lines below the heading of a slot: its config key, and the page of its contract.

    Args:
        slot: key path of the config, such as `model.attention` or `logger.*`.
    """
    key = slot.removesuffix(".*")
    part = key.rpartition(".")[2]
    contract = HERE / "contracts" / f"{part}.md"
    link = f" What a class of your own needs: [{part}](../contracts/{part}.md)."
    return [f"Config key: `{key}`.{link if contract.is_file() else ''}", ""]


def write_api_pages() -> None:
    """Writes docs/api/ from `API_PAGES` and the table of classes that a config can name."""
    choices = choices_by_class()
    table = json.loads((HERE.parent / "src/etude/config/targets.json").read_text())
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    for name, (title, introduction, sections) in API_PAGES.items():
        lines = [f"# {title}", "", introduction, ""]
        for heading, content in sections:
            lines += [f"## {heading}", ""]
            if isinstance(content, str) and content != "functions":
                lines += describe_slot(content)
            lines += ["```{eval-rst}"]
            if content == "functions":
                names = [name for name in etude.__all__ if name[0].islower()]
                lines += [f".. autofunction:: etude.{each}\n" for each in names]
            else:
                classes = content if isinstance(content, list) else table["slots"][content]
                for each in classes:
                    path = table["moved"].get(each, each)
                    kind = "function" if is_function(path) else "class"
                    lines += [f".. auto{kind}:: {path}"]
                    if isinstance(content, list) and kind == "class":
                        lines += ["   :members:", f"   :exclude-members: {INTERNAL}"]
                        lines += ["   :inherited-members:"] if has_own_bases(path) else []
                    if files := choices.get(each):
                        lines += ["", f"   Config file{'s' * (len(files) > 1)}:", ""]
                        lines += [f"   - {text}" for text in files]
                    lines += [""]
            lines += ["```", ""]
        (folder / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    (folder / "keys.md").write_text("\n".join(describe_keys()), encoding="utf-8")
    (folder / "commands.md").write_text("\n".join(describe_commands()), encoding="utf-8")
    index = ["# API reference", "", "Generated from docstrings.", ""]
    index += ["```{toctree}", ":maxdepth: 2", "keys", *API_PAGES]
    (folder / "index.md").write_text("\n".join([*index, "```", ""]), encoding="utf-8")


def has_own_bases(path: str) -> bool:
    """Returns whether a class inherits only from classes of Étude, whose methods are listed."""
    module, _, name = path.rpartition(".")
    bases = getattr(importlib.import_module(module), name).__mro__[1:-1]
    return all(base.__module__.startswith(("etude.", "abc")) for base in bases)


def is_function(path: str) -> bool:
    """Returns whether a dotted path is that of a function."""
    module, _, name = path.rpartition(".")
    return inspect.isfunction(getattr(importlib.import_module(module), name))


def describe_keys() -> list[str]:
    """Returns the lines of the page of the config's keys that no class defines, such as `run.*`."""
    introduction = (
        "The keys of a config that are not arguments of a class. "
        "[Configuration](../configuration.md) shows how to set them. The arguments below `model`, "
        "`data`, `task`, `optimizer`, `schedule`, `trainer` and `logger` are on the other pages of "
        "the reference. Classes of your own: [Callback](../contracts/callback.md), "
        "[Logger](../contracts/logger.md) and [others](../contracts/README.md)."
    )
    lines = ["# Config keys", "", introduction, ""]
    for prefix, keys in KEYS.items():
        lines += [f"## `{prefix}.*`" if prefix else "## Top level", ""]
        lines += [(inspect.getdoc(keys) or "").partition("\n\n")[0].replace("\n", " "), ""]
        lines += ["| key | default | meaning |", "| --- | --- | --- |"]
        texts = descriptions(keys)
        for field in dataclasses.fields(keys):
            key = f"{prefix}.{field.name}" if prefix else field.name
            meaning = " ".join(texts[field.name]).replace("|", "\\|")
            lines.append(f"| `{key}` | {default_of(field)} | {meaning} |")
        lines.append("")
    return lines


def default_of(field: dataclasses.Field[Any]) -> str:
    """Returns the default of a config key as Markdown; empty for a key with further keys."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = field.default
    if dataclasses.is_dataclass(value) or value == {}:
        return ""
    return "required" if value == MISSING else f"`{json.dumps(value)}`"


def describe_commands() -> list[str]:
    """Returns the lines of the page of the commands: what `--help` prints for each."""
    usage = help_of([])
    names = [name.split() for name in re.findall(r"^  etude ([a-z-]+(?: [a-z]+)?)", usage, re.M)]
    names = [name for name in names if name[0] != "runs"] + [["runs", name] for name in ACTIONS]
    lines = ["# Commands", "", "What `etude --help` and `etude COMMAND --help` print.", ""]
    lines += ["```text", usage.rstrip(), "```", ""]
    for name in names:
        lines += [f"## `etude {' '.join(name)}`", "", "```text", help_of(name).rstrip(), "```", ""]
    return lines


def help_of(command: list[str]) -> str:
    """Returns what a command prints with the option `--help`."""
    text = io.StringIO()
    with redirect_stdout(text):
        etude.cli.run([*command, "--help"])
    return text.getvalue()
