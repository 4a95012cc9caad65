"""The likelihood by products alone against the exact one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances import (
    Dense,
    Diagonal,
    Diffusion,
    Matern,
    estimate_likelihood,
    fit_parameters,
    negative_log_likelihood,
)
from diffassim.covariances.estimation.likelihood_estimate import _largest, _log_forms, _tail
from diffassim.grids import Grid

CIRCLE = Grid(1.0, True)
N = 24
KEY = jax.random.key(3)
SMOOTH = jnp.ones(N)


def every_second(x):
    return x[::2]


def exact_matrix(p):
    B = Matern(p[0], p[1], CIRCLE)
    rows = jax.vmap(every_second, in_axes=1, out_axes=1)(B.apply(jnp.eye(N)))
    return jax.vmap(every_second)(rows) + p[2] ** 2 * jnp.eye(N // 2)


def innovations(cases, seed=0, gaps=0.0):
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(cases, N // 2)) @ np.linalg.cholesky(exact_matrix((1.3, 2.0, 0.7))).T
    d[rng.uniform(size=d.shape) < gaps] = np.nan
    return d


@jax.jit
def estimate(d, p):
    return estimate_likelihood(d, Matern(p[0], p[1], CIRCLE), Diagonal(p[2]), every_second, SMOOTH, key=KEY, probes=64)


P = jnp.array([1.3, 2.0, 0.7])


@pytest.mark.slow
def test_the_series_of_the_logarithm_is_exact_with_a_probe_for_each_direction():
    A = exact_matrix(P) / 0.49
    largest = _largest(lambda u: A @ u, jnp.ones(N // 2))
    assert np.linalg.eigvalsh(A)[-1] <= largest < 1.1 * np.linalg.eigvalsh(A)[-1]
    probes = jnp.eye(N // 2)
    for degree in (6, 200):
        found = jnp.sum(_log_forms(lambda u: A @ u, probes, largest, degree))
        error = abs(float(found - np.linalg.slogdet(A)[1]))
        assert error <= 1e-12 * N + N // 2 * float(_tail(largest, degree))
    assert error < 1e-11


@pytest.mark.parametrize("gaps", [0.0, 0.2])
@pytest.mark.slow
def test_the_estimate_lies_within_its_errors(gaps):
    d = innovations(6, gaps=gaps)
    exact = negative_log_likelihood(d, Matern(1.3, 2.0, CIRCLE), Diagonal(0.7), every_second, SMOOTH)
    found = estimate(jnp.asarray(d), P) if gaps else estimate_of_known(d)
    assert 0 < found.probe_error < 0.05 * abs(exact)
    assert found.truncation_error < 1e-6
    assert abs(found.value - exact) < 3.5 * found.probe_error + found.truncation_error


def estimate_of_known(d):
    """Values known outside of traced code: the probes are shared by all cases."""
    return jax.jit(
        lambda p: estimate_likelihood(
            d, Matern(p[0], p[1], CIRCLE), Diagonal(p[2]), every_second, SMOOTH, key=KEY, probes=64
        )
    )(P)


@pytest.mark.slow
def test_gradient_and_hessian_are_those_of_the_estimate():
    d = jnp.asarray(innovations(3, gaps=0.2))
    gradient = jax.jit(jax.grad(lambda p: estimate(d, p).value))
    h = 1e-5
    rows = jnp.eye(3)
    differences = [(estimate(d, P + h * e).value - estimate(d, P - h * e).value) / (2 * h) for e in rows]
    np.testing.assert_allclose(gradient(P), np.array(differences), rtol=1e-6)
    second = [(gradient(P + h * e) - gradient(P - h * e)) / (2 * h) for e in rows]
    hessian = jax.jit(jax.hessian(lambda p: estimate(d, p).value))(P)
    np.testing.assert_allclose(hessian, np.array(second), rtol=0, atol=1e-5 * np.abs(hessian).max())


@pytest.mark.slow
def test_parameters_are_those_of_the_exact_likelihood():
    d = innovations(60, seed=5)
    patterns = Dense.from_matrix(exact_matrix(P) - 0.49 * np.eye(N // 2))

    def exact(p):
        return negative_log_likelihood(d, p["factor"] * patterns, Diagonal(p["error"]))

    def estimated(p):
        return estimate_likelihood(
            d, p["factor"] * patterns, Diagonal(p["error"]), key=KEY, probes=256, degree=32
        ).value

    start = {"factor": 2.0, "error": 1.0}
    expected, found = fit_parameters(exact, start), fit_parameters(estimated, start)
    for name in start:  # the probes' share of the parameters' errors is small
        ratio = found.parameters[name] / expected.parameters[name]
        assert abs(np.log(float(ratio))) < 0.5 * expected.relative_error[name]
        np.testing.assert_allclose(found.relative_error[name], expected.relative_error[name], rtol=0.2)


@pytest.mark.slow
def test_no_matrix_is_written_out():
    m, n = 4000, 64
    places = np.random.default_rng(0).integers(0, n * n, m)
    B = Diffusion(1.0, 3.0, Grid(periodic=(True, True)), order=2)

    def value(d):
        H = lambda x: x.reshape(-1)[places]  # noqa: E731
        return estimate_likelihood(d, B, Diagonal(1.0), H, jnp.zeros((n, n)), key=KEY, probes=4, degree=8).value

    shape = jax.ShapeDtypeStruct((1, m), jnp.float64)
    memory = jax.jit(value).lower(shape).compile().memory_analysis().temp_size_in_bytes
    assert memory < 0.2 * 8 * m * m


def test_bad_input_is_named():
    d, B, R = jnp.ones((2, 3)), Diagonal(1.0), Diagonal(1.0)
    with pytest.raises(ShapeError, match=r"shape \(cases, m\)"):
        estimate_likelihood(d[0], B, R, key=KEY)
    with pytest.raises(ConfigurationError, match="even degree, found 8 and 7"):
        estimate_likelihood(d, B, R, key=KEY, probes=8, degree=7)
    with pytest.raises(ShapeError, match="give `x`"):
        estimate_likelihood(d, B, R, lambda x: x, key=KEY)
