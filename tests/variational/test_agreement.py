"""Different ways to say the same problem, and different minimizers, have one analysis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffassim as da
from diffassim.covariances import Blocks, Dense, Diagonal, Kronecker
from diffassim.observations import Linear, Subset

from .problems import kalman_smoother_initial_state, linear_gaussian

TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-8))
X_B = jnp.asarray(np.random.default_rng(2).normal(size=5))
STD = np.array([0.5, 1.0, 2.0, 0.7, 1.2])
VALUES = np.random.default_rng(3).normal(size=(3, 5))
B = Dense.from_matrix(np.eye(5) + 0.5 * np.exp(-np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))))


def three_d_var(observations):
    return da.ThreeDVar(X_B, B, observations)


def as_function(cost):
    """Return J and its derivatives in v and x_b at two places: where these agree, analysis and sensitivities do."""

    @jax.jit
    def evaluate(cost, v, x_b):
        return jax.value_and_grad(lambda v, x_b: cost.replace(background=x_b)(v), argnums=(0, 1))(v, x_b)

    places = np.random.default_rng(5).normal(size=(2, 2, 5))
    values = [evaluate(cost, {"state": jnp.asarray(v)}, X_B + x) for v, x in places]
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(values)])


def stream(values=VALUES, error=Diagonal(std=STD), operator=lambda x: jnp.tanh(x), **options):  # noqa: B008
    return da.Observations(values, [0] * len(values), operator=operator, error=error, **options)


@pytest.fixture(scope="module")
def expected():
    return as_function(three_d_var(stream()))


MASK = np.random.default_rng(4).uniform(size=VALUES.shape) < 0.6


@pytest.mark.parametrize(
    "error",
    [
        Diagonal.from_variance(STD**2),
        Diagonal(np.broadcast_to(STD, (3, 5))),
        Dense.from_matrix(np.diag(STD**2)),
        Dense.from_matrix(np.broadcast_to(np.diag(STD**2), (3, 5, 5))),
        4.0 * Diagonal(STD / 2),
        Kronecker(Dense.from_matrix(np.diag(STD**2))),
    ],
    ids=["variances", "field in time", "matrix", "matrices in time", "multiple", "Kronecker"],
)
def test_the_forms_of_one_observation_error(error, expected):
    if isinstance(error, Kronecker):  # has no masks: everything must be observed, and it says so
        with pytest.raises(da.covariances.NotAvailableError, match="Diagonal or Dense"):
            as_function(three_d_var(stream(error=error)))
        return
    np.testing.assert_allclose(as_function(three_d_var(stream(error=error))), expected, rtol=1e-12, atol=1e-12)


def test_streams_fused_are_one_stream_stacked(expected):
    halves = tuple(
        stream(VALUES[:, part], Diagonal(std=STD[part]), lambda x, part=part: jnp.tanh(x[part]))
        for part in (slice(0, 2), slice(2, 5))
    )
    by_kind = da.Observations(
        {"a": VALUES[:, :2], "b": VALUES[:, 2:]}, [0] * 3, lambda x: {"a": jnp.tanh(x[:2]), "b": jnp.tanh(x[2:])},
        Blocks({"a": Diagonal(std=STD[:2]), "b": Dense.from_matrix(np.diag(STD[2:] ** 2))}),
    )  # fmt: skip
    by_time = tuple(stream(VALUES[k : k + 1]) for k in range(3))
    for observations in (halves, by_kind, by_time):
        np.testing.assert_allclose(as_function(three_d_var(observations)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("correlated", [False, True])
def test_nan_is_masked_is_removed(correlated):
    R = Dense.from_matrix(B.apply(jnp.eye(5))) if correlated else Diagonal(std=STD)
    spoiled = np.where(MASK, VALUES, 1e30)  # a masked value may be anything finite
    nan = stream(np.where(MASK, VALUES, np.nan), R)
    masked = stream(spoiled, R, mask=MASK)
    removed = []
    for values, kept in zip(VALUES, MASK, strict=True):
        index = np.flatnonzero(kept)
        part = Dense.from_matrix(np.asarray(B.apply(jnp.eye(5)))[np.ix_(index, index)])
        removed.append(
            stream(values[None, index], part if correlated else Diagonal(std=STD[index]),
                   lambda x, index=index: jnp.tanh(x[index]))
        )  # fmt: skip
    results = [as_function(three_d_var(o)) for o in (nan, masked, tuple(removed))]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2], rtol=1e-12, atol=1e-12)


def test_a_model_window_of_no_steps_is_three_d_var(expected):
    window = da.StrongConstraint4DVar(da.models.Lorenz96(), X_B, B, stream(), steps=0)
    np.testing.assert_allclose(as_function(window), expected, rtol=1e-12, atol=1e-12)


def test_a_subset_is_a_matrix(expected):
    index = jnp.array([3, 0])
    rows = [Subset(index), Linear(jnp.eye(5)[index])]
    pair = [as_function(three_d_var(stream(VALUES[:, :2], Diagonal(std=STD[:2]), operator=H))) for H in rows]
    np.testing.assert_allclose(pair[0], pair[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        (da.GaussNewton(tolerance=1e-9), 1e-8),
        (da.GaussNewton(tolerance=1e-9, growth=None, store_linearization=False), 1e-8),
        (da.LBFGS(tolerance=1e-8), 1e-7),
        (da.MultiStart(da.GaussNewton(tolerance=1e-9), key=jax.random.key(0), draws=3), 1e-8),
        (da.Descent(optax.adam(optax.exponential_decay(0.1, 100, 0.5)), tolerance=1e-5, max_iterations=3000), 1e-5),
    ],
    ids=["Gauss-Newton", "Gauss-Newton recomputed", "L-BFGS", "many starts", "Adam"],
)
def test_all_minimizers_find_the_kalman_smoother(method, tolerance):
    cost, p = linear_gaussian()
    solution = da.minimize(cost, method)
    assert bool(solution.converged)
    # the Hessian is at least the identity: the distance in v is at most the gradient norm; |B^(1/2)| is about 3
    np.testing.assert_allclose(solution.state, kalman_smoother_initial_state(**p), atol=5 * tolerance)


@pytest.mark.slow
def test_implicit_gradients_do_not_depend_on_the_minimizer():
    cost = three_d_var(stream())

    def sensitivity(method):
        return jax.grad(lambda x_b: jnp.sum(jnp.sin(da.minimize(cost.replace(background=x_b), method).state)))(X_B)

    np.testing.assert_allclose(sensitivity(da.LBFGS(tolerance=1e-8)), sensitivity(TIGHT), atol=1e-7)
