"""Observations between model steps: their times, the interpolated states, and every cost and window that uses them."""

from __future__ import annotations

import datetime

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import diffassim as da
from diffassim.observations import steps_and_fractions
from tests.variational.zoo import GAPPY, SWIRL, VALUES, X_B, example_control, four_d_var, observed, weak

WHITE = da.covariances.Diagonal(std=0.8)
SMALL = da.covariances.Diagonal(std=0.3)
FRACTION = np.array([0.25, 0.0, 0.7])
ROW = observed(GAPPY, operator=jnp.tanh)  # steps 0, 2, 3
EACH = np.random.default_rng(5).uniform(size=GAPPY.shape)


def cost_of(name, observations):
    match name:
        case "strong":
            return four_d_var(SMALL, observations)
        case "states":
            return weak(SMALL, observations, kind=da.StateWeakConstraint4DVar)
        case "ensemble":
            members = X_B + np.random.default_rng(1).normal(size=(4, len(X_B)))
            return da.FourDEnVar.from_model(SWIRL, X_B, members, observations)


def test_fraction_zero_is_the_observation_on_the_step_bitwise():
    plain, zero = four_d_var(SMALL, ROW), four_d_var(SMALL, ROW.replace(fraction=np.zeros(3)))
    assert float(jax.jit(lambda v: plain(v) - zero(v))(example_control(plain))) == 0.0


def by_hand(cost, first, second, fraction, v):
    """Return J with the interpolation written out, from the states of both rows."""
    prior, _ = cost.residuals(v)
    f = jnp.asarray(fraction)
    if f.ndim == 1:
        h = jnp.tanh((1 - f[:, None]) * first + f[:, None] * second)
    else:
        h = (1 - f) * jnp.tanh(first) + f * jnp.tanh(second)
    departures = jnp.where(np.isfinite(GAPPY), np.nan_to_num(GAPPY) - h, 0) / 0.8
    return 0.5 * (sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(prior)) + jnp.sum(departures**2))


@pytest.mark.parametrize(("name", "fraction"), [("strong", FRACTION), ("states", EACH), ("ensemble", EACH)])
def test_every_cost_is_the_one_written_out(name, fraction):
    cost = cost_of(name, ROW.replace(fraction=fraction))
    v = example_control(cost)

    def expected(v):
        if name == "ensemble":
            rows = cost.rows(v)
            first, second = rows[:3], rows[3:]
        else:
            rows = cost.trajectory(v, 4)
            first, second = rows[np.array([0, 2, 3])], rows[np.array([1, 2, 4] if fraction.ndim == 1 else [1, 3, 4])]
        return by_hand(cost, first, second, fraction, v)

    ours, theirs = jax.jit(lambda v: (jax.value_and_grad(lambda v: cost(v))(v), jax.value_and_grad(expected)(v)))(v)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-13)
    np.testing.assert_allclose(ravel_pytree(ours[1])[0], ravel_pytree(theirs[1])[0], rtol=1e-10, atol=1e-11)


def test_a_fraction_is_a_run_time_number():
    chex.clear_trace_counter()
    cost = four_d_var(SMALL, ROW.replace(fraction=FRACTION), steps=4)
    v = example_control(cost)
    value = jax.jit(chex.assert_max_traces(lambda f: cost.replace(observations=ROW.replace(fraction=f))(v), n=1))
    first, second, third = (float(value(jnp.asarray([0.25, 0.0, f]))) for f in (0.3, 0.4, 0.5))
    assert abs(first - second) > 1e-3 and first - 2 * second + third != 0  # the sweep over costs tests derivatives


def test_both_rows_must_lie_inside_the_horizon():
    stream = observed(VALUES, [0, 2, 3]).replace(fraction=FRACTION)
    cost = four_d_var(SMALL, stream)
    assert cost.steps == 4 and stream.last_rows.tolist() == [1, 2, 4]
    counts = [int(cost.replace(horizon=jnp.asarray(h)).observation_count()) for h in range(5)]
    assert counts == [0, 8, 16, 16, 24]
    innovation, whole = jax.jit(
        jax.vmap(lambda h: cost.replace(horizon=h).residuals(cost.control())[1][0])
    )(jnp.array([3, 4], jnp.int32))  # fmt: skip
    np.testing.assert_array_equal(innovation[2], 0)
    np.testing.assert_array_equal(innovation[:2], whole[:2])
    with pytest.raises(da.ShapeError, match=r"at step 4 lies outside the window of 3 steps \(one between"):
        four_d_var(SMALL, stream, steps=3)


def test_a_forecast_is_verified_between_steps():
    still = da.models.FunctionModel(lambda x, t: x + 1.0)
    y = da.Observations(jnp.array([[2.0]]), [0], error=WHITE, fraction=[0.5])
    cost = da.StrongConstraint4DVar(still, jnp.zeros(1), WHITE, y)
    later = da.Observations(jnp.array([[3.0]]), [1], error=da.covariances.Diagonal(std=1.0), fraction=[0.25])
    score = da.variational.ForecastError(cost, later)
    assert score.steps == 2
    np.testing.assert_allclose(jax.jit(score)(cost.control()), (3 - 1.25) ** 2, rtol=1e-14)


def times_of(windows):
    return np.asarray(windows.steps) + np.asarray(windows.fraction)


def test_windows_take_an_observation_once_and_only_where_both_rows_lie():
    times = np.array([0.0, 0.5, 1.75, 2.0, 2.5, 3.5, 4.0])
    obs = da.Observations.from_times(times[:, None], times, dt=1.0, error=WHITE)
    for options in ({}, {"shift": 1}, {"shift": 1, "reuse": True}):
        windows = da.split_windows(obs, 2, 2, **options)
        shift = options.get("shift", 2)
        seen = [np.asarray(windows.values[w, :, 0])[np.asarray(windows.mask[w, :, 0])].tolist() for w in range(2)]
        if options.get("reuse"):
            assert seen == [[0.0, 0.5, 1.75, 2.0], [1.75, 2.0, 2.5]]
        else:
            assert seen == ([[0.0, 0.5, 1.75, 2.0], [2.5]] if shift == 1 else [[0.0, 0.5, 1.75, 2.0], [2.5, 3.5, 4.0]])
        mask = np.asarray(windows.mask[..., 0])
        start = shift * np.arange(2)[:, None]
        np.testing.assert_allclose(
            np.where(mask, start + times_of(windows) - np.asarray(windows.values[..., 0]), 0),
            0,
            atol=1e-12,
        )


@pytest.mark.slow
def test_a_cycle_over_windows_with_fractions():
    times = np.array([0.0, 0.5, 1.75, 2.0, 2.5, 3.5, 4.0])
    obs = da.Observations.from_times(times[:, None], times, dt=1.0, error=WHITE)
    model = da.models.FunctionModel(lambda x, t: x + 1.0)
    _, history = da.cycle(da.FourDVar(SMALL), model, jnp.zeros(1), da.split_windows(obs, 2, 2), steps=2)
    np.testing.assert_allclose(history.analysis[:, :, 0], [[0, 2], [2, 4]], atol=1e-12)  # x = t fits all of them


def test_methods_of_one_time_say_what_to_do():
    obs = da.Observations(np.zeros((2, 3)), [1, 2], error=WHITE, fraction=[0.0, 0.5])
    ensemble = np.random.default_rng(0).normal(size=(4, 3))
    model = da.models.FunctionModel(lambda x, t: x)
    with pytest.raises(da.ConfigurationError, match=r"analysis_times: .*smaller dt.*nearest step.*windows"):
        da.cycle(da.ETKF(), model, ensemble, obs)
    with pytest.raises(da.ConfigurationError, match="an ensemble analysis: observations between two steps"):
        da.ETKF().analyze(None, ensemble, obs)
    whole = obs.replace(fraction=np.zeros(2))
    plain = da.cycle(da.ETKF(), model, ensemble, obs.replace(fraction=None))[0]
    np.testing.assert_array_equal(da.cycle(da.ETKF(), model, ensemble, whole)[0], plain)


def test_times_become_steps_and_fractions():
    steps, fractions = steps_and_fractions(np.array([0.3, 0.35, 0.7999999999]), dt=0.1, origin=0.1)
    assert steps.tolist() == [2, 2, 7] and fractions[[0, 2]].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(fractions[1], 0.5)
    traced = jax.jit(lambda t: steps_and_fractions(t, 0.1))(jnp.array([0.25]))
    assert traced[0].tolist() == [2] and np.isclose(traced[1][0], 0.5)
    days = np.array(["2024-01-01T06", "2024-01-02T00"], "datetime64[h]")
    obs = da.Observations.from_times(
        np.zeros((2, 1)), days, datetime.timedelta(hours=12), datetime.datetime(2024, 1, 1), error=WHITE
    )
    assert obs.steps.tolist() == [0, 2] and obs.fraction.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ROW.replace(fraction=[0.0, 0.5, 1.0]), da.DataError, r"fraction 1.0 lies outside of \[0, 1\)"),
        (lambda: ROW.replace(fraction=[0.0, 0.5, np.nan]), da.DataError, "fraction nan lies outside"),
        (lambda: ROW.replace(fraction=0.5), da.ShapeError, r"fraction has shape \(\); it needs that of steps, \(3,\)"),
        (lambda: steps_and_fractions([0.0, np.nan], 1.0), da.DataError, r"1 of 2 times are missing \(NaN\)"),
        (lambda: steps_and_fractions([0.0], 0.0), da.ConfigurationError, "dt must be finite and positive"),
        (
            lambda: steps_and_fractions(np.array(["2024-01-01"], "datetime64[D]"), 1.0),
            da.ConfigurationError,
            "datetime64, timedelta64 and datetime64; found datetime64",
        ),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
