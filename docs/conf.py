"""Settings of the documentation site: `sphinx-build docs site`."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # notebook_gallery

project = "diffassim"
author = "The diffassim developers"
release = version_of("diffassim")
extensions = ["myst_nb", "notebook_gallery", "sphinx.ext.napoleon", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
nb_execution_mode = "off"  # notebooks are shown with the outputs that are stored; they are run elsewhere
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "diffassim"
html_static_path = ["_static"]
html_css_files = ["site.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # arguments are described in words, with shapes and units
napoleon_google_docstring = True
napoleon_use_ivar = True


TOKENS = re.compile(r":[a-z]+:`[^`]*`|``.+?``|`(?P<code>[^`\n]+)`|(?P<bar>\|)|(?P<star>\*)")


def mathematics(app, what, name, obj, options, lines):
    r"""Turn \\(...\\) of docstrings into mathematics, and single backquotes, which are code here, into literals."""
    text = re.sub(
        r"\\\((.+?)\\\)",
        lambda found: ":math:`" + " ".join(found[1].split()) + "`",
        "\n".join(lines),
        flags=re.DOTALL,
    )
    inside = None  # indentation of a directive or example, whose content stays as it is
    out = []
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if inside is not None and line.strip() and indent <= inside:
            inside = None
        if inside is None and line.lstrip().startswith((".. ", ">>>")) and not line.lstrip().startswith(".. attribute"):
            inside = indent if line.lstrip().startswith(".. ") else indent - 1
        out.append(line if inside is not None else TOKENS.sub(escaped, line))
    lines[:] = out


def escaped(found):
    """Return a token as reStructuredText has it."""
    if found["code"]:
        plural = found.string[found.end() : found.end() + 1].isalnum()  # a literal ends before a blank
        return f"``{found['code']}``" + ("\\ " if plural else "")
    return f"\\{found[0]}" if found["bar"] or found["star"] else found[0]


def setup(app):
    """Register it."""
    app.connect("autodoc-process-docstring", mathematics)
