"""A loss behind an analysis: its value from its parts, its gradient against differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.training import ForecastMisfit, WindowSample

N, STEPS, LEAD = 8, 4, 8
MODEL = da.models.Lorenz96(forcing=8.0, dt=0.05)
R = da.covariances.Diagonal(std=0.5)
MISFIT = ForecastMisfit(da.covariances.Diagonal(std=1.0), STEPS, LEAD, da.GaussNewton(tolerance=1e-10))


def sample(seed=0):
    rng = np.random.default_rng(seed)
    x = da.rollout(MODEL, jnp.asarray(rng.normal(size=N) + 2.0), 200, at=[200])[0]
    truth = da.rollout(MODEL, x, LEAD)
    window, future = np.array([2, 4]), np.array([6, 8])
    noisy = [np.array(truth[at] + 0.5 * rng.normal(size=(2, N))) for at in (window, future)]
    noisy[1][0, 3] = np.nan
    return WindowSample(
        x + jnp.asarray(rng.normal(size=N)),
        da.Observations(noisy[0], window, error=R),
        da.Observations(noisy[1], future, error=R),
        jnp.asarray(0, jnp.int32),
    )


SAMPLE = sample()


def analysis(model, given=SAMPLE):
    cost = da.StrongConstraint4DVar(model, given.background, MISFIT.route.B, given.window, steps=STEPS)
    return da.minimize(cost, MISFIT.route.minimizer).state


@pytest.mark.slow
def test_the_value_is_the_mean_squared_whitened_misfit_of_the_forecast():
    forecast = np.asarray(da.rollout(MODEL, analysis(MODEL), LEAD))[[6, 8]]
    y, known = np.asarray(SAMPLE.future.values), np.asarray(SAMPLE.future.mask)
    expected = np.mean(((forecast - y)[known] / 0.5) ** 2)
    assert known.sum() == 2 * N - 1
    np.testing.assert_allclose(MISFIT(MODEL, SAMPLE), expected, rtol=1e-8)


@pytest.fixture(scope="module")
def differences():
    """Central differences with respect to the forcing at every point, through the analysis and without it."""
    fixed = analysis(MODEL)

    def forecast_only(forcing):
        states = da.rollout(MODEL.replace(forcing=forcing), fixed, LEAD, at=SAMPLE.future.steps)
        return jnp.sum(SAMPLE.future.innovation(states) ** 2) / (2 * N - 1)

    def whole(forcing):
        return MISFIT(MODEL.replace(forcing=forcing), SAMPLE)

    h = 1e-5
    moved = 8.0 + h * jnp.concatenate([jnp.eye(N), -jnp.eye(N)])
    found = []
    for function in (whole, forecast_only):
        values = jax.jit(jax.vmap(function))(moved)
        found.append((values[:N] - values[N:]) / (2 * h))
    return found


@pytest.mark.slow
def test_the_gradient_equals_central_differences(differences):
    gradient = jax.grad(lambda f: MISFIT(MODEL.replace(forcing=f), SAMPLE))(jnp.full(N, 8.0))
    whole, forecast_only = differences
    error = np.linalg.norm(gradient - whole) / np.linalg.norm(whole)
    assert error < 1e-5
    # A gradient that stopped at the analysis would be a different one.
    assert np.linalg.norm(forecast_only - whole) > 0.1 * np.linalg.norm(whole)


@pytest.mark.slow
def test_background_errors_receive_a_gradient():
    def loss(std):
        return ForecastMisfit(da.covariances.Diagonal(std=std), STEPS, LEAD, MISFIT.route.minimizer)(MODEL, SAMPLE)

    h = 1e-5
    value = jax.jit(loss)
    expected = (value(1.0 + h) - value(1.0 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(loss)(1.0), expected, rtol=1e-5)


@pytest.mark.slow
def test_a_batch_is_the_mean_of_its_samples():
    samples = [SAMPLE, sample(1), sample(2)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples)
    single = jax.jit(MISFIT.__call__)
    expected = np.mean([single(MODEL, s) for s in samples])
    np.testing.assert_allclose(MISFIT.batch(MODEL, batch), expected, rtol=1e-8)


@pytest.mark.slow
def test_without_observations_to_predict_the_loss_is_zero_and_sound():
    nothing = SAMPLE.future.replace(mask=jnp.zeros((2, N), bool))
    value, gradient = jax.value_and_grad(lambda f: MISFIT(MODEL.replace(forcing=f), SAMPLE.replace(future=nothing)))(
        8.0
    )
    assert value == 0 and gradient == 0
