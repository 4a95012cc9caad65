"""Tapers at all distances and radii, alone and as products over the factors of a grid."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import (
    EAKF,
    Boxcar,
    Exponential,
    GaspariCohn,
    LocalEnKF,
    ProductTaper,
    SquaredExponential,
    Taper,
    Wendland,
    nearest_observations,
)
from diffassim.grids import Categories, Levels, ProductGrid
from diffassim.grids.grid import Grid
from tests.ensemble.zoo import KEY, observed

# Each taper with its formula, at distance r for the radius 2.5, as a plain function of one number.
TAPERS = {
    GaspariCohn: None,  # tests/ensemble/test_local.py has the printed equation
    Wendland: lambda r: max(1 - r / 2.5 / 20**0.5, 0) ** 4 * (4 * r / 2.5 / 20**0.5 + 1),
    SquaredExponential: lambda r: np.exp(-(r**2) / 12.5),
    Exponential: lambda r: np.exp(-r / 2.5),
    Boxcar: lambda r: float(r < 2.5),
}
SMOOTH = [GaspariCohn, Wendland, SquaredExponential]
every_taper = pytest.mark.parametrize("taper", TAPERS)


def test_every_exported_taper_is_listed():
    exported = {thing for thing in vars(da.ensemble).values() if inspect.isclass(thing) and issubclass(thing, Taper)}
    assert exported - {Taper} == set(TAPERS)


@every_taper
def test_it_is_its_formula_and_falls_from_one(taper):
    r = jnp.linspace(0, 20, 161)
    found = taper(2.5)(r)
    assert float(taper(2.5)(float(r[10]))) == float(found[10])  # a plain number is a distance as well
    if TAPERS[taper] is not None:
        np.testing.assert_allclose(found, [TAPERS[taper](float(x)) for x in r], atol=1e-15)
    assert found[0] == 1 and np.all(np.diff(found) <= 0) and np.all(found >= 0)
    single = taper(2.5)(r.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, found, atol=1e-6)


@every_taper
def test_derivatives_equal_central_differences(taper):
    r = jnp.array([0.0, 0.3, 1.7, 3.1, 5.9, 40.0])
    total = lambda radius, r: jnp.sum(jnp.sin(taper(radius)(r)))  # noqa: E731
    for argument in (0, 1):
        derivative = jnp.sum(jax.grad(total, argument)(2.5, r[1:]))
        h = 1e-5
        shifted = [total(2.5 + s * h * (argument == 0), r[1:] + s * h * (argument == 1)) for s in (1, -1)]
        np.testing.assert_allclose(derivative, (shifted[0] - shifted[1]) / (2 * h), atol=1e-9)
    assert (float(jax.grad(total)(2.5, r)) == 0) == (taper is Boxcar)
    if taper in SMOOTH:
        np.testing.assert_allclose(jax.grad(jax.grad(taper(2.5)))(1e-9), -1 / 2.5**2, rtol=1e-6)


@every_taper
@pytest.mark.parametrize("radius", [1e-100, 1e100, np.inf])
def test_extreme_radii_have_their_limits_and_finite_derivatives(taper, radius):
    r = jnp.array([0.0, 1e-3, 1.0, 1e6, jnp.inf])
    expected = [1.0, 1.0, 1.0, 1.0, 0.0] if radius > 1 else [1.0, 0.0, 0.0, 0.0, 0.0]
    np.testing.assert_array_equal(taper(radius)(r), expected)
    slopes = jax.jacobian(lambda radius, r: taper(radius)(r), (0, 1))(radius, r)
    assert all(np.isfinite(slope).all() for slope in slopes)


@every_taper
def test_a_radius_of_zero_is_named_or_leaves_nothing(taper):
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ConfigurationError, match=f"{taper.__name__}: radius must be positive"):
            taper(wrong)
    value, slope = jax.jit(jax.value_and_grad(lambda radius: jnp.sum(taper(radius)(jnp.array([0.0, 1.0])))))(0.0)
    assert value == 0 and slope == 0


@every_taper
def test_correlations_are_positive_and_the_step_is_none(taper):
    places = np.random.default_rng(0).uniform(0, 4, size=(60, 3))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    smallest = np.linalg.eigvalsh(taper(1.0)(jnp.asarray(apart))).min()
    assert smallest < -0.1 if taper is Boxcar else smallest > -1e-12


Z, GRID = jnp.array([0.0, 0.4, 1.5]), Grid(spacing=2.0)
PRODUCT = ProductGrid((Levels(Z), GRID))
VERTICAL, HORIZONTAL = Exponential(0.7), GaspariCohn(1.5)


@pytest.mark.slow
def test_on_a_full_grid_the_product_is_that_of_kronecker():
    points = PRODUCT.points((3, 5))
    distance = PRODUCT.distance(points[:, None], points[None], (3, 5))
    line = GRID.points((5,))
    factors = [VERTICAL(jnp.abs(Z[:, None] - Z[None])), HORIZONTAL(GRID.distance(line[:, None], line[None], (5,)))]
    np.testing.assert_allclose(ProductTaper((VERTICAL, HORIZONTAL))(distance), np.kron(*factors), rtol=1e-14)


def column(radii, method):
    """Return a method that tapers vertically and horizontally, of an observation at one point of the grid."""
    taper = ProductTaper((Exponential(radii[0]), GaspariCohn(radii[1])))
    return method(localization=taper, grid=PRODUCT, places=PRODUCT.points((3, 5))[6:7])


@pytest.mark.parametrize("method", [da.LETKF, EAKF, LocalEnKF])
@pytest.mark.slow
def test_one_observation_acts_as_far_as_the_product_says(method):
    E = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3, 5)))
    y = observed(np.array([[2.0]]), operator=lambda x: x[1, 1:2])

    def analysed(radii):
        return column(radii, method).analyze(KEY, E, y)[0]

    found = analysed((0.7, 1.5))
    if method is not da.LETKF:  # there the taper acts on the covariance, so that the mean moves in proportion
        points = PRODUCT.points((3, 5))
        rho = ProductTaper((VERTICAL, HORIZONTAL))(PRODUCT.distance(points, points[6:7], (3, 5))).reshape(3, 5)
        moved = method().analyze(KEY, E, y)[0] if method is EAKF else da.EnKF().analyze(KEY, E, y)[0]
        np.testing.assert_allclose((found - E).mean(0), rho * (moved - E).mean(0), atol=1e-13)
    above, below = (np.abs(analysed((radius, 1.5)) - E).max(axis=(0, 2)) for radius in (1e-6, jnp.inf))
    assert np.all(above[[0, 2]] < 1e-12) and above[1] > 0.1 and np.all(below > 0.01)

    score = jax.jit(lambda v, h: jnp.sum(analysed((v, h)) ** 3))
    for argument in (0, 1) if method is da.LETKF else ():
        h = 1e-5 * np.eye(2)[argument]
        difference = (score(*(np.array([0.7, 1.5]) + h)) - score(*(np.array([0.7, 1.5]) - h))) / 2e-5
        np.testing.assert_allclose(jax.grad(score, argument)(0.7, 1.5), difference, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_variables_that_tell_nothing_about_each_other_are_analysed_alone():
    rng = np.random.default_rng(2)
    E, y = jnp.asarray(rng.normal(size=(6, 2, 8))), rng.normal(size=(1, 2, 8))
    alone = da.LETKF(localization=GaspariCohn(1.2))

    def together(apart):
        grid = ProductGrid((Categories(jnp.array([[0.0, 1.0], [1.0, 0.0]]) * apart), Grid()))
        method = da.LETKF(localization=ProductTaper((SquaredExponential(1.0), GaspariCohn(1.2))), grid=grid)
        return method.analyze(None, E, observed(y))[0]

    with np.errstate(invalid="ignore"):
        grid = ProductGrid((Categories(jnp.array([[0.0, jnp.inf], [jnp.inf, 0.0]])), Grid()))
    apart = da.LETKF(localization=ProductTaper((SquaredExponential(1.0), GaspariCohn(1.2))), grid=grid)
    found, _ = apart.analyze(None, E, observed(y))
    expected = [alone.analyze(None, E[:, k], observed(y[:, k]))[0] for k in (0, 1)]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-12)
    # At no distance they are one variable: all values count for both.
    one, _ = alone.analyze(None, E, observed(y))
    np.testing.assert_allclose(together(0.0), one, atol=1e-12)
    score = jax.jit(lambda apart: jnp.sum(together(apart) ** 3))
    difference = (score(1.2 + 1e-5) - score(1.2 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(score)(1.2), difference, rtol=1e-7)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (lambda: ProductTaper(()), ConfigurationError, "must be a tuple of tapers"),
        (lambda: ProductTaper((VERTICAL,))(jnp.zeros(2)), ShapeError, "1 tapers, but 1 distances.*ProductGrid"),
        (lambda: VERTICAL((jnp.zeros(2), jnp.zeros(2))), ShapeError, "have 2 distances; give ProductTaper"),
        (lambda: ProductGrid((Grid(),)), ConfigurationError, "tuple of at least two"),
        (lambda: PRODUCT.points((5,)), ShapeError, "the grid has 2 axes"),
        (lambda: PRODUCT.points((2, 5)), ShapeError, "there are 3 coordinates"),
        (lambda: Levels(jnp.zeros((2, 2))), ShapeError, "must be a vector"),
        (lambda: Categories(jnp.zeros((2, 3))), ShapeError, "square matrix"),
        (lambda: Categories(jnp.array([[0.0, 1.0], [2.0, 0.0]])), ConfigurationError, "symmetric"),
        (lambda: Categories(jnp.zeros((2, 2))).points((3,)), ShapeError, "there are 2 of them"),
        (
            lambda: nearest_observations(PRODUCT, (3, 5), np.zeros((1, 2)), 1),
            ConfigurationError,
            "depends on the tapers",
        ),
    ],
)
def test_what_does_not_fit_is_named(wrong, error, text):
    with pytest.raises(error, match=text):
        wrong()
