"""Settings of the documentation site: `sphinx-build docs site`."""

import re
from importlib.metadata import version as version_of

project = "diffassim"
author = "The diffassim developers"
release = version_of("diffassim")
extensions = ["myst_parser", "sphinx.ext.napoleon", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "diffassim"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # arguments are described in words, with shapes and units
napoleon_google_docstring = True
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository that the site does not hold


def mathematics(app, what, name, obj, options, lines):
    r"""Turn \\(...\\) of docstrings into mathematics, and single backquotes, which are code here, into literals."""
    text = "\n".join(lines)
    text = re.sub(r"\\\((.+?)\\\)", lambda found: f":math:`{found[1]}`", text, flags=re.DOTALL)
    text = re.sub(r"(?<![`:])`([^`\n]+)`(?!`)", r"``\1``", text)
    lines[:] = text.split("\n")


def setup(app):
    """Register it."""
    app.connect("autodoc-process-docstring", mathematics)
