"""Configuration of the documentation site (Sphinx). `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from functools import cached_property
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
from api_pages import write_api_pages
from arguments import complete
from notebook_pages import write_notebook_pages

project = "Étude"
author = "the Étude developers"
copyright = author
version = release = importlib.metadata.version("etude")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_executed", "requirements.txt"]
html_theme = "furo"
html_title = "Étude"
html_copy_source = False
html_show_sphinx = False
smartquotes_action = "De"  # dashes and ellipses; quotation marks stay as in the source

# Headings of all levels are link targets, as on GitHub. A link to a file of the repository that is
# not a page becomes a link to a copy of the file.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
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

# The notebooks are executed by `make notebooks`.
nb_execution_mode = "off"
nb_merge_streams = True

write_api_pages()
write_notebook_pages()


def complete_arguments(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Replaces the docstring of a class or function by one that describes all of its arguments.

    The docstring of a property begins with an empty comment: napoleon would render the text before
    a colon in its first line as the property's type.
    """
    if inspect.isclass(obj) or inspect.isfunction(obj):
        lines[:] = [*complete(obj), ""]
    elif isinstance(obj, property | cached_property):
        lines[:] = ["..", "", *lines]


def mark_reports(app: Sphinx, name: str, source: list[str]) -> None:
    """Keeps the reports of papers, which docs/papers.md links to, out of the sidebar."""
    if name.startswith("papers/"):
        source[0] = f"---\norphan: true\n---\n\n{source[0]}"


def setup(app: Sphinx) -> None:
    """Connects `complete_arguments`, before napoleon, and `mark_reports`."""
    app.connect("autodoc-process-docstring", complete_arguments, priority=400)
    app.connect("source-read", mark_reports)
