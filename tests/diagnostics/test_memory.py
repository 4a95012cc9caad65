"""What is said of memory before a run agrees with what the compiled program asks for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import diffassim as da
from diffassim.diagnostics import explain_memory

N = 1000
ONE = da.covariances.Diagonal(std=1.0)
Y = da.Observations(jnp.zeros((4, N)), [50, 100, 150, 200], error=ONE)
COST = da.StrongConstraint4DVar(da.models.Lorenz96(), jnp.ones(N), ONE, Y)


def compiled_bytes(cost):
    gradient = jax.jit(jax.grad(lambda cost, v: cost(v), argnums=1))
    return gradient.lower(cost, cost.control()).compile().memory_analysis().temp_size_in_bytes


def test_the_adjoint_takes_what_was_said():
    budgets = explain_memory(COST).budgets
    whole = compiled_bytes(COST.replace(segment=COST.steps))
    assert budgets[1] == pytest.approx(whole, rel=0.1)
    assert budgets[1] > budgets[2] > budgets[3] > budgets[4]
    # Copies of the observed rows and of the state come on top of the checkpoints.
    assert budgets[3] < compiled_bytes(COST) < 3 * budgets[3]


def test_advice_depends_on_what_dominates():
    assert "linearized model dominates" in str(explain_memory(COST))
    assert "GaussNewton does not store" in str(
        explain_memory(COST.replace(observations=Y.replace(steps=[1, 2, 3, 20_000]), steps=20_000))
    )
    assert "memory = 1000000" in str(explain_memory(COST.replace(memory=1_000_000)))


def test_a_cycle_names_what_dominates():
    members = jax.ShapeDtypeStruct((20, N), jnp.float64)
    taper = da.ensemble.GaspariCohn(3.0)
    report = explain_memory(da.LETKF(localization=taper), da.models.Lorenz96(), members, Y)
    assert report.parts["ensemble (prior, posterior, forecast)"] == 3 * 20 * N * 8
    assert "local analyses" in next(iter(report.parts))
    kept = explain_memory(da.ETKF(), da.models.Lorenz96(), members, Y, members=True)
    assert kept.parts["members of all times"] == 4 * 20 * N * 8
    assert "cycle_in_chunks" in str(kept)


def test_what_is_neither_is_named():
    with pytest.raises(da.ConfigurationError, match="neither a cost"):
        explain_memory(da.GaussNewton())
    with pytest.raises(da.ConfigurationError, match="explain_memory\\(method"):
        explain_memory(da.ETKF())
