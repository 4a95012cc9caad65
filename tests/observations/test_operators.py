"""Observation operators: closed forms and errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.observations import Compose, Field, Interpolate, Linear, Subsample, Subset

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=8))
X2 = jnp.asarray(RNG.normal(size=(6, 8)))
PLACES = jnp.asarray(RNG.uniform(0.0, 2.4, size=(5, 2)))


def test_interpolation_agrees_with_scipy_on_a_bounded_grid():
    axes = (0.5 * np.arange(6), 0.4 * np.arange(8))
    expected = RegularGridInterpolator(axes, np.asarray(X2))(np.asarray(PLACES))
    operator = Interpolate(PLACES, spacing=(0.5, 0.4), periodic=(False, False))
    np.testing.assert_allclose(operator(X2), expected, rtol=1e-13)


def test_interpolation_is_exact_at_grid_points_and_wraps():
    grid = jnp.arange(8.0)[:, None]
    np.testing.assert_array_equal(Interpolate(grid, spacing=(1.0,))(X), X)
    np.testing.assert_allclose(Interpolate(jnp.array([[7.5]]), spacing=(1.0,))(X)[0], (X[7] + X[0]) / 2, rtol=1e-15)
    np.testing.assert_allclose(
        Interpolate(grid - 8.0, spacing=(1.0,))(X), Interpolate(grid, spacing=(1.0,))(X), rtol=1e-15
    )


def test_interpolation_reads_the_boundary_outside_of_a_bounded_grid():
    outside = Interpolate(jnp.array([[-3.0], [99.0]]), spacing=(1.0,), periodic=(False,))
    np.testing.assert_array_equal(outside(X), X[jnp.array([0, 7])])


def test_moving_places_do_not_recompile():
    traces = []

    @jax.jit
    def read(places):
        traces.append(1)
        return Interpolate(places, spacing=(1.0,))(X)

    read(jnp.array([[0.5]])), read(jnp.array([[3.25]]))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Subset(jnp.array([8]))(X), ShapeError, "the index 8 lies outside of the state, 0 to 7"),
        (lambda: Subset()(X), ConfigurationError, "needs `indices`"),
        (lambda: Subsample(every=0), ConfigurationError, "every=0"),
        (lambda: Linear(jnp.ones((2, 3)))(X), ShapeError, r"matrix has shape \(2, 3\), the state \(8,\)"),
        (lambda: Field("c")({"a": X}), ConfigurationError, r"no component 'c'; it has \['a'\]"),
        (lambda: Interpolate(PLACES, spacing=(1.0,), periodic=(True,))(X), ShapeError, "1-dimensional grid"),
        (lambda: Interpolate(PLACES, spacing=(1.0,), periodic=(True, True)), ConfigurationError, "spacing has 1"),
        (lambda: Compose(), ConfigurationError, "at least one"),
        (lambda: Compose(3.0), ConfigurationError, "must be callable"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
