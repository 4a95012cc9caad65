"""A corrected model is a model: bitwise the old one without correction, and composable like any other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import diffassim as da
from diffassim.diagnostics import check_adjoint, check_gradient
from diffassim.learned import CorrectedModel, LocalNetwork, Network

from .networks import NETWORKS, local

N = 12
MODEL = da.models.Lorenz96(forcing=10.0, dt=0.01)
STD = da.covariances.Diagonal(std=0.5)
X = jnp.asarray(2.5 + 3.5 * np.random.default_rng(0).normal(size=N))


def still():
    return CorrectedModel(MODEL, Network.from_nnx(LocalNetwork(rngs=nnx.Rngs(0))))


def observations(model, count=4):
    at = np.arange(1, count + 1)
    values = da.rollout(model, X, count)[1:] + np.random.default_rng(1).normal(size=(count, N))
    return da.Observations(values, at, error=da.covariances.Diagonal(std=1.0))


def test_a_zero_correction_changes_nothing_bitwise():
    assert np.array_equal(da.rollout(still(), X, 20), da.rollout(MODEL, X, 20))


@pytest.mark.slow
def test_a_zero_correction_leaves_the_analysis_as_it_is():
    obs = observations(MODEL)
    x_b = X + 0.3
    plain, corrected = (da.minimize(da.StrongConstraint4DVar(m, x_b, STD, obs)).state for m in (MODEL, still()))
    np.testing.assert_allclose(corrected, plain, rtol=1e-12)


@pytest.mark.slow
def test_the_step_is_the_model_plus_the_scaled_output():
    network = local(N)
    model = CorrectedModel(MODEL, network, scale=3.0)
    expected = MODEL.step(X, 0) + 0.01 * 3.0 * network(X)
    np.testing.assert_allclose(model.step(X, 0), expected, rtol=1e-15)
    assert model.dt == 0.01 and model.variables() == MODEL.variables()


def test_pytree_states_are_corrected_leaf_by_leaf():
    full = da.models.TwoScaleLorenz96()
    x = da.models.TwoScaleState(X[:4], jnp.zeros((4, 3)))
    network = Network(lambda w, x: jax.tree.map(jnp.ones_like, x))
    corrected = CorrectedModel(full, network, scale=2.0).step(x, 0)
    plain = full.step(x, 0)
    np.testing.assert_allclose(corrected.slow, plain.slow + 0.01, rtol=1e-15)
    np.testing.assert_allclose(corrected.fast, plain.fast + 0.01, rtol=1e-15)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.slow
def test_adjoint_and_gradient(make):
    model = CorrectedModel(MODEL, make(N))
    assert check_adjoint(lambda x: model.step(x, 0), X).passed

    def cost(m, x):
        return jnp.sum(da.rollout(m, x, 6, at=jnp.asarray([3, 6])) ** 2)

    for function, at in (
        (lambda x: cost(model, x), X),
        (lambda net: cost(model.replace(network=net), X), model.network),
    ):
        report = check_gradient(function, at)
        assert report.passed and len(report.slopes) == 3, str(report)


def test_single_precision_agrees_with_double():
    double = CorrectedModel(MODEL, local(N))
    rounded = jax.tree.map(lambda w: w.astype(jnp.float32), double.network)
    single = double.replace(network=rounded).step(X.astype(jnp.float32), 0)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double.step(X, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_it_composes_in_a_cycle_and_a_loss_passes_through_to_the_weights():
    windows = da.split_windows(observations(MODEL), steps=2, count=2)
    network = local(N)
    direction = jax.tree.map(jnp.ones_like, network)
    method = da.FourDVar(STD, da.GaussNewton(tolerance=1e-10))

    @jax.jit
    def loss(net):
        _, history = da.cycle(method, CorrectedModel(MODEL, net), X + 0.3, windows, steps=2)
        return jnp.mean(history.analysis[:, -1] ** 2)

    gradient = jax.grad(loss)(network)
    slope = sum(float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    h = 1e-4
    moved = [loss(jax.tree.map(lambda w, d, s=s: w + s * h * d, network, direction)) for s in (1, -1)]
    np.testing.assert_allclose(slope, float(moved[0] - moved[1]) / (2 * h), rtol=1e-5)


@pytest.mark.slow
def test_weights_can_be_part_of_the_control_vector():
    truth = CorrectedModel(MODEL, local(N))
    at = np.arange(1, 31)
    obs = da.Observations(da.rollout(truth, X, 30)[1:], at, error=da.covariances.Diagonal(std=1e-2))
    first = truth.replace(network=jax.tree.map(lambda w: 0.9 * w, truth.network))
    cost = da.StrongConstraint4DVar(first, X, None, obs, parameters={"network": da.covariances.Diagonal(std=1.0)})
    found = da.minimize(cost)
    assert isinstance(found.model, CorrectedModel)
    before, after = (float(cost(v)) for v in (cost.control(), found.control))
    assert after < 0.05 * before
    error = [float(jnp.abs(m.network(X) - truth.network(X)).max()) for m in (first, found.model)]
    assert error[1] < 0.2 * error[0]
