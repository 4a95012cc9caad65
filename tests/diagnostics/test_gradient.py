"""The tests of derivatives are tested: right ones pass, wrong ones do not, and the reports say what happened."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import DataError, ShapeError
from diffassim.diagnostics import check_adjoint, check_gradient

X = jnp.linspace(0.5, 2.0, 4)
M = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))


def nonlinear(x):
    return M @ jnp.sin(x)


def exact_adjoint(w):
    return jnp.cos(X) * (M.T @ w)


def score(x):
    return jnp.sum(jnp.exp(0.3 * x) * x)


def test_the_right_adjoint_passes():
    for adjoint in (None, exact_adjoint):
        report = check_adjoint(nonlinear, X, adjoint=adjoint)
        assert report.passed and report.defect <= report.tolerance == 1e-12


@pytest.mark.parametrize("factor", [1.01, -1.0, 0.0, 1 + 1e-8])
def test_a_wrong_adjoint_fails(factor):
    report = check_adjoint(nonlinear, X, adjoint=lambda w: factor * exact_adjoint(w))
    assert not report.passed
    np.testing.assert_allclose(report.defect, abs(factor - 1), rtol=0.9)


def test_an_adjoint_that_is_wrong_in_one_component_fails():
    assert not check_adjoint(nonlinear, X, adjoint=lambda w: exact_adjoint(w).at[2].mul(1.01)).passed


def test_a_rectangular_map_between_pytrees():
    def function(x):
        return {"sum": x["a"] + jnp.sum(x["b"]), "b": (x["b"] ** 2,)}

    assert check_adjoint(function, {"a": jnp.asarray(2.0), "b": X}).passed


def test_a_constant_function_has_a_zero_adjoint():
    assert check_adjoint(lambda x: jnp.ones(3), X).passed
    assert not check_adjoint(lambda x: jnp.ones(3), X, adjoint=lambda w: jnp.ones(4)).passed


def test_single_precision_has_its_own_tolerance():
    report = check_adjoint(lambda x: M.astype(jnp.float32) @ jnp.sin(x), X.astype(jnp.float32))
    assert report.passed and report.tolerance == 1e-5
    assert report.defect > 0


def test_another_seed_tests_other_directions():
    assert len({check_adjoint(nonlinear, X, seed=seed, adjoint=lambda w: w @ M).defect for seed in range(3)}) == 3


@pytest.mark.parametrize("seed", range(3))
def test_the_right_gradient_passes_over_three_decades(seed):
    report = check_gradient(score, X, seed=seed)
    assert report.passed and len(report.slopes) == 3
    assert len(report.steps) == len(report.remainders) == 7
    np.testing.assert_allclose(report.steps[0] / report.steps[-1], 1e3, rtol=1e-12)


@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0, 0.0])
def test_a_gradient_that_is_wrong_by_one_percent_fails(factor):
    report = check_gradient(score, X, gradient=lambda x: factor * jax.grad(score)(x))
    assert not report.passed and report.conclusive


@pytest.mark.parametrize(
    "function",
    [lambda x: 3 * x[0] - x[1], lambda x: jnp.sum(x**2), lambda x: x[0] * x[1], lambda x: 7.0 + 0 * x[0]],
    ids=["linear", "square", "product", "constant"],
)
def test_linear_and_quadratic_functions(function):
    assert check_gradient(function, X).passed
    wrong = check_gradient(function, X, gradient=lambda x: 1.01 * jax.grad(function)(x) + 0.01)
    assert not wrong.passed


def test_a_derivative_that_rounding_hides_is_not_passed():
    def buried(x):
        return 1e14 + x[0]

    report = check_gradient(buried, X, gradient=lambda x: 5 * jax.grad(buried)(x))
    assert not report.passed and not report.conclusive
    assert "INCONCLUSIVE" in str(report) and "float64" in str(report)


def test_single_precision_needs_a_large_step_and_says_so():
    single = X.astype(jnp.float32)
    assert check_gradient(score, single, largest_step=0.3).passed
    wrong = check_gradient(score, single, gradient=lambda x: 1.01 * jax.grad(score)(x))
    assert not wrong.passed


def test_a_kink_is_seen():
    assert not check_gradient(lambda x: jnp.sum(jnp.abs(x - 1.0)), jnp.ones(3)).passed


def test_reports_can_be_read():
    text = str(check_adjoint(nonlinear, X))
    assert text.startswith("adjoint test passed: |<Mx, y> - <x, M*y>| / (|Mx| |y|) = ")
    assert text.endswith("(tolerance 1e-12)")
    assert str(check_adjoint(nonlinear, X, adjoint=lambda w: w @ M)).startswith("adjoint test FAILED")
    lines = str(check_gradient(score, X)).splitlines()
    assert lines[0].startswith("Taylor test passed: slopes 2.0") and lines[0].endswith("(2 expected)")
    assert len(lines) == 9 and lines[2].split()[0] == "1.0e-02"
    wrong = str(check_gradient(score, X, gradient=lambda x: 2 * jax.grad(score)(x)))
    assert wrong.startswith("Taylor test FAILED: slopes 0.998, 1.000, 1.000 (2 expected)")


def test_a_cost_can_be_tested_through_its_control_vector():
    obs = da.Observations(jnp.ones((1, 4)), [0], operator=jnp.tanh, error=da.covariances.Diagonal(std=0.5))
    cost = da.ThreeDVar(X, da.covariances.Diagonal(std=1.0), obs)
    v = jax.tree.map(lambda leaf: leaf + 0.1, cost.control())
    assert check_gradient(cost, v).passed and check_adjoint(cost.residuals, v).passed


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_gradient(jnp.sin, X), ShapeError, r"must return one number, but it returns \(4,\)"),
        (lambda: check_gradient(lambda x: {"a": x[0]}, X), ShapeError, r"one number, but it returns \['a'\] \(\)"),
        (lambda: check_gradient(score, X, gradient=lambda x: x[:2]), ShapeError, r"gradient is \(2,\), but x has \(4,"),
        (lambda: check_gradient(lambda x: jnp.log(x[0] - 9), X), DataError, "the function is not finite at x"),
        (lambda: check_gradient(lambda x: jnp.sqrt(x[0] - 0.5), X), DataError, "the gradient is not finite at x"),
        (
            lambda: check_gradient(lambda x: jnp.sum(jnp.log(x)), jnp.full(9, 1e-3), largest_step=1.0),
            DataError,
            "not finite at a step of .* smaller largest_step",
        ),
        (lambda: check_gradient(lambda x: x["n"] * 1.0, {"n": 3}), DataError, r"x\['n'\] is int64; .*floating-point"),
        (lambda: check_gradient(lambda x: jnp.ones(()), ()), ShapeError, "x holds no array"),
        (lambda: check_adjoint(lambda x: x, jnp.arange(3)), DataError, "check_adjoint: x is int64"),
        (lambda: check_adjoint(jnp.sqrt, jnp.zeros(2)), DataError, "tangent-linear map is not finite"),
        (lambda: check_adjoint(jnp.sin, X, adjoint=lambda w: w * jnp.nan), DataError, "adjoint is not finite"),
        (lambda: check_adjoint(jnp.sin, X, adjoint=lambda w: w[:2]), ShapeError, r"returned \(2,\), but x has \(4,\)"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
