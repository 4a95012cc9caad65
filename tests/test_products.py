"""Products of parts: every covariance on every route that takes one gives what the plain matrix gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import diffassim as da
from diffassim.core import tree
from diffassim.covariances import Dense, Diagonal
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.gaussian import Gaussian
from diffassim.observations import BackgroundCheck, Bounds
from tests.covariances.test_observation_errors import ERRORS, MASK, STEPS, STILL, VALUES, record
from tests.covariances.zoo import COVARIANCES, flat
from tests.durations import further_by_hand
from tests.ensemble import zoo as ensembles
from tests.gaussian import zoo as gaussians

RNG = np.random.default_rng(12)
R = Diagonal(np.array([0.5, 0.8, 1.1]))
R_MATRIX = np.diag(np.array([0.5, 0.8, 1.1]) ** 2)
DAMPING = 0.8  # of the linear model
AT = np.array([0, 2])

COMPOSED_Q = ("scaled", "sum", "blocks with zero", "Kronecker", "low rank with residual", "hybrid")
TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-9), growth=None)


class Linear:
    """A linear problem whose B is one of the sweep's, and everything of it as matrices."""

    def __init__(self, entry):
        self.x = entry.example_state(jnp.float64)
        self.flat, self.unravel = ravel_pytree(self.x)
        self.B = flat(entry.covariance.apply, self.x)
        n = self.flat.size
        self.H = np.random.default_rng(n).normal(size=(3, n)) / n**0.5
        self.y = np.random.default_rng(n + 1).normal(size=(2, 3))
        H = jnp.asarray(self.H)
        self.observations = da.Observations(
            self.y, AT, operator=lambda x: H @ ravel_pytree(x)[0], error=R, mask=np.array([[True, True, False]] * 2)
        )
        self.model = da.models.FunctionModel(lambda x, t: tree.scale(DAMPING, x))
        self.cost = da.StrongConstraint4DVar(self.model, self.x, entry.covariance, self.observations)

    @property
    def rows(self):
        """Derivative of all observed values by the first state, their errors and innovations."""
        seen = [0, 1]
        G = np.concatenate([self.H[seen] * DAMPING**k for k in AT])
        return G, np.kron(np.eye(2), R_MATRIX[np.ix_(seen, seen)]), self.y[:, seen].ravel() - G @ self.flat

    def analysis(self):
        """Return mean, covariance, and the smallest cost, by matrices."""
        G, error, d = self.rows
        S = G @ self.B @ G.T + error
        K = self.B @ G.T @ np.linalg.inv(S)
        return self.flat + K @ d, (np.eye(self.flat.size) - K @ G) @ self.B, 0.5 * d @ np.linalg.solve(S, d), G @ K


@further_by_hand(COVARIANCES, ("scaled", "hybrid"))
def test_the_cost_of_every_background_is_that_of_the_matrix(entry):
    p = Linear(entry)
    v = p.cost.control()
    v = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), v)
    increment = ravel_pytree(entry.covariance.sqrt(v["state"]))[0]
    G, error, d = p.rows
    departure = d - G @ np.asarray(increment)
    expected = 0.5 * tree.squared_norm(v) + 0.5 * departure @ np.linalg.solve(error, departure)
    np.testing.assert_allclose(p.cost(v), expected, rtol=1e-12)
    spread = da.variational.background_spread(p.cost)[0]
    exact = [np.sqrt(np.diag(p.H @ p.B @ p.H.T)) * DAMPING**k for k in AT]
    np.testing.assert_allclose(spread, exact, rtol=1e-9)


@pytest.mark.slow
@further_by_hand(COVARIANCES, ("scaled", "hybrid", "Kronecker"))
def test_the_analysis_of_every_background_is_that_of_the_matrix(entry):
    p = Linear(entry)
    mean, covariance, lowest, influence = p.analysis()
    solution = da.minimize(p.cost, TIGHT)
    np.testing.assert_allclose(ravel_pytree(solution.state)[0], mean, atol=1e-8)
    np.testing.assert_allclose(solution.cost, lowest, rtol=1e-9)
    found = da.variational.posterior(p.cost, solution)
    np.testing.assert_allclose(ravel_pytree(found.variance())[0], np.diag(covariance), atol=1e-8)
    seen = np.asarray(p.observations.mask)
    np.testing.assert_allclose(da.variational.observation_influence(found)[0][seen], np.diag(influence), atol=1e-8)


@pytest.mark.parametrize("entry", COVARIANCES, ids=lambda entry: entry.name)
def test_a_gaussian_of_every_covariance_is_that_of_the_matrix(entry):
    p = Linear(entry)
    np.testing.assert_allclose(Gaussian.from_covariance(p.x, entry.covariance).covariance(), p.B, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in COVARIANCES if e.name in COMPOSED_Q], ids=lambda entry: entry.name)
def test_composed_model_errors_are_those_of_the_matrix(entry):
    p = Linear(entry)
    G, error, _ = p.rows
    mean, P = p.flat, p.B
    for k, now in enumerate((slice(0, 2), slice(2, 4))):
        if k:
            mean, P = DAMPING**2 * mean, DAMPING**4 * P + 0.25 * p.B
        H, y = G[now] / DAMPING ** AT[k], p.y[k, :2]
        K = P @ H.T @ np.linalg.inv(H @ P @ H.T + error[now, now])
        mean, P = mean + K @ (y - H @ mean), P - K @ H @ P

    Q, prior = 0.25 * entry.covariance, Gaussian.from_covariance(p.x, entry.covariance)
    filtered, _ = da.cycle(da.EKF(Q=Q), p.model, prior, p.observations)
    np.testing.assert_allclose(ravel_pytree(filtered.mean)[0], mean, atol=1e-9)
    np.testing.assert_allclose(filtered.covariance(), P, atol=1e-9)
    weak = da.WeakConstraint4DVar(p.model, p.x, entry.covariance, Q, p.observations, every=2)
    last = weak.state(da.minimize(weak, TIGHT).control, 2)
    np.testing.assert_allclose(ravel_pytree(last)[0], mean, atol=1e-7)


def plain(name):
    """Return the same errors in the plainest class: standard deviations, or one matrix for each time."""
    _, matrices, uncorrelated = ERRORS[name]
    if uncorrelated:
        return Diagonal(np.sqrt(np.diagonal(matrices, axis1=1, axis2=2)))
    return Dense(jnp.asarray(np.linalg.cholesky(matrices)))


COMPOSED = ("scaled times", "sum", "scaled dense times", "own rows")
FILTERS = [
    *((f"ensemble: {entry.name}", entry.method) for entry in ensembles.METHODS),
    *((f"Gaussian: {name}", method) for name, method in gaussians.METHODS.items() if "climatology" not in name),
    ("particles", da.ParticleFilter()),
    ("adaptive inflation", da.ensemble.AdaptiveInflation(da.ETKF())),
    ("policy inflation", da.ensemble.PolicyInflation(da.ETKF())),
    ("EnKS", da.EnKS(da.ETKF(), lag=3)),
]


def start_of(method):
    if isinstance(method, da.gaussian.GaussianMethod):
        root = np.random.default_rng(3).normal(size=(VALUES.shape[1],) * 2)
        return Gaussian(jnp.ones(VALUES.shape[1]), jnp.asarray(root))
    return jnp.asarray(np.random.default_rng(4).normal(size=(6, VALUES.shape[1])))


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [k if k % 6 == 0 else pytest.param(k, marks=pytest.mark.long) for k in range(len(FILTERS))],
    ids=[label for label, _ in FILTERS],
)
def test_every_filter_takes_composed_errors_as_the_plain_ones(number):
    method = FILTERS[number][1]
    name = COMPOSED[number % 2 if isinstance(method, LocalizedMethod) else number % 4]
    if getattr(method, "climatology", None) is not None:
        n = VALUES.shape[1]
        method = method.replace(climatology=Gaussian(jnp.zeros(n), jnp.asarray(np.eye(n))))
    found = []
    for error in (ERRORS[name][0], plain(name)):
        stream = da.Observations(VALUES, STEPS, error=error, mask=MASK)
        belief, _ = da.cycle(method, STILL, start_of(method), stream, key=jax.random.key(0))
        found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(method.moments(belief))]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in ERRORS if not name.startswith("own")])  # which have no variance
def test_the_background_check_knows_every_error(name):
    threshold, spread = 0.6, 0.3
    stream = record(name)
    predicted = jnp.zeros_like(VALUES)
    screening = da.observations.quality_control(stream, BackgroundCheck(threshold, spread), predicted)
    variance = np.diagonal(ERRORS[name][1], axis1=1, axis2=2)
    rejected = MASK & (np.abs(VALUES) > threshold * np.sqrt(variance + spread**2))
    assert 0 < rejected.sum() < rejected.size
    np.testing.assert_array_equal(np.asarray(screening.observations[0].mask), MASK & ~rejected)


def test_one_check_needs_no_list_and_what_is_none_is_named():
    stream = record("number")
    one = da.observations.quality_control(stream, Bounds(upper=0.5))
    listed = da.observations.quality_control((stream, stream), ([Bounds(upper=0.5)], Bounds(upper=0.5)))
    for flags in listed.flags:
        np.testing.assert_array_equal(one.flags[0], flags)
    for wrong in (3.0, [Bounds(), 3.0]):
        with pytest.raises(da.ConfigurationError, match="sequence of checks"):
            da.observations.quality_control(stream, wrong)
    with pytest.raises(da.DataError, match="predictions of stream 0"):
        da.observations.quality_control(stream, BackgroundCheck(), np.asarray(VALUES) * 1j)
