"""Grids: normalized axes, and errors."""

from __future__ import annotations

import jax
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.grids.grid import Grid


@pytest.mark.parametrize(
    ("grid", "spacing", "periodic"),
    [
        (Grid(), (1.0,), (True,)),
        (Grid(0.5, False), (0.5,), (False,)),
        (Grid((1.0, 2.0)), (1.0, 2.0), (True, True)),
        (Grid(0.5, (True, False, True)), (0.5, 0.5, 0.5), (True, False, True)),
        (Grid([1.0, 2.0], [True, False]), (1.0, 2.0), (True, False)),
    ],
)
def test_one_value_holds_for_all_axes(grid, spacing, periodic):
    assert (grid.spacing, grid.periodic, grid.ndim) == (spacing, periodic, len(periodic))


def test_the_spacing_is_a_number_and_the_boundary_is_static():
    assert jax.tree.leaves(Grid((1.0, 2.0), (True, False))) == [1.0, 2.0]
    gradient = jax.grad(lambda grid: grid.spacing[0] * grid.spacing[1])(Grid((3.0, 2.0)))
    assert [float(g) for g in gradient.spacing] == [2.0, 3.0]


def test_the_axes_must_fit_the_field():
    Grid((1.0, 1.0)).check("x", (5, 3, 4))
    with pytest.raises(ShapeError, match=r"x: the grid has 2 axes, but the field has shape \(3,\)"):
        Grid((1.0, 1.0)).check("x", (3,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spacing": (1.0, 2.0), "periodic": (True,)}, ShapeError, "one entry per axis, found 2 and 1"),
        ({"spacing": (1.0,) * 4}, ShapeError, "one to 3 axes are possible, found 4"),
        ({"spacing": 0.0}, ConfigurationError, "Grid.spacing must be finite and positive, but holds 0.0"),
        ({"spacing": (1.0, -1.0)}, ConfigurationError, "holds -1.0"),
        ({"periodic": "yes"}, ConfigurationError, "periodic must be True or False for each axis, found yes"),
        ({"spacing": jax.numpy.ones(2)}, ShapeError, "as a tuple of numbers, not as an array"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Grid(**arguments)
