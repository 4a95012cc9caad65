"""Processes that each search for their own points find the analysis of one process."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.sharding import gathered
from diffassim.ensemble.local import own_parts
from tests.ensemble.test_in_parts import POINTS, TAPER, crowded, members
from tests.many_devices import apart, on_processes


def analyses() -> dict:
    """Return how far analyses on several processes are from whole ones, and how many points were searched for."""
    searched = []
    search = own_parts.within_reach

    def counted(taper, grid, shape, places, *rest, **options):
        searched.append(len(places))
        return search(taper, grid, shape, places, *rest, **options)

    own_parts.within_reach = counted
    own_parts.SAMPLED = 20
    mesh, found = da.device_mesh(), {}
    y, places = crowded()
    letkf = da.LETKF(inflation=1.05, localization=TAPER, places=places)
    for name, axis in (("members", 0), ("space", -1)):
        searched.clear()
        split = da.distribute(members(), mesh, axis)
        there, info = letkf.analyze(None, split, y)
        here, other = letkf.analyze(None, members(), y)
        found[name] = [apart(gathered(there), here), apart(info.chi_square, other.chi_square)]
        found[f"{name}: searched"] = sum(searched) - POINTS // (POINTS // 20)
    prepared, _ = letkf.prepared(da.distribute(members(), mesh), (y,))
    found["moved"] = prepared.parts.points is not None
    found["cycle"] = cycled(mesh)
    return found


def cycled(mesh) -> float:
    """Return how far a cycle over times with different places is from a whole one."""
    rng = np.random.default_rng(4)
    where = jnp.asarray(np.sort(rng.uniform(0, POINTS, (3, 150)), axis=1)[..., None])
    H = da.observations.Interpolate(spacing=1.0)
    y = da.Observations(
        jnp.asarray(8 + rng.normal(size=(3, 150))), [2, 4, 6], H, da.covariances.Diagonal(std=1.0), where=where
    )
    letkf, model = da.LETKF(localization=TAPER), da.models.Lorenz96()
    (there, _), (here, _) = (da.cycle(letkf, model, x, y) for x in (da.distribute(members(), mesh), members()))
    return apart(gathered(there), here)


@pytest.mark.slow
@pytest.mark.long
def test_every_process_searches_for_its_own_points_only():
    told = on_processes(analyses, count=2)
    for found in told:
        assert max(found["members"] + found["space"]) < 1e-12, found
        assert found["cycle"] < 1e-12
        assert found["moved"]
    for name in ("members", "space"):
        searched = [found[f"{name}: searched"] for found in told]
        assert sum(searched) == POINTS and max(searched) < POINTS, searched


@pytest.mark.parametrize("numbers", [[], [3], [0, 1, 2], [1, 2, 4, 7, 8, 9]])
def test_ranges_are_the_numbers(numbers):
    ranges = own_parts._ranges(np.asarray(numbers, np.int64))
    assert [n for a, b in ranges for n in range(a, b)] == numbers
