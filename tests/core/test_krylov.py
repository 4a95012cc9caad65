"""Conjugate gradients and Lanczos against dense linear algebra."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core import tree
from diffassim.core.krylov import conjugate_gradients, lanczos
from diffassim.core.results import Result

RNG = np.random.default_rng(0)
N = 12
Q = np.linalg.qr(RNG.normal(size=(N, N)))[0]
VALUES = np.linspace(1.0, 10.0, N)
A = jnp.asarray((Q * VALUES) @ Q.T)
B = jnp.asarray(RNG.normal(size=N))


def product(x):
    return A @ x


def as_tree(x):
    return {"u": x[..., :4].reshape((*x.shape[:-1], 2, 2)), "v": (x[..., 4:],)}


def as_vector(t):
    return jnp.concatenate([t["u"].reshape(-1), t["v"][0]])


def test_solution_matches_dense_solve():
    found = conjugate_gradients(product, B, rtol=1e-14, max_iterations=50)
    np.testing.assert_allclose(found.solution, np.linalg.solve(A, B), rtol=0, atol=1e-12)
    assert int(found.result) == Result.CONVERGED
    residual = np.linalg.norm(B - A @ found.solution)
    assert float(found.residual_norm) <= 1e-14 * np.linalg.norm(B)
    assert residual <= 1e-13 * np.linalg.norm(B)


def test_residual_norms_are_those_of_the_iterates():
    found = conjugate_gradients(product, B, rtol=0.0, max_iterations=5)
    for k in range(1, 6):
        partial = conjugate_gradients(product, B, rtol=0.0, max_iterations=k)
        exact = np.linalg.norm(B - A @ partial.solution)
        np.testing.assert_allclose(found.residual_norms[k], exact, rtol=1e-11)
    assert int(found.result) == Result.MAX_ITERATIONS
    assert int(found.iterations) == 5


def test_relative_and_absolute_tolerance():
    norm = float(np.linalg.norm(B))
    by_rtol = conjugate_gradients(product, B, rtol=1e-3, max_iterations=50)
    by_atol = conjugate_gradients(product, B, rtol=0.0, atol=1e-3 * norm, max_iterations=50)
    assert int(by_rtol.iterations) == int(by_atol.iterations) < N
    before = int(by_rtol.iterations) - 1
    assert float(by_rtol.residual_norm) <= 1e-3 * norm < float(by_rtol.residual_norms[before])
    assert np.isnan(by_rtol.residual_norms[before + 2 :]).all()
    assert np.isnan(by_rtol.alphas[before + 1 :]).all()


def test_pytree_equals_vector():
    on_tree = conjugate_gradients(lambda t: as_tree(A @ as_vector(t)), as_tree(B), rtol=1e-10)
    on_vector = conjugate_gradients(product, B, rtol=1e-10)
    np.testing.assert_allclose(as_vector(on_tree.solution), on_vector.solution, rtol=0, atol=1e-13)
    assert int(on_tree.iterations) == int(on_vector.iterations)


def test_exact_preconditioner_needs_one_iteration():
    inverse = jnp.asarray(np.linalg.inv(A))
    found = conjugate_gradients(product, B, preconditioner=lambda r: inverse @ r, rtol=1e-10)
    assert int(found.iterations) == 1
    np.testing.assert_allclose(found.solution, np.linalg.solve(A, B), rtol=0, atol=1e-12)


def test_preconditioned_path_is_that_of_the_transformed_system():
    L = jnp.asarray(np.diag(1 / np.sqrt(np.diag(A))))
    direct = conjugate_gradients(lambda x: L @ (A @ (L @ x)), L @ B, rtol=0.0, max_iterations=4)
    preconditioned = conjugate_gradients(product, B, preconditioner=lambda r: L @ (L @ r), rtol=0.0, max_iterations=4)
    np.testing.assert_allclose(L @ direct.solution, preconditioned.solution, rtol=0, atol=1e-13)
    np.testing.assert_allclose(direct.alphas, preconditioned.alphas, rtol=1e-11)
    np.testing.assert_allclose(direct.betas, preconditioned.betas, rtol=1e-11)


@pytest.mark.slow
def test_tridiagonal_is_the_lanczos_matrix_and_ritz_values_are_the_spectrum():
    found = conjugate_gradients(product, B, rtol=0.0, max_iterations=6)
    diagonal, off_diagonal = found.tridiagonal()
    reference = lanczos(product, B, 6)
    np.testing.assert_allclose(diagonal, reference.diagonal, rtol=1e-10)
    np.testing.assert_allclose(off_diagonal, reference.off_diagonal, rtol=1e-10)
    np.testing.assert_allclose(found.ritz_values(), reference.ritz()[0], rtol=1e-10)
    complete = conjugate_gradients(product, B, rtol=1e-13, max_iterations=20)
    count = int(complete.iterations)
    assert count <= N + 1
    values = np.asarray(complete.ritz_values())
    assert np.isnan(values[count:]).all()
    np.testing.assert_allclose(values[[0, count - 1]], VALUES[[0, -1]], rtol=1e-8)


def test_zero_right_hand_side():
    found = conjugate_gradients(product, jnp.zeros(N))
    assert int(found.result) == Result.CONVERGED
    assert int(found.iterations) == 0
    assert bool(jnp.all(found.solution == 0))


def test_non_positive_curvature_ends_with_the_last_sound_solution():
    D = jnp.asarray(np.r_[np.linspace(1, 3, N - 1), -1.0])
    b = jnp.ones(N).at[-1].set(1e-3)
    found = conjugate_gradients(lambda x: D * x, b, rtol=1e-12, max_iterations=100)
    assert int(found.result) == Result.LINEAR_SOLVE
    assert bool(jnp.all(jnp.isfinite(found.solution)))
    made = int(found.iterations)
    assert made > 0
    again = conjugate_gradients(lambda x: D * x, b, rtol=1e-12, max_iterations=made)
    np.testing.assert_array_equal(found.solution, again.solution)
    np.testing.assert_allclose(found.residual_norm, np.linalg.norm(b - D * found.solution), rtol=1e-10)
    assert int(conjugate_gradients(lambda x: 0 * x, b).result) == Result.LINEAR_SOLVE


def test_non_finite_values_never_reach_the_solution():
    def overflowing(x):
        return jnp.where(x[0] > 0.3, jnp.nan, 1.0) * (A @ x)

    direct = conjugate_gradients(overflowing, B.at[0].set(1.0))
    assert int(direct.result) == Result.LINEAR_SOLVE
    assert bool(jnp.all(direct.solution == 0))
    bad = conjugate_gradients(product, B.at[0].set(jnp.nan))
    assert int(bad.result) == Result.LINEAR_SOLVE
    assert bool(jnp.all(bad.solution == 0))
    indefinite = conjugate_gradients(product, B, preconditioner=lambda r: -r)
    assert int(indefinite.result) == Result.LINEAR_SOLVE
    assert bool(jnp.all(indefinite.solution == 0))


def test_jit_vmap_and_float32():
    batch = jnp.asarray(RNG.normal(size=(3, N)))
    solve = jax.jit(jax.vmap(lambda b: conjugate_gradients(product, b, rtol=1e-13)))
    found = solve(batch)
    np.testing.assert_allclose(found.solution, np.linalg.solve(A, batch.T).T, rtol=0, atol=1e-11)
    single = A.astype(jnp.float32)
    found = conjugate_gradients(lambda x: single @ x, B.astype(jnp.float32), rtol=1e-5)
    assert found.solution.dtype == found.alphas.dtype == jnp.float32
    np.testing.assert_allclose(found.solution, np.linalg.solve(A, B), atol=1e-4)


def test_tolerances_are_run_time_numbers():
    @jax.jit
    def solve(rtol):
        return conjugate_gradients(product, B, rtol=rtol).iterations

    assert int(solve(1e-2)) < int(solve(1e-8))
    assert solve._cache_size() == 1


def test_lanczos_factorization_is_exact():
    found = lanczos(lambda t: as_tree(A @ as_vector(t)), as_tree(B), 7)
    V = np.asarray(jax.vmap(as_vector)(found.basis)).T
    np.testing.assert_allclose(V.T @ V, np.eye(7), rtol=0, atol=1e-13)
    T = np.diag(found.diagonal) + np.diag(found.off_diagonal[:-1], 1) + np.diag(found.off_diagonal[:-1], -1)
    np.testing.assert_allclose(V.T @ np.asarray(A) @ V, T, rtol=0, atol=1e-12)
    rest = np.asarray(A) @ V - V @ T
    np.testing.assert_allclose(rest[:, :-1], 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rest[:, -1]), found.off_diagonal[-1], rtol=1e-11)


def test_lanczos_keeps_orthogonality_where_the_plain_recurrence_loses_it():
    values = np.r_[np.linspace(0, 1, 199), 1e4]
    found = lanczos(lambda x: jnp.asarray(values) * x, jnp.ones(200), 60)
    V = np.asarray(found.basis)
    np.testing.assert_allclose(V @ V.T, np.eye(60), rtol=0, atol=1e-12)
    ritz, _ = found.ritz()
    assert int(jnp.sum(ritz > 10.0)) == 1  # the large eigenvalue appears once, no ghosts


def test_complete_lanczos_diagonalizes():
    values, vectors = lanczos(product, B, N).ritz()
    np.testing.assert_allclose(values, VALUES, rtol=1e-11)
    np.testing.assert_allclose(vectors @ np.asarray(A), np.asarray(values)[:, None] * vectors, rtol=0, atol=1e-10)


def test_exhausted_krylov_space_gives_zeros():
    start = jnp.asarray(Q[:, 0] + Q[:, 1])
    found = lanczos(product, start, 5)
    np.testing.assert_allclose(found.diagonal[2:], 0, atol=1e-12)
    assert float(tree.norm(found.basis[2:])) == 0.0
    ritz = np.sort(np.asarray(found.ritz()[0]))[-2:]
    np.testing.assert_allclose(ritz, VALUES[:2], rtol=1e-12)


@pytest.mark.parametrize("bad", [jnp.zeros(N), B.at[0].set(jnp.nan)])
def test_lanczos_of_an_impossible_start_is_nan_not_wrong(bad):
    assert bool(jnp.all(jnp.isnan(lanczos(product, bad, 3).diagonal)))
