"""Observations: masks, NaN, several streams, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import DataError, ShapeError

R = da.covariances.Diagonal(std=2.0)
STATES = jnp.arange(12.0).reshape(3, 4)


def test_innovation_is_the_whitened_departure():
    obs = da.Observations(STATES + 1.0, [0, 1, 2], error=R)
    np.testing.assert_allclose(obs.innovation(STATES), np.full((3, 4), 0.5), rtol=1e-15)


def test_nan_is_missing_and_has_no_influence_on_values_and_gradients():
    values = np.array([[1.0, np.nan, 3.0, 4.0]] * 3)
    with_nan = da.Observations(values, [0, 1, 2], error=R)
    removed = da.Observations(values[:, [0, 2, 3]], [0, 1, 2], operator=da.observations.Subset([0, 2, 3]), error=R)

    def misfit(obs, states):
        return jnp.sum(obs.innovation(states) ** 2)

    np.testing.assert_allclose(misfit(with_nan, STATES), misfit(removed, STATES), rtol=1e-15)
    np.testing.assert_allclose(jax.grad(misfit, 1)(with_nan, STATES), jax.grad(misfit, 1)(removed, STATES), rtol=1e-15)
    assert int(with_nan.count()) == 9


def test_a_prediction_that_is_not_finite_at_a_missing_place_does_not_poison_the_gradient():
    obs = da.Observations(np.array([[np.nan, 1.0]]), [0], operator=lambda x: jnp.log(x), error=R)
    gradient = jax.grad(lambda x: jnp.sum(obs.innovation(x[None]) ** 2))(jnp.array([-1.0, 4.0]))
    assert np.isfinite(gradient).all() and gradient[0] == 0


def test_mask_and_nan_combine():
    obs = da.Observations(np.array([[np.nan, 1.0, 2.0]]), [0], mask=np.array([True, True, False]), error=R)
    assert obs.mask.tolist() == [[False, True, False]]


def test_places_change_from_time_to_time():
    places = jnp.array([[0, 1], [2, 3], [1, 1]])
    obs = da.Observations(np.zeros((3, 2)), [0, 1, 2], operator=da.observations.Subset(), error=R, where=places)
    np.testing.assert_array_equal(obs.predict(STATES), np.take_along_axis(np.asarray(STATES), np.asarray(places), 1))


def test_pytree_values():
    obs = da.Observations(
        {"a": np.zeros((3, 2)), "b": np.full(3, np.nan)},
        [0, 1, 2],
        operator=lambda x: {"a": x[:2], "b": x[3]},
        error=R,
    )
    innovation = obs.innovation(STATES)
    assert np.all(innovation["b"] == 0)
    np.testing.assert_allclose(innovation["a"], -0.5 * STATES[:, :2], rtol=1e-15)


def test_integers_become_floats_and_float32_is_kept():
    assert da.Observations(np.ones((1, 2), int), [0], error=R).values.dtype == jnp.float64
    single = da.Observations(np.ones((1, 2), np.float32), [0], error=R)
    assert single.innovation(jnp.zeros((1, 2), jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"values": np.zeros((2, 3)), "steps": [0]}, ShapeError, r"values has shape \(2, 3\), but steps has 1 times"),
        ({"values": np.zeros((1, 3)), "steps": [-1]}, DataError, "step -1 lies before the window start"),
        ({"values": np.zeros((1, 3)), "steps": [0.5]}, DataError, "steps must be integers"),
        ({"values": np.full((1, 3), np.inf), "steps": [0]}, DataError, "3 infinite entries; use NaN for missing"),
        ({"values": np.zeros((1, 3)), "steps": [0], "mask": np.ones((1, 4), bool)}, ShapeError, "mask of shape"),
        ({"values": np.zeros((1, 3)), "steps": [[0]]}, ShapeError, r"steps has \(windows, times\) \(1, 1\)"),
        ({"values": np.zeros((1, 3)), "steps": [[[0]]]}, ShapeError, r"steps must have shape \(time,\) or"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        da.Observations(**arguments, error=R)


def test_an_operator_of_another_shape_is_named():
    obs = da.Observations(np.zeros((3, 2)), [0, 1, 2], error=R)
    with pytest.raises(ShapeError, match=r"H\(x\) gives shape \(3, 4\).*values have shape \(3, 2\)"):
        obs.innovation(STATES)


def test_missing_error_covariance_is_named():
    with pytest.raises(DataError, match="`error` is missing"):
        da.Observations(np.zeros((1, 2)), [0])
