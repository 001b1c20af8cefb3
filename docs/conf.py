"""Configuration of the documentation site (Sphinx). `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import sys
from collections import defaultdict
from pathlib import Path

import yaml
from sphinx.application import Sphinx

import etude

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from arguments import complete  # noqa: E402

project = "Étude"
author = "the Étude developers"
copyright = author
version = release = importlib.metadata.version("etude")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "requirements.txt"]
html_theme = "furo"
html_title = "Étude"
html_copy_source = False
html_show_sphinx = False

# Headings of all levels are link targets, as on GitHub. A link to a file of the repository that is
# not a page becomes a link to a copy of the file.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings are Google style, with code in single backquotes.
default_role = "code"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

API_PAGES = {
    "python": (
        "Python interface",
        "Functions and classes for notebooks and scripts.",
        (
            ("Functions", "functions"),
            ("Runs", ["etude.api.Run", "etude.api.Runs"]),
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
                "Errors",
                [
                    "etude.errors.RequestError",
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


def choices_by_class() -> dict[str, list[str]]:
    """Returns a dict from each class to the config files that choose it: `model/norm=rmsnorm`."""
    conf = HERE.parent / "conf"
    choices: dict[str, list[str]] = defaultdict(list)
    for file in sorted(conf.rglob("*.yaml")):
        group = file.parent.relative_to(conf).as_posix()
        for target in targets_in(file):
            choices[target].append(f"{group}={file.stem}")
    return choices


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
                lines += [f".. autofunction:: etude.api.{each}\n" for each in names]
            else:
                classes = content if isinstance(content, list) else table["slots"][content]
                for each in classes:
                    path = table["moved"].get(each, each)
                    lines += [f".. autoclass:: {path}"]
                    if isinstance(content, list):
                        lines += ["   :members:", f"   :exclude-members: {INTERNAL}"]
                    if files := choices.get(each):
                        listed = ", ".join(f"``{name}``" for name in files)
                        lines += ["", f"   Config file{'s' * (len(files) > 1)}: {listed}"]
                    lines += [""]
            lines += ["```", ""]
        (folder / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    index = ["# API reference", "", "Generated from docstrings.", ""]
    index += ["```{toctree}", ":maxdepth: 2", *API_PAGES]
    (folder / "index.md").write_text("\n".join([*index, "```", ""]), encoding="utf-8")


write_api_pages()


def complete_arguments(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Replaces the docstring of a class or function by one that describes all of its arguments."""
    if inspect.isclass(obj) or inspect.isfunction(obj):
        lines[:] = [*complete(obj), ""]


def mark_reports(app: Sphinx, name: str, source: list[str]) -> None:
    """Keeps the reports of papers, which docs/papers.md links to, out of the sidebar."""
    if name.startswith("papers/"):
        source[0] = f"---\norphan: true\n---\n\n{source[0]}"


def setup(app: Sphinx) -> None:
    """Connects `complete_arguments`, before napoleon, and `mark_reports`."""
    app.connect("autodoc-process-docstring", complete_arguments, priority=400)
    app.connect("source-read", mark_reports)
