"""What the pages name exists: functions and their arguments, files, commands, links and anchors."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import diffassim as da

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/**/*.md"))
    if "gallery" not in path.parts  # made when the site is built
)
LINKED = [*PAGES, "CHANGELOG.md"]  # whose earlier entries name what was renamed since
# Pages whose code spans are names of this package; others name columns, files and what other libraries have.
CODE = ("docs/choose.md", "docs/own_parts.md", "docs/recipes.md", "docs/architecture.md", "docs/extending.md")
CODE += tuple(page for page in PAGES if page.startswith("docs/decisions/"))
FOREIGN = {"jax", "jnp", "np", "lax", "flax", "nnx", "optax", "torch"}  # whose own names are not looked up
FILE = re.compile(r"(?:[\w.]+/)+(?:[\w.]+\.(?:py|md|tsv|toml))?|[a-z_0-9]+\.py")
SPOKEN = {"eigh", "rfft", "value_and_grad", "vmap", "B1", "B2"}  # of JAX without saying so; letters


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```", "", read(page), flags=re.DOTALL | re.MULTILINE)


def spans(page: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def resolve(name: str) -> object:
    found: object = da
    for part in name.split("."):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_exist(page):
    for name in sorted(set(re.findall(r"\bda((?:\.[A-Za-z_]\w*)+)", read(page)))):
        resolve(name.strip("."))


def test_there_are_names_to_look_up():
    for page in ("docs/coming_from.md", "docs/own_parts.md", "docs/choose.md"):
        assert len(set(re.findall(r"\bda((?:\.[A-Za-z_]\w*)+)", read(page)))) > 8


@cache
def defined() -> frozenset[str]:
    """Return every name that package and tests define: functions, classes, arguments, fields, attributes."""
    names = set(dir(builtins))
    for path in (*(ROOT / "diffassim").rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
        names |= set(path.relative_to(ROOT).with_suffix("").parts)
    return frozenset(names)


def expressions(page: str) -> list[ast.expr]:
    """Return the code spans that are expressions of Python."""
    found = []
    for span in spans(page):
        if FILE.fullmatch(span) or re.match(r"(pytest|python|pip|diffassim) ", span):
            continue
        try:
            found.append(ast.parse(span.split(" -> ")[0], mode="eval").body)
        except SyntaxError:
            continue
    return found


def root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def named(node: ast.expr) -> set[str]:
    """Return the names in an expression that should be this package's."""
    names = set()
    for part in ast.walk(node):
        if isinstance(part, ast.expr) and root(part) in FOREIGN:
            continue
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Attribute):
            names.add(part.attr)
    return names - {"da"} - FOREIGN


@pytest.mark.parametrize("page", CODE)
def test_names_in_code_spans_are_defined(page):
    blocks = re.findall(r"```python\n(.*?)```", read(page), flags=re.DOTALL)
    nodes = [node for code in blocks for node in ast.walk(ast.parse(code))]
    here = {node.id for node in nodes if isinstance(node, ast.Name)}
    here |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    here |= {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    unknown = {name for node in expressions(page) for name in named(node)} - defined() - here - SPOKEN
    assert not unknown


@pytest.mark.parametrize("page", CODE)
def test_arguments_in_code_spans_are_taken(page):
    for node in expressions(page):
        for call in (part for part in ast.walk(node) if isinstance(part, ast.Call)):
            name = ast.unparse(call.func).removeprefix("da.")
            owner = next((place for place in (da, da.ensemble, da.variational) if hasattr(place, name)), da)
            if root(call.func) in FOREIGN or not call.keywords or (owner is da and not name[:1].isupper()):
                continue
            taken = inspect.signature(resolve(name) if owner is da else getattr(owner, name)).parameters
            assert {word.arg for word in call.keywords} <= set(taken), ast.unparse(call)


OTHERS = {"mods/QG/sakov2008.py"}  # DAPPER's


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    everywhere = {path.name for place in ("diffassim", "tests", "benchmarks") for path in (ROOT / place).rglob("*.py")}
    words = {word for span in spans(page) for word in span.split() if FILE.fullmatch(word)} - OTHERS
    for word in sorted(words):
        known = any((place / word).exists() for place in (ROOT, ROOT / "diffassim", (ROOT / page).parent))
        assert known or word in everywhere, word


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_exist(page):
    text = read(page)
    for name in re.findall(r"python -m benchmarks\.(\w+)", text):
        assert name == "NAME" or (ROOT / "benchmarks" / f"{name}.py").exists(), name
    kinds = set(re.findall(r"diffassim (?:run|check) ([a-z][\w-]*)(?=[\s`)])", text))
    if kinds:
        pytest.importorskip("pydantic", reason="experiments need the data extra: pip install 'diffassim[data]'")
        from diffassim.experiments import EXPERIMENTS

        assert kinds <= set(EXPERIMENTS)


LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading, and the site as well."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue  # of the web: nothing is fetched
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if path == ROOT / "docs" / "gallery" / "index.md":
            continue  # made when the site is built, which fails at a link that leads nowhere
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_links_and_anchors_are_found_where_they_are(tmp_path):
    assert LINK.findall('see [a page](one.md#two-words) and [b](<three.md> "title")') == [
        "one.md#two-words",
        "three.md",
    ]
    (tmp_path / "one.md").write_text("# One\n\n```bash\n# no heading\n```\n\n## `Two` words, of (three): run\n")
    assert anchors(tmp_path / "one.md") == {"one", "two-words-of-three-run"}


def test_the_gallery_shows_every_notebook(tmp_path):
    at = importlib.util.spec_from_file_location("notebook_gallery", ROOT / "docs" / "notebook_gallery.py")
    module = importlib.util.module_from_spec(at)
    at.loader.exec_module(module)
    entries = module.write_gallery(ROOT / "notebooks", tmp_path / "gallery")
    assert [entry.name for entry in entries] == [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    page = (tmp_path / "gallery" / "index.md").read_text()
    for entry in entries:
        assert entry.summary.endswith((".", "?", "!", ":")), entry
        assert entry.figure is not None, f"{entry.name} has no stored figure"
        assert (tmp_path / "gallery" / f"{entry.name}.ipynb").exists()
        assert f"[{entry.title}]({entry.name}.ipynb)" in page
    (tmp_path / "untitled.ipynb").write_text('{"cells": [{"cell_type": "markdown", "source": ["no title"]}]}')
    with pytest.raises(ValueError, match="first cell must be a title"):
        module.read_entry(tmp_path / "untitled.ipynb")


def test_every_page_is_in_the_site():
    """A page that no table of contents names is not found (and sphinx, whose warnings are errors, fails)."""
    listed = set()
    for page in (page for page in PAGES if page.startswith("docs/")):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", read(page), flags=re.DOTALL):
            names = (line for line in block.split("\n") if line and not line.startswith(":"))
            listed |= {str((Path(page).parent / name).with_suffix(".md")) for name in names}
    assert {page for page in PAGES if page.startswith("docs/")} <= listed | {"docs/index.md"}
