"""The covariance report passes what is right and names what is wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import DataError, ShapeError
from diffassim.covariances import Dense, Diagonal, Ensemble, Gaussian, LowRank
from diffassim.diagnostics import check_covariance
from diffassim.grids import Grid

FACTOR = np.array([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.3, -0.4, 0.7]])


class Wrong(Dense):
    """A covariance of which a test breaks one operation."""


def broken(**methods):
    return type("Broken", (Wrong,), methods)(FACTOR)


@pytest.mark.parametrize(
    ("B", "x", "untested"),
    [
        (Gaussian(1.2, 1.5, Grid(1.0, True), nugget=1e-3), jnp.zeros(8), 0),
        (LowRank(np.ones((1, 5)), Diagonal(1.0)), jnp.zeros(5), 0),
        (0.5 * Diagonal(1.0) + 0.5 * Ensemble(np.eye(4)), jnp.zeros(4), 2),
        (Diagonal({"a": 1.0, "b": 2.0}), {"a": jnp.zeros(2), "b": jnp.zeros(301)}, 1),
    ],
)
def test_right_covariances_pass(B, x, untested):
    report = check_covariance(B, x)
    assert report.passed, str(report)
    assert sum(finding.passed is None for finding in report.findings) == untested
    assert str(report).startswith(f"covariance test of {type(B).__name__} passed\n  linear")


@pytest.mark.parametrize(
    ("methods", "failures"),
    [
        ({"apply": lambda B, x: jnp.einsum("ij,...j->...i", B.factor, x)}, {"symmetric"}),
        ({"apply": lambda B, x: Dense.apply(B, x) + 0.1 * x**3}, {"linear"}),
        ({"apply": lambda B, x: -Dense.apply(B, x)}, {"positive semidefinite"}),
        ({"sqrt_transpose": Dense.sqrt}, {"sqrt_transpose is the adjoint of sqrt"}),
        ({"solve": lambda B, x: 1.001 * Dense.solve(B, x)}, {"solve(apply(u)) = u"}),
        (
            {"whiten": lambda B, x: 1.001 * Dense.whiten(B, x), "solve": lambda B, x: Dense(B.factor).solve(x)},
            {"|whiten(apply(u))|^2 = <u, apply(u)>"},
        ),
        (
            {"apply": lambda B, x: Dense(jax.lax.stop_gradient(B.factor)).apply(x)},
            {"gradient in the parameters"},
        ),
        ({"logdet": lambda B, x: Dense.logdet(B, x) / 2}, {"logdet of the matrix"}),
        (
            {"sample": lambda B, key, x: 1.2 * Dense.sample(B, key, x)},
            {"draws have mean zero and this variance"},
        ),
    ],
)
def test_wrong_covariances_fail_where_they_are_wrong(methods, failures):
    report = check_covariance(broken(**methods), jnp.zeros(3))
    assert not report.passed
    assert failures <= set(report.failures), str(report)
    if "apply" not in methods and "sqrt_transpose" not in methods:  # those two enter the other identities as well
        assert failures == set(report.failures)


def test_a_covariance_of_another_state_is_named():
    with pytest.raises(ShapeError, match="check_covariance: Dense"):
        check_covariance(Dense(FACTOR), jnp.zeros(4))
    with pytest.raises(DataError, match="floating-point arrays only"):
        check_covariance(Diagonal(1.0), jnp.zeros(3, int))
    with pytest.raises(DataError, match="a product with B is not finite"):
        check_covariance(broken(apply=lambda B, x: jnp.nan * x), jnp.zeros(3))


def test_float32():
    report = check_covariance(Diagonal(2.0), jnp.zeros(3, jnp.float32))
    assert report.passed, str(report)
