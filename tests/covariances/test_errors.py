"""What cannot be a covariance is named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances import (
    Blocks,
    Dense,
    Diagonal,
    Diffusion,
    Ensemble,
    ExplicitDiffusion,
    Gaussian,
    Kronecker,
    Matern,
    MeasuredSpectrum,
    Sum,
)
from diffassim.grids import Grid

LINE = Grid(1.0, False)


@pytest.mark.parametrize("family", [Gaussian, Matern, Diffusion])
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, np.array([1.0, -2.0, 1.0])])
def test_standard_deviations_and_lengths_must_be_positive(family, bad):
    with pytest.raises(ConfigurationError, match=f"{family.__name__}: std must be finite and positive"):
        family(bad, 1.0, LINE)
    if np.ndim(bad) == 0:
        with pytest.raises(ConfigurationError, match=f"{family.__name__}: length must be finite and positive"):
            family(1.0, bad, LINE)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, np.array([1.0, 0.0]), {"a": 1.0, "b": -1.0}])
def test_variances_must_be_positive(bad):
    with pytest.raises(ConfigurationError, match=r"Diagonal: std must be finite and positive.*Zero\(\)"):
        Diagonal(std=bad)
    with pytest.raises(ConfigurationError, match="Diagonal: variance must be finite and positive"):
        Diagonal.from_variance(bad)


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.array([[1.0, 0.5], [0.2, 1.0]]), ConfigurationError, r"not symmetric, .* reaches 0\.3; use \(B \+ B\.T\)"),
        (
            np.array([[1.0, 2.0], [2.0, 1.0]]),
            ConfigurationError,
            "not positive definite, its smallest eigenvalue is -1",
        ),
        (np.ones((2, 2)), ConfigurationError, "not positive definite"),
        (np.diag([1.0, -1.0]), ConfigurationError, "not positive definite"),
        (np.diag([1.0, np.nan]), ConfigurationError, "holds values that are not finite"),
        (np.ones((2, 3)), ShapeError, r"must be square, found shape \(2, 3\)"),
        (np.ones(3), ShapeError, r"must be square, found shape \(3,\)"),
        (np.stack([np.eye(2), -np.eye(2)]), ConfigurationError, "not positive definite"),
    ],
)
def test_a_matrix_that_is_no_covariance(matrix, error, message):
    with pytest.raises(error, match=message):
        Dense.from_matrix(matrix)


def test_a_covariance_matrix_may_be_a_list_of_lists():
    expected = Dense.from_matrix(np.array([[2.0, 1.0], [1.0, 3.0]])).factor
    np.testing.assert_array_equal(Dense.from_matrix([[2, 1], [1, 3]]).factor, expected)


def test_rounding_is_not_asymmetry():
    F = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    Dense.from_matrix(F @ np.diag([1, 2, 3, 4, 5]).astype(np.float32) @ F.T + np.eye(5, dtype=np.float32))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: -1.0 * Diagonal(1.0), ConfigurationError, "finite number >= 0 only, found -1.0"),
        (lambda: np.nan * Diagonal(1.0), ConfigurationError, "found nan"),
        (lambda: Diagonal(1.0) * np.ones(3), ConfigurationError, "belongs into its standard deviations"),
        (lambda: Sum(()), ConfigurationError, "at least one covariance"),
        (lambda: Gaussian(1.0, 1.0, LINE, nugget=1.5), ConfigurationError, r"nugget must be a share .*found 1\.5"),
        (lambda: Gaussian(1.0, (1.0, 2.0), LINE), ShapeError, "length has 2 entries, but the grid has 1 axes"),
        (lambda: Gaussian(1.0, np.ones(3), LINE), ShapeError, "length must be a number, or a tuple"),
        (lambda: Matern(1.0, 1.0, LINE, smoothness=0.0), ConfigurationError, "smoothness must be finite and positive"),
        (lambda: Diffusion(1.0, 1.0, LINE, order=3), ConfigurationError, "order must be an even number .*found 3"),
        (lambda: Diffusion(1.0, np.ones((2, 2)), LINE), ShapeError, "vary along its own axis only"),
        (lambda: Diffusion(1.0, np.ones(3), Grid((1.0, 1.0))), ShapeError, "as a tuple of one entry per axis"),
        (lambda: ExplicitDiffusion(1.0, 3.0, LINE), ConfigurationError, "axis 0; give an order of at least 20, or use"),
        (lambda: Kronecker(), ConfigurationError, "at least one; found none"),
        (lambda: Kronecker(Diagonal(1.0), 3.0), ConfigurationError, "found Diagonal, float"),
        (lambda: Ensemble(np.ones((1, 3))), ShapeError, r"at least two members, found shapes \(1, 3\)"),
        (lambda: Ensemble({"a": np.ones((3, 2)), "b": np.ones((4, 2))}), ShapeError, "same leading member axis"),
    ],
)
def test_bad_settings_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("B", "x", "message"),
    [
        (Diagonal(np.ones(4)), jnp.ones(3), r"B: Diagonal std has shape \(4,\), which does not broadcast"),
        (Diagonal({"a": 1.0}), {"b": jnp.ones(3)}, "not the structure of the state"),
        (Dense.from_matrix(np.eye(4)), jnp.ones(3), r"4 components on the last axis, but the state has shape \(3,\)"),
        (Dense.from_matrix(np.eye(4)), {"a": jnp.ones(4)}, "use Blocks"),
        (Blocks({"a": Diagonal(1.0)}), {"b": jnp.ones(2)}, "the structure of Blocks is not that of the state"),
        (Blocks({"a": Dense.from_matrix(np.eye(2))}), {"a": jnp.ones(3)}, r"B\['a'\]: Dense"),
        (Gaussian(1.0, 1.0, Grid((1.0, 1.0))), jnp.ones(3), "B: the grid has 2 axes"),
        (Diffusion(1.0, np.ones(4), LINE), jnp.ones(3), r"length of axis 0 has shape \(4,\), the axis has 3 points"),
        (Diffusion(1.0, 1.0, Grid(1.0, True)), jnp.ones(2), "at least 3 points on a periodic axis, found 2"),
        (Kronecker(Diagonal(1.0), Diagonal(1.0)), jnp.ones(3), "an array with 2 trailing axes"),
        (Ensemble(np.eye(3)), jnp.ones(4), r"the members have shape \(3,\), the state has \(4,\)"),
        (Diagonal(1.0) + Dense.from_matrix(np.eye(4)), jnp.ones(3), "4 components"),
    ],
)
def test_a_covariance_of_another_state_is_named(B, x, message):
    with pytest.raises(ShapeError, match=message):
        B.check("B", x)


def test_a_singular_gaussian_is_named_outside_and_nan_inside_of_traced_code():
    B, x = Gaussian(1.0, 8.0, Grid(1.0, True), nugget=0.0), jnp.ones(40)
    for operation in (B.whiten, B.solve, B.logdet):
        with pytest.raises(ConfigurationError, match="give a nugget"):
            operation(x)
    assert np.isnan(jax.jit(lambda B: B.whiten(x))(B)).all()


def test_a_negative_weight_is_nan_inside_of_traced_code():
    def increment(weight):
        return (weight * Diagonal(1.0)).sqrt(jnp.ones(2)), (weight * Diagonal(1.0)).whiten(jnp.ones(2))

    negative, zero = jax.jit(increment)(-0.5), jax.jit(increment)(0.0)
    assert np.isnan(negative).all()
    assert zero[0].tolist() == [0.0, 0.0]


def test_a_measured_spectrum_names_what_is_wrong_with_it():
    circle, plane = Grid(1.0, True), Grid(1.0, (True, True))
    with pytest.raises(ConfigurationError, match="periodic along all"):
        MeasuredSpectrum(jnp.ones(4), LINE)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ConfigurationError, match="finite and not negative"):
            MeasuredSpectrum(jnp.array([1.0, bad]), circle)
    with pytest.raises(ConfigurationError, match="mode and its conjugate"):
        MeasuredSpectrum(jnp.ones((4, 3)).at[1, 0].set(2.0), plane)
    with pytest.raises(ShapeError, match=r"shape \(3,\), but the grid 2 axes"):
        MeasuredSpectrum(jnp.ones(3), plane)
    with pytest.raises(ShapeError, match="need one leading axis before the grid's 2"):
        MeasuredSpectrum.from_samples(jnp.ones((4, 4)), plane)
    with pytest.raises(ShapeError, match=r"modes of shape \(5,\)"):
        MeasuredSpectrum(jnp.ones(4), circle).check("x", jnp.ones((3, 8)))
    empty = MeasuredSpectrum.from_samples(jnp.ones((2, 4)), circle)
    for operation in (empty.solve, empty.whiten, empty.logdet):
        with pytest.raises(ConfigurationError, match=r"some modes have no power.*floor"):
            operation(jnp.ones(4))
