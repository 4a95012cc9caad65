"""The account of one observation agrees with the matrices of the analysis, and says what limits it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.diagnostics import explain
from diffassim.observations import QCFlag

STD = jnp.array([0.5, 2.0, 1.0])
H = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 2.0]])
B = np.array([[1.0, 0.3], [0.3, 0.5]])
Y = jnp.array([[3.0, -1.0, 40.0]])


def linear(x):
    return H @ x


def cost(values=Y, **fields):
    y = da.Observations(values, [0], operator=linear, error=da.covariances.Diagonal(std=STD), **fields)
    return da.ThreeDVar(jnp.zeros(2), da.covariances.Dense(jnp.linalg.cholesky(jnp.asarray(B))), y)


def test_a_variational_account_is_that_of_the_matrices():
    R = np.diag(np.square(STD))
    G = np.asarray(H)
    K = B @ G.T @ np.linalg.inv(G @ B @ G.T + R)
    x_a = K @ np.asarray(Y[0])
    solution = da.minimize(cost(), da.GaussNewton(tolerance=1e-10))
    for j in range(3):
        why = explain(cost(), solution, observation=(0, j))
        assert why.innovation == pytest.approx(float(Y[0, j]), rel=1e-9)
        assert why.analysis == pytest.approx((G @ x_a)[j], rel=1e-6)
        assert why.error == pytest.approx(float(STD[j]))
        assert why.spread == pytest.approx(np.sqrt((G @ B @ G.T)[j, j]))
        assert why.weight == pytest.approx((G @ K)[j, j], rel=1e-5)
        size, place = why.increment
        assert size == pytest.approx(K[np.argmax(np.abs(K[:, j])), j] * float(Y[0, j]), rel=1e-5)
        assert place == f"[{np.argmax(np.abs(K[:, j]))}]"
    assert "gross" in str(why)  # of the last, 40


def test_an_ensemble_account_is_that_of_its_members():
    members = jax.random.normal(jax.random.key(0), (200, 2))
    y = cost(jnp.array([[3.0, -1.0, 0.5]])).observations[0]
    why = explain(da.ETKF(), members, y, observation=(0, 2))
    predicted = members @ H.T
    posterior, _ = da.ETKF().analyze(None, members, y)
    assert why.background == pytest.approx(float(predicted[:, 2].mean()))
    assert why.spread == pytest.approx(float(predicted[:, 2].std(ddof=1)))
    assert why.analysis == pytest.approx(float((posterior @ H.T)[:, 2].mean()))
    assert 0 < why.weight < why.weight_alone < 1


def test_what_was_not_used_says_why():
    values = Y.at[0, 1].set(jnp.nan)
    gone = cost(values)
    solution = da.minimize(gone)
    assert "missing or masked" in str(explain(gone, solution, observation=(0, 1)))
    flags = (jnp.array([[0, int(QCFlag.FIRST_GUESS), 0]]),)
    assert "FIRST_GUESS" in str(explain(gone, solution, observation=(0, 1), flags=flags))


def test_what_limits_is_named():
    one = da.covariances.Diagonal(std=1.0)
    twice = da.Observations(jnp.ones((8, 1)), [0] * 8, error=one)
    shared = da.ThreeDVar(jnp.zeros(1), one, twice)
    assert "other observations tell the same" in str(explain(shared, da.minimize(shared), observation=(3, 0)))
    trusted = da.ThreeDVar(jnp.zeros(1), da.covariances.Diagonal(std=0.1), twice)
    assert "background is trusted" in str(explain(trusted, da.minimize(trusted), observation=(3, 0)))
    still = da.Observations(jnp.ones((1, 2)), [0], error=one)
    blind = jnp.stack([jnp.zeros(5), jnp.arange(5.0)], axis=1)
    assert "no spread" in str(explain(da.ETKF(), blind, still, observation=(0, 0)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"observation": (0, 3)}, r"no index of values of shape \(1, 3\)"),
        ({"observation": 0}, "no index"),
        ({"observation": (0, 0), "stream": 1}, "1 streams"),
    ],
)
def test_a_wrong_index_is_named(options, words):
    with pytest.raises(da.ShapeError, match=words):
        explain(cost(), da.minimize(cost()), **options)


def test_what_cannot_be_explained_is_named():
    with pytest.raises(da.ConfigurationError, match="neither a cost"):
        explain(da.GaussNewton(), None, observation=0)
