"""Imports run downward only, and each library stays on its floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diffassim"

# From the ground floor up; parts of one floor do not import each other.
FLOORS = (
    ("core",),
    ("grids",),
    ("models", "observations", "covariances"),
    ("methods",),
    ("variational", "ensemble", "gaussian"),
    ("learned",),
    ("cycling",),
    ("decisions",),
    ("training",),
    ("experiments",),
    ("cli",),
)
HEIGHT = {part: height for height, floor in enumerate(FLOORS) for part in floor}

# Edges stand beside the house: what they may import, and who may import them.
EDGES = {
    "io": ({"core", "grids", "models", "observations", "cycling"}, {"experiments", "cli"}),
    "plotting": ({"core", "io"}, {"experiments", "cli"}),
    "diagnostics": (
        {part for floor in FLOORS[:5] for part in floor},
        {"learned", "cycling", "decisions", "training", "experiments", "cli"},
    ),
}
PARTS = {*HEIGHT, *EDGES}

AT_THE_EDGE_ONLY = {
    "xarray": {"io", "experiments", "plotting"},
    "pandas": {"io", "experiments", "plotting"},
    "netCDF4": {"io", "experiments"},
    "pint": {"io"},
    "pyarrow": {"io"},
    "zarr": {"io"},
    "scores": {"experiments", "io"},
    "matplotlib": {"plotting"},
    "pydantic": {"experiments"},
    "tomlkit": {"experiments"},
    "rich": {"cli"},
    "cyclopts": {"cli"},
    "flax": {"learned", "experiments"},
    "gymnasium": {"decisions"},
}


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of every module or object that is imported at any level of the source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def may_import(part: str, other: str) -> bool:
    if part == other:
        return True
    if part in EDGES:
        return other in EDGES[part][0]
    if other in EDGES:
        return part in EDGES[other][1]
    return HEIGHT[other] < HEIGHT[part]


def violations(source: str, part: str, package: str = "diffassim.core") -> list[str]:
    found = []
    for line, name in imports(source, package):
        first, *rest = name.split(".")
        if first == "diffassim":
            other = rest[0] if rest else ""
            if other not in PARTS:
                found.append(f"{line}: imports {name}; import from the part that defines it, never from the top")
            elif not may_import(part, other):
                found.append(f"{line}: {part} imports {other}, which is not below it")
        elif first in AT_THE_EDGE_ONLY and part not in (*AT_THE_EDGE_ONLY[first], "cli"):
            found.append(f"{line}: {part} imports {first}, which belongs to {sorted(AT_THE_EDGE_ONLY[first])}")
    return found


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    inside = path.relative_to(PACKAGE)
    part = inside.parts[0].removesuffix(".py")
    assert part in PARTS, f"{inside} belongs to no floor; add it to the design and to this test"
    package = ".".join(["diffassim", *inside.parts[:-1]])
    found = violations(path.read_text(), part, package)
    assert not found, "\n".join(f"diffassim/{inside}:{problem}" for problem in found)


@pytest.mark.parametrize(
    ("part", "line", "allowed"),
    [
        ("models", "from diffassim.core import tree", True),
        ("models", "import diffassim.observations.operators", False),
        ("covariances", "from diffassim.models import rollout", False),
        ("variational", "from diffassim.ensemble.etkf import ETKF", False),
        ("core", "from diffassim import models", False),
        ("core", "def f():\n    from diffassim import models", False),
        ("core", "from ..models import base", False),
        ("core", "from . import tree", True),
        ("core", "import xarray as xr", False),
        ("models", "from diffassim.io.netcdf import to_dataset", False),
        ("experiments", "from diffassim.io.netcdf import to_dataset", True),
        ("cli", "from diffassim.experiments import run", True),
        ("experiments", "from diffassim.cli import main", False),
        ("cycling", "import diffassim as da", False),
        ("training", "from diffassim.cycling import cycle", True),
        ("cycling", "from diffassim.training import fit", False),
        ("training", "from diffassim.decisions import Environment", True),
        ("decisions", "from diffassim.training import fit", False),
    ],
)
def test_the_check_sees_what_it_should(part, line, allowed):
    assert bool(violations(line, part)) != allowed
