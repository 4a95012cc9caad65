"""Generative priors: analytic denoisers first, for which draws, posteriors and costs have closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.learned import Network
from diffassim.learned.networks import MLP, PeriodicResidualNet
from diffassim.learned.priors import (
    NOISE_FEATURES,
    DiffusionPrior,
    FlowPrior,
    GenerativePrior,
    Guidance,
    SplitGibbs,
    denoising_loss,
    flow_matching_loss,
    prior_cost,
    sample_posterior,
)
from diffassim.training import fit

CENTER, SPREAD = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 3.0, 0.5])
F = np.random.default_rng(0).normal(size=(3, 3))
CORRELATION = F @ F.T + np.eye(3)
CORRELATION = CORRELATION / np.sqrt(np.outer(np.diag(CORRELATION), np.diag(CORRELATION)))
COVARIANCE = CORRELATION * np.outer(SPREAD, SPREAD)
VALUES, VECTORS = np.linalg.eigh(CORRELATION)
H = np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 2.0]])
R = np.array([[0.5, 0.1], [0.1, 0.3]])
Y = np.array([[2.0, 2.0]])
OBSERVED = da.Observations(Y, [0], operator=da.observations.Linear(H), error=da.covariances.Dense.from_matrix(R))
KEY = jax.random.key(2)
GUIDED = Guidance(steps=40, iterations=2)


class GaussianPrior(GenerativePrior):
    """N(center, correlated), whose denoiser is known."""

    def denoise(self, z, sigma):
        return VECTORS @ (VALUES / (VALUES + sigma**2) * (VECTORS.T @ z))


GAUSSIAN = GaussianPrior(None, CENTER, SPREAD)


def kalman(H=H):
    mean, P = np.asarray(CENTER), COVARIANCE
    K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
    return mean + K @ (Y[0] - H @ mean), P - K @ H @ P


def check_moments(draws, mean, covariance, bias=0.03):
    """Compare within four standard deviations of the Monte-Carlo error, and a bias of the noise levels."""
    count, std = len(draws), np.sqrt(np.diag(covariance))
    assert np.abs((np.mean(draws, 0) - mean) / std).max() < 4 / count**0.5 + bias
    found = np.cov(np.asarray(draws).T) / np.outer(std, std)
    assert np.abs(found - covariance / np.outer(std, std)).max() < 4 * (2 / count) ** 0.5 + 2 * bias


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_draws_have_the_moments_of_the_prior(churn):
    check_moments(GAUSSIAN.sample(KEY, 3000, steps=48, churn=churn), CENTER, COVARIANCE)


@pytest.mark.parametrize(
    "method",
    [GUIDED, GUIDED.replace(churn=0.0), SplitGibbs(first=Guidance(steps=8, iterations=2))],
    ids=["guidance", "guided flow", "split Gibbs"],
)
def test_posterior_draws_have_the_moments_of_the_linear_formula(method):
    check_moments(sample_posterior(GAUSSIAN, OBSERVED, 3000, KEY, method=method), *kalman())


def test_missing_values_are_as_if_removed():
    gappy = da.Observations(
        np.array([[2.0, np.nan]]), [0], operator=da.observations.Linear(H), error=da.covariances.Diagonal(std=0.7)
    )
    alone = da.Observations(Y[:, :1], [0], operator=da.observations.Linear(H[:1]), error=gappy.error)
    found, expected = (sample_posterior(GAUSSIAN, y, 5, KEY, method=Guidance(8, 2)) for y in (gappy, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_window_through_the_model_conditions_the_state_at_its_start():
    M = np.array([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.1, 1.0]])
    model = da.models.FunctionModel(lambda x, t: M @ x)
    draws = sample_posterior(GAUSSIAN, OBSERVED.replace(steps=np.array([2])), 3000, KEY, model=model, method=GUIDED)
    check_moments(draws, *kalman(H=H @ M @ M))


class Still(GenerativePrior):
    """Independent components, the same at all three times."""

    def denoise(self, z, sigma):
        return jnp.broadcast_to(jnp.mean(z, 0, keepdims=True) / (1 + sigma**2 / 3), z.shape)


def test_a_prior_of_trajectories_is_conditioned_at_the_rows_of_the_observations():
    prior = Still(None, jnp.zeros((3, 2)), jnp.ones((3, 2)), trajectory=True)
    y = da.Observations(jnp.array([[3.0, 1.0]]), [2], error=da.covariances.Diagonal(std=1.0))
    draws = sample_posterior(prior, y, 2000, KEY, method=GUIDED)
    np.testing.assert_allclose(np.mean(draws, 0), np.broadcast_to([1.5, 0.5], (3, 2)), atol=0.08)
    np.testing.assert_allclose(np.var(draws, 0), 0.5, atol=0.08)
    with pytest.raises(ShapeError, match="step 3 lies outside of the 2 steps"):
        sample_posterior(prior, y.replace(steps=np.array([3])), 1, KEY)
    with pytest.raises(ConfigurationError, match="needs no model"):
        sample_posterior(prior, y, 1, KEY, model=da.models.Lorenz63())


def test_the_cost_of_a_gaussian_prior_is_the_classical_one():
    B = da.covariances.Dense.from_matrix(COVARIANCE)
    expected = da.minimize(da.ThreeDVar(CENTER, B, OBSERVED))
    found = da.minimize(prior_cost(GAUSSIAN, OBSERVED, levels=64))
    np.testing.assert_allclose(found.state, expected.state, atol=5e-3)
    np.testing.assert_allclose(found.cost, expected.cost, rtol=5e-3)


def ring(count):
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, count)
    return jnp.asarray((np.stack([np.cos(angle), np.sin(angle)], 1) * 5 + 3) + 0.1 * rng.normal(size=(count, 2)))


TRAINED = pytest.mark.parametrize(("kind", "loss"), [(DiffusionPrior, denoising_loss), (FlowPrior, flow_matching_loss)])


@TRAINED
@pytest.mark.slow
def test_a_trained_prior_draws_what_it_has_seen(kind, loss):
    """A ring, which no Gaussian comes near; and two arcs of it, given one coordinate."""
    samples = ring(4096)
    network = Network.from_nnx(MLP([2 + NOISE_FEATURES, 48, 48, 2], rngs=nnx.Rngs(0)))
    prior = kind.fit(network, samples)
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, 1500))
    trained = fit(loss, prior, samples, optimizer=optimizer, steps=1500, batch_size=256, key=KEY, chunk=500).trained
    np.testing.assert_array_equal(trained.center, prior.center)
    draws = np.asarray(trained.sample(KEY, 400) - 3)
    radius = np.hypot(*draws.T)
    assert abs(radius.mean() - 5) < 0.15 and radius.std() < 0.5
    assert np.histogram(np.arctan2(*draws.T), 4, (-np.pi, np.pi))[0].min() > 60

    y = da.Observations(jnp.array([[6.0]]), [0], operator=lambda x: x[:1], error=da.covariances.Diagonal(std=0.3))
    # Guidance alone takes a moment of two arcs for one of a Gaussian, and leaves some draws between them.
    for method, share in ((Guidance(32, 1), 0.95), (SplitGibbs(first=Guidance(32, 1)), 0.99)):
        posterior = np.asarray(sample_posterior(trained, y, 400, KEY, method=method) - 3)
        assert abs(np.mean(posterior[:, 0]) - 3) < 0.2
        assert np.mean(np.abs(np.abs(posterior[:, 1]) - 4) < 1.5) >= share
        assert 80 < np.sum(posterior[:, 1] > 0) < 320


@TRAINED
def test_networks_of_fields_see_times_as_channels_and_gradients_are_right(kind, loss):
    samples = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 8)))
    network = Network.from_nnx(PeriodicResidualNet(2 + NOISE_FEATURES, 2, width=4, depth=1, rngs=nnx.Rngs(1)))
    prior = kind.fit(network, samples, axes=(0, 2), space=1, trajectory=True)
    assert prior.center.shape == (2, 8) and jnp.ptp(prior.spread[0]) == 0

    @jax.jit
    def value(s, network, prior):
        moved = jax.tree.map(lambda leaf: leaf + s * jnp.cos(leaf), network)
        return loss(prior.replace(network=moved), samples, KEY)

    slope = jax.jit(jax.grad(value, argnums=(0, 2)))(0.0, prior.network, prior)
    difference = (value(1e-5, prior.network, prior) - value(-1e-5, prior.network, prior)) / 2e-5
    np.testing.assert_allclose(slope[0], difference, rtol=1e-6)
    assert not np.any(slope[1].center) and not np.any(slope[1].spread)  # they are not trained
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), prior)
    draws = single.sample(KEY, 2, steps=4)
    assert draws.dtype == np.float32 and draws.shape == (2, 2, 8)
    assert loss(single, samples.astype(np.float32), KEY).dtype == np.float32


def test_what_cannot_be_is_named():
    with pytest.raises(DataError, match="non-finite"):
        DiffusionPrior.fit(None, np.array([[1.0], [np.nan]]))
    with pytest.raises(ShapeError, match="hold no two states"):
        DiffusionPrior.fit(None, np.ones((1, 3)))
    with pytest.raises(ConfigurationError, match="spread must be finite and positive"):
        FlowPrior.fit(None, np.ones((4, 3)))
    with pytest.raises(ConfigurationError, match="not in order"):
        DiffusionPrior(None, CENTER, SPREAD, largest=0.001)
    with pytest.raises(ShapeError, match=r"returns the shape \(2,\)"):
        DiffusionPrior(Network(lambda w, x: x[:2]), CENTER, SPREAD).sample(KEY, 1)
    with pytest.raises(ConfigurationError, match="SplitGibbs: coupling must be finite and positive"):
        SplitGibbs(coupling=0.0)
    with pytest.raises(ConfigurationError, match="iterations must be at least 1"):
        Guidance(iterations=0)
