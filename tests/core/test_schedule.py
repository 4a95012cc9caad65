"""Nested scans against a plain loop, and the shallowest nest that fits."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.schedule import checkpoint_factors, nested_scan

X = jnp.array([0.3, -1.0, 2.0])
ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(11, 3)))


def plain(x, rows, last=11):
    for k in range(last):
        x = jnp.sin(x) + 0.1 * k + rows[k]
    return x


@pytest.mark.parametrize("factors", [(11,), (4, 3), (2, 2, 3)])
def test_values_and_gradients_are_those_of_the_loop(factors):
    @jax.jit
    def run(x, rows, limit):
        def body(x, k, row):
            return jnp.sin(x) + 0.1 * k.astype(x.dtype) + row

        return nested_scan(body, x, 11, factors, limit=limit, inputs=rows)

    def total(f, *more):
        return lambda x, rows: jnp.sum(f(x, rows, *more) ** 2)

    for limit in (11, 7):
        np.testing.assert_allclose(run(X, ROWS, limit), plain(X, ROWS, limit), rtol=1e-14)
        for ours, theirs in zip(
            jax.grad(total(run, limit), argnums=(0, 1))(X, ROWS),
            jax.grad(total(plain, limit), argnums=(0, 1))(X, ROWS),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-15)
    assert run._cache_size() == 1


def test_steps_beyond_the_end_are_not_taken():
    # The padding would divide by zero, and an infinite derivative times a zero cotangent is NaN.
    slope = jax.grad(lambda x: nested_scan(lambda x, k: x / (5 - k).astype(x.dtype), x, 5, (3, 2)))(1.0)
    np.testing.assert_allclose(slope, 1 / 120, rtol=1e-15)


def test_the_shallowest_nest_that_fits_is_taken():
    for length in (*range(1, 70), 1000, 9973, 10_000):
        depths = []
        least = 2 * math.log2(length + 1) + 2
        for carries in sorted((length + least, 3 * length**0.5 + least, 2 * least, least), reverse=True):
            factors = checkpoint_factors(length, carries)
            assert factors is not None and math.prod(factors) >= length and sum(factors) <= carries
            assert max(factors) - min(factors) <= 1
            depths.append(len(factors))
        assert depths == sorted(depths)
        assert checkpoint_factors(length, length) == (length,)
    assert checkpoint_factors(1000, 19) is None
