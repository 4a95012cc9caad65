"""The step from singular values is the exact one, within any trust radius."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.variational import DirectSVD
from diffassim.variational.minimizers.direct import direct_step

from .problems import kalman_smoother_initial_state, linear_gaussian, lorenz96_window

TIGHT = da.GaussNewton(tolerance=1e-9, inner=DirectSVD())


def problem(m, n, seed=0):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(3 * rng.normal(size=(m, n))),
        jnp.asarray(rng.normal(size=n)),
        jnp.asarray(5 * rng.normal(size=m)),
    )


@pytest.mark.parametrize(("m", "n"), [(4, 9), (9, 4), (5, 5)])
@pytest.mark.parametrize("radius", [0.1, 1.0, 100.0, np.inf])
def test_the_step_is_the_minimizer_within_the_radius(m, n, radius):
    A, v, d = problem(m, n)
    p, predicted, on_boundary = direct_step(A, v, d, radius)
    H, g = np.eye(n) + A.T @ A, v + A.T @ d

    def model(p):
        return 0.5 * np.sum((v + p) ** 2) + 0.5 * np.sum((d + A @ p) ** 2)

    np.testing.assert_allclose(predicted, model(np.zeros(n)) - model(p), rtol=1e-9)
    length = float(jnp.linalg.norm(p))
    assert length <= radius * (1 + 1e-12)
    if on_boundary:  # the condition of a minimum there: (H + lambda) p = -g with lambda > 0
        left = -(g + H @ p)
        multiplier = float(left @ p) / length**2
        assert multiplier > 0 and abs(length - radius) < 1e-9 * radius
        np.testing.assert_allclose(left, multiplier * p, atol=1e-8 * float(jnp.linalg.norm(g)))
    else:
        np.testing.assert_allclose(p, np.linalg.solve(H, -g), atol=1e-10)
    assert bool(on_boundary) == (np.linalg.norm(np.linalg.solve(H, -g)) > radius)


def test_nearly_exact_observations_do_not_spoil_the_step():
    A, v, d = problem(6, 9)
    A = jnp.asarray(10.0 ** np.array([8.0, 7.0, 5.0, 3.0, 1.0, -1.0]))[:, None] * jnp.linalg.qr(A.T)[0].T
    p, _, _ = direct_step(A, v, 1e3 * d, jnp.inf)
    exact = np.linalg.lstsq(np.vstack([np.eye(9), A]), -np.concatenate([v, 1e3 * d]), rcond=None)[0]
    np.testing.assert_allclose(p, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "m", "times"), [(6, 3, 4), (40, 2, 3)])
@pytest.mark.slow
def test_a_linear_window_is_the_smoother_after_one_step(n, m, times):
    cost, p = linear_gaussian(n, m, times)
    found = da.minimize(cost, TIGHT)
    expected = kalman_smoother_initial_state(**p)
    np.testing.assert_allclose(found.state, expected, atol=1e-9 * np.abs(expected).max())
    assert bool(found.converged) and int(found.search.iterations) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_chaotic_window_has_the_same_minimum_alone_and_in_a_batch(dtype):
    cost, _ = lorenz96_window(times=3, seed=1)
    cost = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf, cost
    )
    method = da.GaussNewton(tolerance=1e-2, inner=DirectSVD())
    plain, found = da.minimize(cost), da.minimize(cost, method)
    np.testing.assert_allclose(found.cost, plain.cost, rtol=1e-4)
    batched = jax.vmap(lambda x: da.minimize(cost.replace(background=x), method).cost)(cost.background[None])
    np.testing.assert_allclose(batched[0], found.cost, rtol=1e-4)


def test_no_observations_leave_the_background_and_unrolled_loops_are_refused():
    cost, _ = linear_gaussian()
    nothing = cost.replace(observations=cost.observations[0].replace(mask=jnp.zeros((4, 3), bool)))
    np.testing.assert_array_equal(da.minimize(nothing, TIGHT).state, cost.background)
    with pytest.raises(da.ConfigurationError, match="DirectSVD has no unrolled derivatives"):
        da.minimize(cost, TIGHT, unrolled=True)
