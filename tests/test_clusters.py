"""The commands of the page about several processes run, as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "clusters.md"
LIMIT = 600

pytestmark = [pytest.mark.slow, pytest.mark.long]


def commands() -> list[list[str]]:
    section = PAGE.read_text().split("## One machine")[1].split("\n## ")[0]
    block = re.search(r"```bash\n(.*?)```", section, flags=re.DOTALL).group(1)
    return [shlex.split(line)[1:] for line in block.strip().splitlines()]


def run(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    found = subprocess.run(
        [sys.executable, "-m", "diffassim.cli", *words], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=LIMIT, check=False,
    )  # fmt: skip
    assert found.returncode == 0, f"{words}: {found.stderr}"
    return found.stdout


def alone(words: list[str], out: str) -> list[str]:
    """Return a command for one process and another directory."""
    words = words[: words.index("--processes")]
    return [out if words[k - 1] == "--out" else word for k, word in enumerate(words)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory in which all commands of the page have run, one after the other."""
    path = tmp_path_factory.mktemp("page")
    told = [run(words, path) for words in commands()]
    assert "lorenz63" in told[-1]
    return path


def test_the_page_has_commands():
    assert len(commands()) == 6 and all("--processes" in words for words in commands())


def test_the_shared_sweep_is_that_of_one_process(folder):
    run(alone(commands()[0], "one"), folder)
    for name in ("scores.csv", "runs.csv", "table.txt"):
        assert (folder / "one" / name).read_bytes() == (folder / "sweep" / name).read_bytes(), name


def test_the_shared_rows_are_those_of_one_process(folder):
    for name, words in (("four.json", commands()[5]), ("one.json", alone(commands()[5], ""))):
        run([*words, "--out", name], folder)
    assert (folder / "four.json").read_bytes() == (folder / "one.json").read_bytes()


@pytest.mark.parametrize(("number", "name"), [(1, "members"), (2, "large")])
def test_split_members_give_the_results_of_one_process(folder, number, name):
    """Within 1e-8: sums over members have another order, and the filter does not let the difference grow."""
    run(alone(commands()[number], f"one-{name}"), folder)
    a, b = (xr.load_dataset(folder / each / "analysis.nc", engine="netcdf4") for each in (name, f"one-{name}"))
    assert set(a) == set(b)
    for variable in a:
        np.testing.assert_allclose(a[variable], b[variable], atol=1e-8, err_msg=variable)


def test_a_store_of_many_parts_is_one_array(folder):
    fields = xr.open_zarr(folder / "large" / "fields.zarr", consolidated=False)
    assert fields["ensemble"].sizes == {"member": 16, "site": 1000}
    assert np.isfinite(fields["ensemble"].values).all()
    later = xr.open_zarr(folder / "larger" / "fields.zarr", consolidated=False)
    assert not np.array_equal(fields["truth"], later["truth"])
