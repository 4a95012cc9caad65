"""What every cost must satisfy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from diffassim import covariances, variational
from diffassim.core import tree
from diffassim.diagnostics import check_adjoint, check_gradient
from tests.variational.zoo import COSTS, example_control

BY_NAME = {entry.name: entry.cost for entry in COSTS}
sweep = pytest.mark.parametrize("name", BY_NAME)

MINIMIZERS = {"Descent", "GaussNewton", "LBFGS", "MinimizationError", "Minimum", "MultiStart"}
MINIMIZERS |= {"MultiStartMinimum", "Simplified", "Solution", "minimize"}
PRODUCTS = {"Consistency", "ForecastError", "ObservationImpact", "Posterior", "observation_impact"}
PRODUCTS |= {"background_spread", "log_likelihood", "observation_influence", "posterior", "randomized_solutions"}
PARTS = {
    "DirectSVD",
    "DualCG",
    "Incremental",
    "PrimalCG",
    "QuasiStatic",
    "CostFactory",
    "PerfectModel",
    "WithModelError",
}
NO_COSTS = MINIMIZERS | PRODUCTS | PARTS | {"Bounded", "Cost", "Minimizer", "Window"}


def flat(x):
    return np.asarray(ravel_pytree(x)[0])


def is_float(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def single(node):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if is_float(leaf) else leaf, node)


def test_every_public_cost_is_in_the_zoo():
    # A new name must be listed: as a cost in the zoo, or above as something else.
    assert set(variational.__all__) - NO_COSTS == {entry.made_by for entry in COSTS}


def test_every_covariance_family_occurs():
    def parts(node):
        yield type(node)
        if not isinstance(node, covariances.Covariance | dict | tuple):
            return
        for part in jax.tree.leaves(vars(node) if hasattr(node, "__dict__") else node, is_leaf=is_covariance):
            if is_covariance(part):
                yield from parts(part)

    def is_covariance(node):
        return isinstance(node, covariances.Covariance)

    used = set()
    for cost in BY_NAME.values():
        for root in (getattr(cost, "B", None), *(stream.error for stream in cost.observations)):
            used |= set(parts(root))
    public = {c for c in vars(covariances).values() if isinstance(c, type) and issubclass(c, covariances.Covariance)}
    assert public - {covariances.Covariance} <= used


@sweep
def test_the_cost_is_half_the_squared_residual_in_every_call(name):
    cost = BY_NAME[name]
    v, w = example_control(cost), example_control(cost, 1)

    @jax.jit
    def everything(cost, v, w):
        residuals, pull_back = jax.vjp(cost.residuals, v)
        value, gradient = jax.value_and_grad(lambda v: cost(v))(v)
        both = jax.vmap(lambda v: cost(v))(jax.tree.map(lambda *leaves: jnp.stack(leaves), v, w))
        return value, gradient, residuals, pull_back(residuals)[0], both, cost(w), cost.state(cost.control())

    value, gradient, residuals, by_hand, both, other, background = everything(cost, v, w)
    np.testing.assert_allclose(value, 0.5 * np.sum(flat(residuals) ** 2), rtol=1e-13)
    np.testing.assert_allclose(flat(gradient), flat(by_hand), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(both, [value, other], rtol=1e-12)
    np.testing.assert_allclose(cost(v), value, rtol=1e-12)  # without jit
    assert np.array_equal(flat(background), flat(cost.background))  # v = 0


@sweep
def test_single_precision_stays_single_and_agrees(name):
    cost = BY_NAME[name]
    v = example_control(cost)
    value = jax.jit(lambda cost, v: cost(v))(single(cost), single(v))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, cost(v), rtol=1e-5)


@sweep
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_adjoint_of_the_residuals(name, dtype):
    cost = BY_NAME[name] if dtype == "float64" else single(BY_NAME[name])
    report = check_adjoint(cost.residuals, example_control(cost))
    assert report.passed and report.tolerance == {"float64": 1e-12, "float32": 1e-5}[dtype], str(report)


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_a_wrong_adjoint_is_caught(factor):
    cost = BY_NAME["4D-Var"]
    v = example_control(cost)
    pull_back = jax.jit(lambda w: jax.vjp(cost.residuals, v)[1](w)[0])
    assert check_adjoint(cost.residuals, v, adjoint=pull_back).passed
    assert not check_adjoint(cost.residuals, v, adjoint=lambda w: tree.scale(factor, pull_back(w))).passed


@sweep
def test_taylor_in_the_control_vector_over_three_decades(name):
    cost = BY_NAME[name]
    report = check_gradient(cost, example_control(cost))
    assert report.passed and len(report.slopes) == 3, str(report)


@sweep
def test_taylor_in_everything_inside_the_cost(name):
    cost = BY_NAME[name]
    v = example_control(cost)
    leaves, structure = jax.tree.flatten(cost)
    numbers = {str(i): jnp.asarray(leaf) for i, leaf in enumerate(leaves) if is_float(leaf)}

    def value(numbers):
        changed = [numbers.get(str(i), leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, changed)(v)

    report = check_gradient(value, numbers, largest_step=3e-4, seed=1)
    assert report.passed and len(report.slopes) == 3, str(report)


@sweep
@pytest.mark.slow
def test_second_derivatives_are_symmetric_and_agree_between_modes(name):
    cost = BY_NAME[name]
    v, u, w = (example_control(cost, seed) for seed in range(3))

    @jax.jit
    def products(v, u, w):
        gradient = jax.grad(lambda v: cost(v))
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), u, w)
        H = jax.vmap(lambda direction: jax.jvp(gradient, (v,), (direction,))[1])(both)
        return H, jax.grad(lambda v: jax.jvp(lambda v: cost(v), (v,), (u,))[1])(v)

    H, other = products(v, u, w)
    Hu, Hw = (flat(jax.tree.map(lambda leaf, k=k: leaf[k], H)) for k in range(2))
    scale = np.abs(Hu).max()
    np.testing.assert_allclose(flat(w) @ Hu, flat(u) @ Hw, rtol=1e-11, atol=1e-12 * scale)
    np.testing.assert_allclose(flat(other), Hu, rtol=0, atol=1e-11 * scale)
