"""The account of a minimization."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.diagnostics import summary

ONE = da.covariances.Diagonal(std=1.0)
STREAMS = (
    da.Observations(np.array([[2.0, np.nan]]), [0], error=ONE),
    da.Observations(np.array([[np.nan, np.nan]]), [0], error=ONE),
)
COST = da.ThreeDVar(jnp.array([0.0, 1.0]), ONE, STREAMS)
SOLUTION = da.minimize(COST)


def test_terms_and_chi_square_by_stream():
    found = summary(COST, SOLUTION)
    assert found.first == {"state": 0.0, "observations 0": 2.0, "observations 1": 0.0}
    assert found.last == {"state": 0.5, "observations 0": 0.5, "observations 1": 0.0}
    assert list(found.last) == ["state", "observations 0", "observations 1"]
    assert found.counts == {"observations 0": 1, "observations 1": 0}
    assert found.chi_square == {"observations 0": 1.0}
    text = str(found)
    assert "CONVERGED" in text and "chi2/value" in text and f"{found.iterations} outer iterations" in text


def test_a_search_that_did_not_converge_has_its_advice():
    steep = COST.replace(observations=(STREAMS[0].replace(operator=jnp.exp),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = da.minimize(steep, da.GaussNewton(max_iterations=1, tolerance=1e-12))
    assert "raise the limit" in str(summary(steep, solution))


def test_a_batch_is_refused():
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), SOLUTION)
    with pytest.raises(da.ShapeError, match="batch of 2 solutions"):
        summary(COST, batch)
