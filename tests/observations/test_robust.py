"""Robust losses against their closed forms, and what they do to gross errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Diagonal
from diffassim.observations import Huber, VariationalQC

R = np.array([-9.0, -2.0, -0.7, -1e-3, 1e-9, 0.0, 1e-6, 1e-2, 0.3, 1.4, 1.6, 5.0, 30.0])


def huber(r, delta=1.5):
    return np.where(np.abs(r) <= delta, r**2 / 2, delta * np.abs(r) - delta**2 / 2)


def contaminated(r, A=0.02, d=4.0):
    gamma = A * np.sqrt(2 * np.pi) / ((1 - A) * 2 * d)
    return -np.log((gamma + np.exp(-(r**2) / 2)) / (gamma + 1))


LOSSES = pytest.mark.parametrize(
    ("loss", "expected"), [(Huber(1.5), huber), (VariationalQC(0.02, 4.0), contaminated)], ids=["Huber", "VarQC"]
)


@LOSSES
def test_the_square_is_twice_the_loss(loss, expected):
    psi = loss(jnp.asarray(R))
    np.testing.assert_allclose(psi**2 / 2, expected(R), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(np.sign(psi), np.sign(R))


@LOSSES
def test_the_gradient_is_the_departure_times_its_weight(loss, expected):
    slope = jax.vmap(jax.grad(lambda r: loss(r) ** 2 / 2))(jnp.asarray(R))
    np.testing.assert_allclose(slope, R * loss.weight(jnp.asarray(R)), rtol=1e-10, atol=1e-15)
    step = 1e-6
    np.testing.assert_allclose(slope, (expected(R + step) - expected(R - step)) / 2 / step, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.slow
def test_the_series_meets_the_closed_form(dtype):
    # On both sides of the switch from one to the other, values and two derivatives are continuous.
    loss = VariationalQC(0.3, 1.0)
    edge = jnp.sqrt(2e-4)
    sides = jnp.asarray([edge * (1 - 1e-3), edge * (1 + 1e-3)], dtype)
    psi = jax.vmap(loss)(sides)
    first, second = (jax.vmap(f)(sides) for f in (jax.grad(loss), jax.grad(jax.grad(loss))))
    assert psi.dtype == dtype
    np.testing.assert_allclose(psi[0] / sides[0], psi[1] / sides[1], rtol={"float32": 2e-3, "float64": 1e-6}[dtype])
    np.testing.assert_allclose(first[0], first[1], rtol={"float32": 1e-2, "float64": 1e-5}[dtype])
    if dtype == "float64":
        np.testing.assert_allclose(second[0], second[1], rtol=1e-2)


@LOSSES
def test_wide_settings_are_gaussian(loss, expected):
    wide = loss.replace(threshold=100.0) if isinstance(loss, Huber) else loss.replace(probability=1e-300)
    np.testing.assert_allclose(wide(jnp.asarray(R[:-1])), R[:-1], rtol=1e-12)


@pytest.mark.parametrize("loss", [Huber(1.5), VariationalQC(0.02, 4.0)], ids=["Huber", "VarQC"])
def test_missing_values_have_no_influence(loss):
    values = np.array([[1.0, np.nan, 9.0]])
    one = Diagonal(std=1.0)
    whole = da.ThreeDVar(jnp.zeros(3), one, da.Observations(values, [0], error=one, loss=loss))
    part = da.ThreeDVar(jnp.zeros(3), one, da.Observations(values[:, ::2], [0], lambda x: x[::2], error=one, loss=loss))
    v = {"state": jnp.array([0.3, -1.0, 0.2])}
    assert float(whole(v)) == float(part(v))
    np.testing.assert_array_equal(jax.grad(whole)(v)["state"], jax.grad(part)(v)["state"])


@pytest.mark.slow
def test_gross_errors_are_found_and_lose_their_weight():
    rng = np.random.default_rng(0)
    model = da.models.Lorenz96(dt=0.05)
    x_true = da.rollout(model, jnp.asarray(rng.normal(size=40) + 2), 300, at=[300])[0]
    steps = np.arange(5)
    truth = np.asarray(da.rollout(model, x_true, 4))
    values = truth + 0.5 * rng.normal(size=truth.shape)
    gross = rng.uniform(size=truth.shape) < 0.06
    values[gross] += rng.choice([-1, 1], size=gross.sum()) * rng.uniform(5, 10, size=gross.sum())
    x_b = x_true + 0.7 * rng.normal(size=40)

    def analysis(loss=None, values=values):
        obs = da.Observations(values, steps, error=Diagonal(std=0.5), loss=loss)
        cost = da.StrongConstraint4DVar(model, x_b, Diagonal(std=0.7), obs)
        return cost, da.minimize(cost, da.GaussNewton(tolerance=1e-6))

    def error(solution):
        return float(jnp.sqrt(jnp.mean((solution.state - x_true) ** 2)))

    (_, gaussian), (_, huber), (cost, quality) = analysis(), analysis(Huber(2.0)), analysis(VariationalQC(0.05, 10.0))
    _, without = analysis(values=np.where(gross, np.nan, values))
    assert bool(huber.converged & quality.converged)
    assert error(quality) < error(huber) < error(gaussian)
    assert error(quality) < 1.1 * error(without) and error(gaussian) > 2 * error(without)
    departures = (values - np.asarray(cost.trajectory(quality.control))) / 0.5
    weights = np.asarray(cost.observations[0].loss.weight(jnp.asarray(departures)))
    assert np.array_equal(weights < 0.5, gross)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Huber(0.0), "Huber.threshold must be finite and positive"),
        (lambda: VariationalQC(1.0), "VariationalQC.probability must lie between 0 and 1, found 1.0"),
        (lambda: VariationalQC(0.1, -1.0), "VariationalQC.half_width must be finite and positive"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(da.ConfigurationError, match=message):
        build()
