"""Adaptive inflation: the mode it finds, what it recovers, cycles and their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import AdaptiveInflation, InflatedEnsemble
from tests.ensemble.zoo import KEY, ensemble, observed, values

METHOD = AdaptiveInflation(da.ETKF(rotation=True))


@pytest.mark.slow
def test_the_factor_is_the_mode_of_its_posterior():
    E, y = ensemble(), observed(3 * values())
    run = jax.jit(lambda shape, belief: METHOD.replace(shape=shape).analyze(KEY, belief, y))
    inflated = jax.jit(lambda r, E: METHOD.filter.analyze(KEY, da.ensemble.PriorInflation(r).before(E), y)[0])
    for before, shape in ((1.0, 3.0), (0.3, 50.0), (8.0, 50.0)):
        belief = InflatedEnsemble(E, jnp.asarray(before))
        after, _ = run(shape, belief)
        d = (np.asarray(y.values)[0] - np.mean(np.asarray(E), 0)) / 0.8
        v = np.var(np.asarray(E), 0, ddof=1) / 0.64
        grid = np.exp(np.log(float(after.factor)) + np.linspace(-1, 1, 2001))[:, None]
        density = (shape + 1) * (np.log(grid) + before / grid)[:, 0]
        density += 0.5 * np.sum(np.log(1 + grid * v) + d**2 / (1 + grid * v), axis=1)
        assert abs(int(np.argmin(density)) - 1000) <= 1  # the middle of the grid
        np.testing.assert_allclose(after.members, inflated(before**0.5, E), rtol=1e-12)
    identical, info = run(100.0, METHOD.init(jnp.ones_like(E)))
    np.testing.assert_allclose([float(identical.factor), info.analysis_spread], [1.0, 0.0], atol=1e-12)


@pytest.mark.slow
def test_many_innovations_tell_the_factor():
    rng = np.random.default_rng(0)
    spread = np.linspace(0.5, 2.0, 4000)
    E = jnp.asarray(rng.normal(size=(60, 4000)) * spread)
    truth = 2.5**0.5 * spread * rng.normal(size=4000)
    y = da.Observations((truth + rng.normal(size=4000))[None], [0], error=da.covariances.Diagonal(std=1.0))
    after, _ = METHOD.analyze(KEY, METHOD.init(E), y)
    assert abs(float(after.factor) - 2.5) < 0.15


@pytest.mark.slow
def test_a_cycle_goes_on_with_the_same_bits_and_missing_data_leave_the_factor():
    model, E = da.models.FunctionModel(lambda x, t: 1.02 * x), ensemble()
    data, mask = 2 * values(rows=4), np.array([True, False, True, True])[:, None]
    record = da.Observations(data, [1, 2, 3, 4], mask=mask, error=da.covariances.Diagonal(std=0.8))
    times = da.analysis_times(record)
    last, history = da.cycle(METHOD, model, E, times, key=KEY, members=True)
    factors = np.asarray(history.members.factor)
    assert factors[0] != 1 and factors[1] == factors[0] and factors[2] != factors[1]
    middle, first = da.cycle(METHOD, model, E, times[:2], key=KEY)
    end, _ = da.cycle(METHOD, model, middle, times[2:], key=KEY, start=first.step[-1])
    assert np.array_equal(end.members, last.members) and np.array_equal(end.factor, last.factor)

    def loss(s):
        method = METHOD.replace(shape=100.0 + 50 * s, damping=0.9 + 0.1 * s)
        moved = record.replace(values=data * (1 + s), error=da.covariances.Diagonal(std=0.8 + s))
        end, history = da.cycle(method, model, E * (1 + s), moved, key=KEY)
        return jnp.sum(jnp.sin(history.analysis.mean)) + end.factor

    gradient, loss, h = jax.jit(jax.grad(loss)), jax.jit(loss), 1e-5
    np.testing.assert_allclose(gradient(0.0), (loss(h) - loss(-h)) / (2 * h), rtol=1e-7)


def test_what_cannot_be_is_named():
    for options, match in (({"shape": 2.0}, "above 2"), ({"damping": 1.5}, r"in \[0, 1\]")):
        with pytest.raises(ConfigurationError, match=match):
            AdaptiveInflation(da.ETKF(), **options)
    with pytest.raises(ConfigurationError, match="must be an ensemble filter"):
        AdaptiveInflation(da.EKF())
    with pytest.raises(ConfigurationError, match="factor must be finite and positive"):
        METHOD.init(InflatedEnsemble(ensemble(), -1.0))
    with pytest.raises(ShapeError, match="at least two members"):
        METHOD.init(ensemble(members=1))
    with pytest.raises(ConfigurationError, match="key="):
        METHOD.analyze(None, METHOD.init(ensemble()), observed(values()))


@pytest.mark.slow
def test_it_does_what_the_best_fixed_inflation_does_under_a_model_error():
    """Lorenz-96 with a forcing of 7 instead of 8; the best of a table is 1.1 to 1.2."""
    right, wrong, at = da.models.Lorenz96(), da.models.Lorenz96(forcing=7.0), np.arange(1, 801)

    @jax.jit
    def error(method, key):
        keys = jax.random.split(key, 3)
        draws = jax.random.normal(keys[0], (25, 40)) * 0.03 + jnp.eye(40)[:1]
        truth = da.rollout(right, draws[0], 800, at=at)
        record = da.Observations(
            truth + jax.random.normal(keys[1], truth.shape), at, error=da.covariances.Diagonal(std=1.0)
        )
        _, history = da.cycle(method, wrong, draws[1:], record, key=keys[2])
        return jnp.mean(jnp.sqrt(jnp.mean((history.analysis.mean - truth)[200:] ** 2, axis=1)))

    def mean_error(method):
        return np.mean([error(method, key) for key in jax.random.split(jax.random.key(1), 4)])

    fixed = [mean_error(da.ETKF(r, rotation=True)) for r in (1.02, 1.06, 1.1, 1.15, 1.2, 1.3)]
    assert max(fixed) > 1.5  # what is at stake
    assert mean_error(METHOD) < 1.03 * min(fixed), fixed
