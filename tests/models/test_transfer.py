"""Transfer between grids: exact on what both grids resolve, linear, and conserving."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.models import BlockMean, Truncation

RNG = np.random.default_rng(0)


def test_truncation_keeps_the_waves_that_both_grids_resolve():
    y, x = np.meshgrid(np.arange(12) / 12, np.arange(18) / 18, indexing="ij")

    def field(y, x):
        return 1.0 + np.cos(2 * np.pi * (x - 2 * y)) + 0.3 * np.sin(2 * np.pi * (y + 0.1))

    fine, transfer = jnp.asarray(field(y, x)), Truncation(2, axes=2)
    coarse = jnp.asarray(field(y[::2, ::2], x[::2, ::2]))
    # 6 coarse points resolve up to two waves: all that is in the field.
    np.testing.assert_allclose(transfer.coarsen(fine), coarse, atol=1e-13)
    np.testing.assert_allclose(transfer.refine(coarse), fine, atol=1e-13)
    noise = jnp.asarray(RNG.normal(size=(3, 12, 18)))
    once = transfer.refine(transfer.coarsen(noise))
    np.testing.assert_allclose(transfer.refine(transfer.coarsen(once)), once, atol=1e-13)  # a projection
    assert np.array_equal(Truncation(1, axes=2).coarsen(noise), noise)


@pytest.mark.parametrize("periodic", [(True, False), (False, True)])
def test_block_means_keep_mass_constants_and_sign_and_refining_keeps_straight_lines(periodic):
    transfer = BlockMean(3, periodic)
    x = jnp.asarray(RNG.uniform(size=(2, 6, 9)))
    coarse = transfer.coarsen(x)
    assert coarse.shape == (2, 2, 3)
    np.testing.assert_allclose(9 * jnp.sum(coarse, axis=(1, 2)), jnp.sum(x, axis=(1, 2)), rtol=1e-14)
    refined = transfer.refine(coarse)
    assert refined.shape == x.shape and bool((refined > 0).all())
    np.testing.assert_allclose(transfer.refine(jnp.ones((2, 3))), np.ones((6, 9)), rtol=1e-15)
    line = jnp.broadcast_to(jnp.arange(9.0), (6, 9))
    there_and_back = transfer.refine(transfer.coarsen(line))
    np.testing.assert_allclose(there_and_back[:, 1:-1][:, 1:-1], line[:, 2:-2], atol=1e-13)
    np.testing.assert_allclose(there_and_back[:, 0], 2 / 3 * 1 + 1 / 3 * 7 if periodic[1] else 1.0, atol=1e-13)


def test_factors_and_fields_that_do_not_fit_are_named():
    for kind in (BlockMean, Truncation):
        with pytest.raises(da.ConfigurationError, match="factor must be at least 1, found 0"):
            kind(0)
        with pytest.raises(
            da.ShapeError, match=r"shape \(9,\) has no 1 trailing axes whose lengths are multiples of 2"
        ):
            kind(2).coarsen(jnp.zeros(9))
