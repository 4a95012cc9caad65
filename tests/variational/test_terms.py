"""The terms of the cost along a search."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.variational.costs.terms import cost_terms, observed_counts

from .zoo import COSTS

BY_NAME = {entry.name: entry.cost for entry in COSTS}
COST = BY_NAME["weak 4D-Var, one part exact, parameters"]


@pytest.mark.parametrize("method", [da.GaussNewton(), da.LBFGS()], ids=["Gauss-Newton", "L-BFGS"])
def test_terms_of_the_cost_sum_to_it_in_every_iteration(method):
    search = da.minimize(COST, method).search
    assert set(search.terms) == {"parameters", "model_error", "observations 0"}
    n = int(search.iterations)
    assert n > 1
    np.testing.assert_allclose(sum(search.terms.values())[:n], search.cost_history[:n], rtol=1e-12)
    for history in search.terms.values():
        assert history.shape == search.cost_history.shape and np.isnan(history[n:]).all()
    assert search.terms["parameters"][0] == 0 and search.terms["model_error"][n - 1] > 0  # starts at the background


def test_residuals_of_another_form_are_one_term():
    assert {name: float(term) for name, term in cost_terms(jnp.array([3.0, 1.0])).items()} == {"total": 5.0}


def test_counts_leave_out_missing_values_and_those_beyond_the_horizon():
    streams = BY_NAME["4D-Var several streams"]
    assert [int(n) for n in observed_counts(streams)] == [12, 6, 4]
    assert [int(n) for n in observed_counts(streams.replace(horizon=jnp.asarray(1)))] == [4, 3, 0]
    gappy = BY_NAME["4D-Var missing values"]
    assert int(observed_counts(gappy)[0]) == int(gappy.observations[0].mask.sum()) < 24
    assert int(observed_counts(BY_NAME["4DEnVar"])[0]) == int(gappy.observations[0].mask.sum())
