"""Configuration of the documentation site (Sphinx). `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import importlib.metadata

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
