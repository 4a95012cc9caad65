"""The gallery of the documentation site, made from the notebooks as they are stored: nothing is executed."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

HEAD = """# Gallery

Notebooks, with what they printed and drew when they were last run. Continuous integration executes all of them anew;
here nothing is. They are files of `notebooks/`, to be run and changed.
"""


class Entry(NamedTuple):
    """What the gallery says of a notebook.

    Args:
        name: of the file, without its ending.
        title: its first heading.
        summary: the first two sentences below it.
        figure: the first PNG that its cells have drawn, or None.
    """

    name: str
    title: str
    summary: str
    figure: bytes | None


def read_entry(path: Path) -> Entry:
    """Return title, summary and figure of a notebook.

    Args:
        path: of the file.

    Raises:
        ValueError: if it does not begin with a title and a sentence.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = re.match(r"# (?P<title>.+)\n\s*(?P<text>\S[^#]*)", "".join(cells[0]["source"]))
    if cells[0]["cell_type"] != "markdown" or first is None:
        raise ValueError(f"{path.name}: the first cell must be a title ('# ...') and a paragraph")
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", " ".join(first["text"].split("\n\n")[0].split()))
    figures = [
        output["data"]["image/png"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    figure = base64.b64decode("".join(figures[0])) if figures else None
    return Entry(path.stem, first["title"].strip(), " ".join(sentences[:2]), figure)


def write_gallery(notebooks: Path, folder: Path) -> list[Entry]:
    """Copy the notebooks into a folder of the site, with a page that lists them.

    Args:
        notebooks: folder of the notebooks.
        folder: where copies, figures and `index.md` go; what was there is replaced.

    Returns:
        The entries, in the order of their names.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = []
    parts = [HEAD]
    for path in sorted(notebooks.glob("*.ipynb")):
        entry = read_entry(path)
        entries.append(entry)
        shutil.copyfile(path, folder / path.name)
        parts.append(f"## [{entry.title}]({path.name})\n\n{entry.summary}\n")
        if entry.figure is not None:
            (folder / f"{entry.name}.png").write_bytes(entry.figure)
            parts.append(
                f"```{{image}} {entry.name}.png\n:alt: a figure of it\n:width: 30rem\n:target: {entry.name}.html\n```\n"
            )
    names = "\n".join(entry.name for entry in entries)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```\n")
    (folder / "index.md").write_text("\n".join(parts), encoding="utf-8")
    return entries


def setup(app: Any) -> dict[str, bool]:
    """Make the gallery before sphinx looks for pages."""
    here = Path(__file__).parent
    app.connect("builder-inited", lambda _: write_gallery(here.parent / "notebooks", here / "gallery"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
