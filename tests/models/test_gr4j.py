"""GR4J: water balance, unit hydrographs, limits of the formulas, snow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.models import GR4J, CatchmentForcing
from diffassim.models.gr4j import unit_hydrographs


def weather(days, seed=0):
    rng = np.random.default_rng(seed)
    season = np.cos(2 * np.pi * np.arange(days) / 365)
    rain = rng.gamma(0.4, 8.0, days) * (rng.uniform(size=days) < 0.5)
    return CatchmentForcing(
        jnp.asarray(rain), jnp.asarray(1.6 - 1.5 * season), jnp.asarray(8 - 10 * season + 3 * rng.normal(size=days))
    )


@pytest.mark.parametrize("x2", [-2.0, 0.0, 3.0])
def test_water_balance(x2):
    model = GR4J(x1=300.0, x2=x2, x3=60.0, x4=2.7, forcing=weather(1000))

    @jax.jit
    def run(model):
        def day(x, t):
            y, fluxes = model.fluxes(x, t)
            gain = fluxes["precipitation"] - fluxes["evaporation"] + fluxes["exchange"] - fluxes["discharge"]
            return y, (model.stored(y) - model.stored(x) - gain, fluxes)

        return jax.lax.scan(day, model.initial_state(), jnp.arange(1000))

    _, (defect, fluxes) = run(model)
    assert np.abs(defect).max() < 1e-9
    assert all(np.all(fluxes[name] >= 0) for name in ("precipitation", "evaporation", "discharge"))
    assert np.ptp(fluxes["discharge"]) > 1


@pytest.mark.parametrize("x4", [0.5, 1.0, 1.7, 4.0, 10.0])
def test_unit_hydrographs_sum_to_one(x4):
    slow, fast = unit_hydrographs(x4, 10)
    np.testing.assert_allclose([jnp.sum(slow), jnp.sum(fast)], 1, rtol=1e-12)
    assert np.all(np.asarray(slow) >= 0)
    assert np.all(np.asarray(fast) >= 0)
    assert np.count_nonzero(slow > 0) == int(np.ceil(x4))


def test_unit_hydrograph_ordinates_are_differences_of_the_curves():
    slow, fast = unit_hydrographs(2.5, 10)
    t = np.arange(6) / 2.5
    S1 = np.minimum(t, 1) ** 2.5
    S2 = np.where(t <= 1, 0.5 * t**2.5, 1 - 0.5 * np.maximum(2 - t, 0) ** 2.5)
    np.testing.assert_allclose(slow[:5], np.diff(S1), rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(fast[:5], np.diff(S2), rtol=1e-12)


def one_day(rain, evaporation, temperature=10.0, **parameters):
    forcing = CatchmentForcing(*(jnp.full(1, value) for value in (rain, evaporation, temperature)))
    return GR4J(forcing=forcing, **parameters)


def test_production_store_follows_the_published_formulas():
    # Perrin et al. (2003), equations 3 and 6, by hand for x1 = 300, S = 150, P = 10, E = 2
    model = one_day(10.0, 2.0, x1=300.0)
    x = model.initial_state()
    level, wet = 0.5, np.tanh(8 / 300)
    store = 150 + 300 * (1 - level**2) * wet / (1 + level * wet)
    percolation = store * (1 - (1 + (4 / 9 * store / 300) ** 4) ** -0.25)
    np.testing.assert_allclose(model.step(x, 0).production, store - percolation, rtol=1e-13)


def test_evaporation_follows_the_published_formula():
    model = one_day(0.0, 4.0, x1=300.0)
    level, dry = 0.5, np.tanh(4 / 300)
    _, fluxes = model.fluxes(model.initial_state(), 0)
    np.testing.assert_allclose(fluxes["evaporation"], 150 * (2 - level) * dry / (1 + (1 - level) * dry), rtol=1e-13)


def test_snow_waits_for_warmth():
    cold, warm = one_day(12.0, 0.0, -5.0), one_day(0.0, 0.0, 4.0)
    snow = cold.step(cold.initial_state(), 0)
    np.testing.assert_allclose(snow.snow, 12.0, rtol=1e-14)
    np.testing.assert_allclose(warm.replace(melt_factor=2.0).step(snow, 0).snow, 12.0 - 2.0 * 4.0, rtol=1e-14)
    np.testing.assert_allclose(warm.replace(melt_factor=9.0).step(snow, 0).snow, 0.0, atol=1e-14)


@pytest.mark.slow
def test_gradients_pass_through_the_thresholds():
    model = GR4J(forcing=weather(400), x4=2.7)

    @jax.jit
    def total(model):
        return jnp.sum(da.rollout(model, model.initial_state(), 400, at=jnp.arange(100, 401, 10)).discharge ** 2)

    gradient = jax.jit(jax.grad(total))(model)
    for name in model.parameters:
        value, h = getattr(model, name), 1e-6 * (1 + abs(getattr(model, name)))
        ends = [total(model.replace(**{name: value + sign * h})) for sign in (1, -1)]
        # a melt or exchange threshold may lie within the difference: 1e-4 instead of the usual 1e-6
        np.testing.assert_allclose(getattr(gradient, name), (ends[0] - ends[1]) / (2 * h), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("place", ["empty", "full"])
def test_derivatives_at_thresholds_are_finite(place):
    # No rain beyond evaporation, exactly melting, and stores at their bounds: every max, min and clip is at its kink.
    forcing = CatchmentForcing(jnp.array([3.0, 0.0, 4.0]), jnp.array([3.0, 0.0, 0.0]), jnp.array([3.0, -1.0, 0.0]))
    model = GR4J(x1=300.0, x2=0.5, x3=60.0, x4=2.0, melt_temperature=3.0, days=3, forcing=forcing)
    x = jax.tree.map(jnp.zeros_like, model.initial_state())
    if place == "full":
        x = x.replace(production=jnp.asarray(300.0), routing=jnp.asarray(60.0))

    def total(model, x):
        return jnp.sum(da.rollout(model, x, 3).discharge) + model.stored(x)

    first = jax.jit(jax.grad(total, argnums=(0, 1)))
    for leaf in jax.tree.leaves((first(model, x), jax.jit(jax.jacfwd(total, argnums=1))(model, x))):
        assert np.isfinite(leaf).all()


def test_the_state_decides_the_precision():
    model = GR4J(forcing=weather(3))  # double precision, as it comes from a file
    x = jax.tree.map(jnp.float32, model.initial_state())
    assert {leaf.dtype for leaf in jax.tree.leaves(da.rollout(model, x, 3))} == {jnp.dtype("float32")}


def test_missing_forcing_is_named():
    with pytest.raises(da.ConfigurationError, match="GR4J: `forcing` is missing"):
        GR4J().step(GR4J().initial_state(), 0)


def test_series_of_different_lengths_are_named():
    with pytest.raises(da.ShapeError, match="the series must have the same length"):
        CatchmentForcing(jnp.ones(3), jnp.ones(4), jnp.ones(3))
