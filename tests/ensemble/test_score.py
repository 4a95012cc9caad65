"""The flow filter and the score filter: closed forms, convergence in the steps, priors with two modes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import EnFF, EnSF
from diffassim.ensemble.score.guidance import guided_mean
from diffassim.ensemble.score.reverse import geometric_levels, reverse_diffusion
from diffassim.ensemble.score.tapered import tapered_product, widths_of
from diffassim.grids import Grid
from diffassim.methods.members import anomalies
from tests.ensemble.zoo import CORRELATION, ensemble

RNG = np.random.default_rng(8)
H = RNG.normal(size=(5, 8))
y = RNG.normal(size=(1, 5))
F = RNG.normal(size=(5, 5))
R = F @ F.T / 5 + 0.1 * np.eye(5)
OBSERVED = da.Observations(y, [0], operator=da.observations.Linear(H), error=da.covariances.Dense.from_matrix(R))


def kalman(x, P):
    K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
    return x + K @ (y[0] - H @ x), P - K @ H @ P


def test_guidance_is_the_gain_of_a_covariance_that_is_known_by_its_products():
    P = np.cov(RNG.normal(size=(8, 30)))
    whitener = np.linalg.inv(np.linalg.cholesky(R))
    x = RNG.normal(size=8)
    options = {"iterations": 5, "scale": jnp.sqrt(jnp.diag(P))}
    found = guided_mean(lambda x: whitener @ (y[0] - H @ x), jnp.asarray(x), lambda u: P @ u, **options)
    np.testing.assert_allclose(found, kalman(x, P)[0], rtol=1e-10)


def test_the_flow_of_a_gaussian_is_linear_and_of_second_order():
    def error(steps):
        found = reverse_diffusion(lambda z, s: z / (1 + s**2), jnp.ones(()), geometric_levels(20.0, 1e-3, steps))
        return abs(float(found) * 401**0.5 - 1)

    assert 3 < error(80) / error(160) < 5


@pytest.mark.parametrize("members", [4, 20])
def test_with_many_steps_the_flow_filter_is_the_etkf_of_a_linear_operator(members):
    E = ensemble(members=members)
    expected = da.ETKF().analyze(None, E, OBSERVED)[0]
    coarse, fine = (EnFF(steps=k).analyze(None, E, OBSERVED)[0] for k in (16, 64))
    assert np.abs(coarse - expected).max() < 0.1 * np.std(expected)
    assert np.abs(fine - expected).max() < 0.02 * np.std(expected)
    assert not np.allclose(expected, E, atol=0.1)


def test_localization_is_that_of_the_covariance_and_correlated_errors_are_allowed():
    E = ensemble()
    P = np.cov(E.T) * np.asarray(jax.vmap(CORRELATION.apply)(jnp.eye(8)))
    method = EnFF(steps=32, localization=CORRELATION)
    posterior, _ = method.analyze(None, E, OBSERVED)
    np.testing.assert_allclose(np.mean(posterior, 0), kalman(np.mean(E, 0), P)[0], atol=2e-3)
    alone, _ = method.replace(localization=da.covariances.Diagonal(std=1.0)).analyze(None, E, OBSERVED)
    diagonal = np.diag(np.diag(np.cov(E.T)))
    np.testing.assert_allclose(np.mean(alone, 0), kalman(np.mean(E, 0), diagonal)[0], atol=2e-3)


@pytest.mark.parametrize(
    ("grid", "shape", "radius"),
    [
        (Grid(), (9,), 1.2),
        (Grid(), (8,), 1.2),  # the taper reaches around the circle
        (Grid(0.5, False), (9,), 0.4),
        (Grid((1.0, 2.0), (True, False)), (6, 5), 1.0),
    ],
)
def test_the_product_with_tapered_covariances_is_that_of_their_matrix(grid, shape, radius):
    taper, size = da.ensemble.GaspariCohn(radius), int(np.prod(shape))
    rng = np.random.default_rng(3)
    E = {"a": jnp.asarray(rng.normal(size=(6, 2, *shape))), "b": jnp.asarray(rng.normal(size=(6, *shape)))}
    X, u = anomalies(E), jax.tree.map(lambda leaf: leaf[0], E)
    points = grid.points(shape)
    rho = np.tile(taper(grid.distance(points[:, None], points[None], shape)), (3, 3))
    flat = lambda E: np.concatenate([E["a"].reshape(len(E["a"]), -1), E["b"].reshape(len(E["b"]), -1)], axis=1)  # noqa: E731
    matrix = rho * np.cov(flat(E).T)
    expected = matrix @ np.concatenate([u["a"].ravel(), u["b"].ravel()])
    widths = widths_of(taper, grid)
    assert all(np.floor(taper.reach * radius / h) == w for h, w in zip(grid.spacing, widths, strict=True))
    for known in (widths, None):
        found = tapered_product(X, taper, grid, known)(u)
        assert found["a"].shape == (2, *shape)
        np.testing.assert_allclose(np.concatenate([found["a"].ravel(), found["b"].ravel()]), expected, atol=1e-12)
    assert size == points.shape[0]


def test_a_taper_is_that_of_the_covariance():
    E, taper = ensemble(), da.ensemble.GaspariCohn(1.2)
    points = Grid().points((8,))
    P = np.cov(E.T) * np.asarray(taper(Grid().distance(points[:, None], points[None], (8,))))
    method = EnFF(steps=32, localization=taper)
    posterior, _ = method.analyze(None, E, OBSERVED)
    np.testing.assert_allclose(np.mean(posterior, 0), kalman(np.mean(E, 0), P)[0], atol=2e-3)
    traced = jax.jit(
        lambda radius: method.replace(localization=taper.replace(radius=radius)).analyze(None, E, OBSERVED)[0]
    )
    np.testing.assert_allclose(traced(1.2), posterior, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "batch"), [(EnFF(steps=6), 1), (EnSF(steps=6), 4)])
def test_members_may_be_carried_a_few_at_a_time(method, batch):
    E, key = ensemble(), jax.random.key(1)
    expected = method.analyze(key, E, OBSERVED)[0]
    np.testing.assert_allclose(method.replace(batch=batch).analyze(key, E, OBSERVED)[0], expected, atol=1e-12)


@pytest.mark.slow
def test_one_kernel_alone_is_what_the_sum_over_kernels_becomes():
    E, key = ensemble(), jax.random.key(1)
    method = EnSF(steps=6, iterations=5, bandwidth=1.0)
    alone = method.analyze(key, E, OBSERVED)[0]
    general = jax.jit(lambda h: method.replace(bandwidth=h).analyze(key, E, OBSERVED)[0])(1.0)
    np.testing.assert_allclose(alone, general, atol=1e-12)
    assert method.prepared(E, (OBSERVED,))[0].single and not EnSF().prepared(E, (OBSERVED,))[0].single


def test_one_wide_kernel_is_a_gaussian_prior_without_covariances():
    E = ensemble(members=500)
    prior = np.diag(np.var(E, axis=0, ddof=1))
    mean, covariance = kalman(np.mean(E, 0), prior)
    posterior, _ = EnSF(steps=30, iterations=5, bandwidth=1.0).analyze(jax.random.key(3), E, OBSERVED)
    spread = np.sqrt(np.diag(covariance))
    assert np.abs((np.mean(posterior, 0) - mean) / spread).max() < 4 / 500**0.5 + 0.02
    assert np.abs(np.cov(posterior.T) - covariance).max() < 0.2 * np.max(spread) ** 2


def test_the_score_filter_keeps_two_modes_and_weighs_them():
    rng = np.random.default_rng(2)
    prior = np.where(rng.random(600) < 0.5, -3.0, 3.0) + 0.5 * rng.normal(size=600)
    obs = da.Observations(
        np.array([[9.0]]), [0], operator=lambda x: x**2 + 0.5 * x, error=da.covariances.Diagonal(std=3.0)
    )
    posterior, _ = EnSF(steps=60, bandwidth=0.15).analyze(jax.random.key(0), jnp.asarray(prior[:, None]), obs)
    x = np.linspace(-6, 6, 4001)
    density = sum(np.exp(-0.5 * (x - m) ** 2 / 0.25) for m in (-3, 3)) * np.exp(-0.5 * (9 - x**2 - 0.5 * x) ** 2 / 9)
    density /= density.sum()
    found, upper = np.asarray(posterior[:, 0]), density[x > 0].sum()
    assert abs(np.mean(found > 0) - upper) < 0.05
    for side in (x > 0, x < 0):
        share = density[side] / density[side].sum()
        mean = share @ x[side]
        spread = np.sqrt(share @ (x[side] - mean) ** 2)
        here = found[(found > 0) == (mean > 0)]
        assert abs(here.mean() - mean) < 0.15 * spread and 0.85 < here.std() / spread < 1.15


def test_a_nonlinear_operator_is_met_where_one_linearization_misses():
    """An arctangent that is flat at the prior's mean: the flow takes the operator anew on its way."""
    E = jnp.asarray(np.random.default_rng(4).normal(size=(40, 6)) + 3.0)
    truth = jnp.full(6, 1.0)
    obs = da.Observations(jnp.arctan(truth)[None], [0], operator=jnp.arctan, error=da.covariances.Diagonal(std=0.05))
    alone = da.covariances.Diagonal(std=1.0)
    error = lambda E: float(jnp.sqrt(jnp.mean((jnp.mean(E, 0) - truth) ** 2)))  # noqa: E731
    flow, info = EnFF(steps=24, iterations=1, localization=alone).analyze(None, E, obs)
    assert error(flow) < 0.15 < error(da.EnSRF().analyze(None, E, obs)[0])
    assert 0.03 < info.analysis_spread < 0.3


@pytest.mark.slow
def test_a_cycle_is_differentiable_and_repeats_with_its_key():
    model = da.models.Lorenz96()
    obs = da.Observations(jnp.ones((2, 8)), [1, 2], operator=jnp.arctan, error=da.covariances.Diagonal(std=0.3))
    E = ensemble()

    @jax.jit
    def loss(bandwidth):
        method = EnSF(steps=4, iterations=3, bandwidth=bandwidth)
        return jnp.mean(da.cycle(method, model, E, obs, key=jax.random.key(0))[1].analysis.mean ** 2)

    difference = (loss(0.7 + 1e-5) - loss(0.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.7), difference, rtol=1e-6)
    assert loss(0.7) == loss(0.7) != loss(0.8)


def test_what_cannot_be_is_named():
    for method in (EnFF, EnSF):
        with pytest.raises(ConfigurationError, match="steps must be at least 2"):
            method(steps=1)
        with pytest.raises(ConfigurationError, match="iterations must be at least 1"):
            method(iterations=0)
        with pytest.raises(ConfigurationError, match="largest must be finite and positive"):
            method(largest=0.0)
        with pytest.raises(ConfigurationError, match="batch must be at least 1"):
            method(batch=0)
    with pytest.raises(ConfigurationError, match=r"bandwidth must be in \(0, 1\]"):
        EnSF(bandwidth=1.5)
    with pytest.raises(ConfigurationError, match="covariance of unit variance"):
        EnFF(localization=2.0)
    with pytest.raises(ConfigurationError, match="a taper needs a regular Grid, found Sphere"):
        EnFF(localization=da.ensemble.GaspariCohn(2.0), grid=da.grids.Sphere(jnp.zeros(2), jnp.zeros(2)))
    plane = EnFF(localization=da.ensemble.GaspariCohn(2.0), grid=Grid(periodic=(True, True)))
    with pytest.raises(ShapeError, match="same 2 grid axes"):
        plane.analyze(None, ensemble(), OBSERVED)


def test_trajectories_that_are_given_are_refused_by_name():
    with pytest.raises(ConfigurationError, match="evaluates H anew"):
        EnFF().analyze_along(None, ensemble(), ensemble()[:, None], OBSERVED)
    with pytest.raises(ConfigurationError, match="AsynchronousFilter: EnSF evaluates H anew"):
        da.AsynchronousFilter(EnSF())
