"""A covariance that is the same at all longitudes: against the sum over shifted samples, truncation, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.covariances import ZonallyHomogeneous


def samples(n, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(4, 3, n))
    return {"h": 30.0 * common + rng.normal(size=common.shape), "u": common[:, :2] * 2}


def flat(x):
    return np.concatenate([np.asarray(x[name]).reshape(-1) for name in ("h", "u")])


@pytest.mark.parametrize("n", [6, 7])
def test_it_is_the_mean_product_over_samples_and_rotations(n):
    found = samples(n)
    B = ZonallyHomogeneous.from_samples(found)
    turned = [
        flat({name: np.roll(part[i], shift, -1) for name, part in found.items()})
        for i in range(4)
        for shift in range(n)
    ]
    expected = np.mean([np.outer(x, x) for x in turned], axis=0)
    zero = {name: jnp.zeros(part.shape[1:]) for name, part in found.items()}
    size = expected.shape[0]
    units = [
        {"h": jnp.asarray(e[: 3 * n]).reshape(3, n), "u": jnp.asarray(e[3 * n :]).reshape(2, n)} for e in np.eye(size)
    ]
    matrix = np.stack([flat(B.apply(unit)) for unit in units])
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert jax.tree.structure(B.control_like(zero)) == jax.tree.structure(zero)


def test_increments_hold_the_waves_of_the_samples_and_no_others():
    n = 16
    longitude = 2 * np.pi / n * np.arange(n)
    rng = np.random.default_rng(2)
    waves = sum(
        rng.normal(size=(5, 2, 1)) * np.cos(m * longitude) + rng.normal(size=(5, 2, 1)) * np.sin(m * longitude)
        for m in (1, 3)
    )
    B = ZonallyHomogeneous.from_samples(jnp.asarray(waves))
    draw = B.sample(jax.random.key(0), jnp.zeros((2, n)))
    power = np.abs(np.fft.rfft(draw, axis=-1)).sum(axis=0)
    assert power[[1, 3]].min() > 0.1 and np.delete(power, [1, 3]).max() < 1e-6 * power.max()


def test_draws_have_the_variances_of_the_samples():
    found = samples(8, 3)
    B = ZonallyHomogeneous.from_samples(found)
    batch = {name: jnp.zeros((4000, *part.shape[1:])) for name, part in found.items()}
    drawn = B.sample(jax.random.key(1), batch)
    for name, part in found.items():
        expected = np.sqrt(np.mean(part**2, axis=(0, 2)))
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(drawn[name]), axis=(0, 2))), expected, rtol=0.05)


def test_rows_without_variance_get_the_floor_or_nothing():
    found = np.zeros((3, 2, 4))
    found[:, 0] = np.random.default_rng(0).normal(size=(3, 4))
    B = ZonallyHomogeneous.from_samples(jnp.asarray(found))
    assert float(jnp.abs(B.sqrt(jnp.ones((2, 4)))[1]).max()) == 0
    assert float(ZonallyHomogeneous.from_samples(jnp.asarray(found), floor=0.1).scale[1, 0]) > 0


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match="same number of samples"):
        ZonallyHomogeneous.from_samples({"a": jnp.ones((3, 4)), "b": jnp.ones((3, 5))})
    with pytest.raises(DataError, match="samples"):
        ZonallyHomogeneous.from_samples(jnp.full((2, 4), jnp.nan))
    with pytest.raises(ConfigurationError, match="floor"):
        ZonallyHomogeneous.from_samples(jnp.ones((2, 1, 4)), floor=2.0)
    B = ZonallyHomogeneous.from_samples(jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4))))
    with pytest.raises(ShapeError, match="the state has"):
        B.check("B", jnp.ones((3, 4)))
    with pytest.raises(ShapeError, match="from_samples makes them"):
        ZonallyHomogeneous(B.roots, B.scale, 9)
