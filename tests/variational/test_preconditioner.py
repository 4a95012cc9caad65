"""Limited-memory preconditioning carried from one inner loop to the next."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Diagonal, Diffusion
from diffassim.grids import Grid
from diffassim.variational import DualCG, Incremental, PrimalCG, Simplified
from diffassim.variational.minimizers.preconditioner import LimitedMemory
from diffassim.variational.minimizers.trust_region import truncated_cg

from .problems import linear_gaussian

N = 12
DRAWS = np.random.default_rng(0)
F = DRAWS.normal(size=(N, N))
HESSIAN = jnp.asarray(np.eye(N) + F @ np.diag(np.logspace(-2, 2, N)) @ F.T)
GRADIENT = jnp.asarray(DRAWS.normal(size=N))


@jax.jit
def solve(H, preconditioner, tolerance, radius=jnp.inf):
    return truncated_cg(lambda p: H @ p, GRADIENT, radius, tolerance, 100, preconditioner=preconditioner)


def eigenvalues(P, H=HESSIAN):
    return np.sort(np.linalg.eigvals(jax.vmap(P.apply)(jnp.eye(N)) @ H).real)


def test_pairs_move_as_many_eigenvalues_to_one_and_spread_none():
    P = solve(HESSIAN, LimitedMemory.empty(GRADIENT, 4), 1e-1).learned
    assert int(P.count) >= 4
    before, after = np.linalg.eigvalsh(HESSIAN), eigenvalues(P)
    np.testing.assert_allclose(np.sort(np.abs(after - 1))[:4], 0, atol=1e-9)
    assert after[-1] <= before[-1] * (1 + 1e-9) and after[0] >= min(before[0], 1) * (1 - 1e-9)


def test_all_pairs_make_the_inverse_and_the_next_run_ends_at_once():
    mild = jnp.asarray(np.eye(N) + 0.1 * F @ F.T)
    first = solve(mild, LimitedMemory.empty(GRADIENT, N), 1e-9)
    assert 8 <= int(first.products) <= N
    again = solve(mild, first.learned, 1e-6)
    assert int(again.products) == 1
    np.testing.assert_allclose(again.step, -np.linalg.solve(mild, GRADIENT), atol=1e-6)


def test_pairs_of_another_hessian_leave_it_positive_definite_and_the_solution_the_same():
    P = solve(HESSIAN, LimitedMemory.empty(GRADIENT, 5), 1e-2).learned
    other = HESSIAN[::-1, ::-1]
    P = solve(other, P, 1e-1).learned  # pairs of both in one ring
    assert eigenvalues(P, jnp.eye(N)).min() > 0
    found = solve(other, P, 1e-12)
    np.testing.assert_allclose(found.step, -np.linalg.solve(other, GRADIENT), atol=1e-9)
    p = found.step
    assert float(found.predicted) == pytest.approx(-float(GRADIENT @ p + 0.5 * p @ other @ p), rel=1e-10)


def test_the_trust_radius_is_euclidean_with_a_preconditioner():
    P = solve(HESSIAN, LimitedMemory.empty(GRADIENT, 5), 1e-2).learned
    found = solve(HESSIAN, P, 1e-6, 1e-2)
    assert bool(found.on_boundary) and float(jnp.linalg.norm(found.step)) == pytest.approx(1e-2, rel=1e-10)


def test_a_direction_of_negative_curvature_is_not_learned():
    found = solve(-HESSIAN, LimitedMemory.empty(GRADIENT, 2), 1e-6, 1.0)
    assert bool(found.on_boundary) and int(found.learned.count) == 0
    np.testing.assert_array_equal(found.learned.apply(GRADIENT), GRADIENT)


SIDE = 12
PLACES = np.random.default_rng(7).choice(SIDE * SIDE, 60, replace=False)


def plane(seed):
    """Values of exp(x / 5) at irregular places of a plane with a diffusion B."""
    draws = np.random.default_rng(seed)
    B = Diffusion(1.0, 2.0, Grid((1.0, 1.0), (True, True)))

    def observe(x):
        return jnp.exp(0.2 * x.reshape(SIDE * SIDE)[PLACES])

    y = observe(B.sqrt(jnp.asarray(draws.normal(size=(SIDE, SIDE))))) + 0.05 * draws.normal(size=60)
    R = Diagonal(std=0.05)
    return da.ThreeDVar(jnp.zeros((SIDE, SIDE)), B, da.Observations(y[None], [0], operator=observe, error=R))


@pytest.mark.slow
def test_the_analysis_is_the_same_for_less_work():
    observe = plane(0).observations[0].operator
    costs = [plane(seed) for seed in range(3)]
    costs = [c.replace(observations=(c.observations[0].replace(operator=observe),)) for c in costs]  # compiled once
    plain, learning = (da.GaussNewton(tolerance=1e-8, inner=PrimalCG(pairs=pairs)) for pairs in (0, 60))
    work = {plain: 0.0, learning: 0.0}
    for cost in costs:
        found = {method: da.minimize(cost, method) for method in work}
        np.testing.assert_allclose(found[plain].state, found[learning].state, atol=1e-7)
        for method in work:
            work[method] += float(found[method].search.work)
    assert work[learning] < 0.8 * work[plain]


@pytest.mark.slow
def test_gradients_do_not_know_of_the_preconditioner():
    cost, _ = linear_gaussian()

    def total(y, method, unrolled):
        changed = cost.replace(observations=cost.observations[0].replace(values=y))
        return jnp.sum(da.minimize(changed, method, unrolled=unrolled).state)

    y = cost.observations[0].values
    method = da.GaussNewton(tolerance=1e-9, inner=PrimalCG(1e-3, 8, pairs=6), max_iterations=8)
    expected = jax.grad(total)(y, da.GaussNewton(tolerance=1e-9), False)
    np.testing.assert_allclose(jax.grad(total)(y, method, False), expected, atol=1e-7)
    np.testing.assert_allclose(jax.grad(total)(y, method, True), expected, atol=1e-6)


def test_how_many_pairs_are_kept_follows_from_the_window_and_the_memory():
    large, small, plenty = {"state": jnp.zeros(1000)}, {"state": jnp.zeros(100)}, 2**28
    assert PrimalCG().settled(large, 45, plenty).pairs == 45 and PrimalCG().settled(large, 400, plenty).pairs == 50
    assert PrimalCG().settled(small, 45, plenty).pairs == PrimalCG().settled(large, 0, plenty).pairs == 0
    assert PrimalCG().settled(large, 45, 10 * 16_000).pairs == 10  # two vectors of 8 bytes a component for each
    assert PrimalCG(pairs=3).settled(large, 45, plenty).pairs == PrimalCG(pairs=3).settled(small, 45, 0).pairs == 3
    coarse = Incremental(Simplified(lambda x, t: x)).settled(large, 45, plenty)
    assert coarse.cg.pairs == 45 and DualCG().settled(large, 45, plenty).remember(large) is None


def test_bad_settings_are_named():
    cost, _ = linear_gaussian()
    with pytest.raises(da.ConfigurationError, match=r"PrimalCG\.pairs must be at least 0, found -1"):
        PrimalCG(pairs=-1)
    with pytest.raises(da.ConfigurationError, match=r"`inner` takes .* found 'dual'"):
        da.GaussNewton(inner="dual")
    with pytest.raises(da.ConfigurationError, match=r"`growth` takes .* found 5"):
        da.GaussNewton(growth=5)
    with pytest.raises(da.ConfigurationError, match=r"7 pairs are more than .* \(6\)"):
        da.minimize(cost, da.GaussNewton(inner=PrimalCG(pairs=7)))
