"""Incremental 4D-Var: simplified inner problems reach the minimum of the full cost, for less of the full model."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core import tree
from diffassim.models import BlockMean, FunctionModel, Truncation
from diffassim.variational import DualCG, Incremental, Simplified

from .problems import lorenz96_window

N, STEPS, DX = 32, 12, 1.0
RNG = np.random.default_rng(3)
DIRECTION = RNG.normal(size=N)


class Burgers(da.models.Model):
    """Viscous Burgers equation with a named parameter."""

    nu: object = 0.4
    dx: object = DX
    dt: object = 0.2

    def step(self, x, t):
        ahead, behind = jnp.roll(x, -1), jnp.roll(x, 1)
        advection = (ahead**2 - behind**2) / (4 * self.dx)
        return x + self.dt * (self.nu * (ahead - 2 * x + behind) / self.dx**2 - advection)


MODEL = Burgers()
COARSE = Simplified(MODEL.replace(dx=2 * DX, dt=0.4), Truncation(2), every=2)
COARSEST = Simplified(MODEL.replace(dx=4 * DX, dt=0.4), Truncation(4), every=2)
B = da.covariances.Gaussian(std=0.4, length=3.0, grid=da.grids.Grid(DX))
TIGHT = da.GaussNewton(tolerance=1e-8)


def problem(kind=da.StrongConstraint4DVar, seed=3, **options):
    rng = np.random.default_rng(seed)
    x_b = jnp.asarray(0.7 * np.sin(2 * np.pi * np.arange(N) / N) + 0.3)
    truth = x_b + B.sample(jax.random.key(seed), x_b)
    at = np.array([3, 6, 9, 12])
    values = np.asarray(da.rollout(MODEL, truth, STEPS, at=at))[:, ::2]
    H = da.observations.Subsample(every=2)
    obs = da.Observations(values + 0.1 * rng.normal(size=values.shape), at, H, da.covariances.Diagonal(std=0.1))
    more = (0.05**2 * da.covariances.Gaussian(std=1.0, length=3.0, grid=B.grid),) if "Weak" in kind.__name__ else ()
    return kind(MODEL, x_b, B, *more, obs, **options)


@functools.cache
def plain():
    return da.minimize(problem(), TIGHT)


@pytest.mark.slow
def test_the_same_model_is_plain_gauss_newton():
    cost = problem()
    same = da.minimize(cost, TIGHT.replace(inner=Incremental(Simplified(MODEL), TIGHT.inner)))
    np.testing.assert_allclose(same.state, plain().state, rtol=0, atol=1e-13)
    np.testing.assert_allclose(same.search.cost_history, plain().search.cost_history, rtol=1e-12)
    products = float(plain().search.work) - 1.3 * int(plain().search.iterations)
    outer = float(same.search.work) - 1.3 * int(same.search.iterations)
    linearizations = int(same.search.iterations)
    assert outer < 1e-6 and float(same.search.simplified_work[0]) == pytest.approx(products + linearizations)


@pytest.mark.parametrize(
    ("name", "levels", "share"),
    [("a coarser grid", COARSE, 0.5), ("two grids", (COARSEST, COARSE), 0.5),
     pytest.param("block means", COARSE.replace(transfer=BlockMean(2)), 0.9, marks=pytest.mark.slow)],
)  # fmt: skip
@pytest.mark.slow
def test_a_coarse_inner_problem_reaches_the_same_minimum_with_less_of_the_full_model(name, levels, share):
    cost = problem()
    found = da.minimize(cost, TIGHT.replace(inner=Incremental(levels, TIGHT.inner)))
    assert bool(found.converged) and float(found.search.gradient_norm) < 1e-8
    np.testing.assert_allclose(found.state, plain().state, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.cost, plain().cost, rtol=1e-12)
    assert float(found.search.work) < share * float(plain().search.work)
    assert (np.asarray(found.search.simplified_work) > 0).all()


@pytest.mark.slow
def test_a_simplified_model_that_is_wrong_costs_iterations_but_not_the_result():
    cost = problem()
    frozen = Simplified(FunctionModel(lambda x, t: -x))
    found = da.minimize(cost, TIGHT.replace(inner=Incremental(frozen, TIGHT.inner)))
    assert bool(found.converged)
    np.testing.assert_allclose(found.state, plain().state, rtol=0, atol=1e-8)


def score(x_b, method, unrolled=False):
    solution = da.minimize(problem().replace(background=x_b), method, unrolled=unrolled)
    return jnp.vdot(jnp.asarray(DIRECTION), solution.state**2)


def slope_by_differences(method, eps=1e-4):
    x_b = problem().background
    sides = [score(x_b + s * eps * DIRECTION, method) for s in (1, -1)]
    return (sides[0] - sides[1]) / (2 * eps)


@pytest.mark.slow
def test_implicit_gradients_are_those_of_the_minimum():
    method = TIGHT.replace(inner=Incremental(COARSE, TIGHT.inner))
    slope = jnp.vdot(jax.grad(score)(problem().background, method), DIRECTION)
    np.testing.assert_allclose(slope, slope_by_differences(method), rtol=1e-6)


@pytest.mark.slow  # compiles the derivative of every loop
def test_unrolled_gradients():
    method = TIGHT.replace(inner=Incremental(COARSE, TIGHT.inner.replace(max_iterations=16)), max_iterations=14)
    slope = jnp.vdot(jax.grad(score)(problem().background, method, True), DIRECTION)
    np.testing.assert_allclose(slope, slope_by_differences(method), rtol=1e-4)


@pytest.mark.slow
def test_under_vmap():
    costs = [problem(seed=s) for s in (3, 4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *costs)
    together = jax.vmap(lambda c: da.minimize(c, TIGHT.replace(inner=Incremental(COARSE, TIGHT.inner))).state)(stacked)
    for state, cost in zip(together, costs, strict=True):
        np.testing.assert_allclose(state, da.minimize(cost, TIGHT).state, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_over_a_growing_window():
    # A chaotic window that is too long for its linearization: it is cut and grown, whatever the Hessian comes from.
    cost, _ = lorenz96_window(10, seed=1, dt=0.05)
    grown = da.minimize(cost, da.GaussNewton(inner=Incremental(Simplified(cost.model.replace(forcing=7.9)))))
    assert len(set(np.asarray(grown.search.horizon_history).tolist()) - {-1}) > 1
    np.testing.assert_allclose(grown.cost, da.minimize(cost).cost, rtol=1e-6)


@pytest.mark.parametrize(
    "kind", [da.WeakConstraint4DVar, pytest.param(da.StateWeakConstraint4DVar, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_weak_constraint_and_parameters(kind):
    cost = problem(kind, every=3, parameters={"nu": da.covariances.Diagonal(std=0.05)})
    found = da.minimize(cost, TIGHT.replace(inner=Incremental(COARSE, TIGHT.inner)))
    assert bool(found.converged) and type(found.model) is Burgers and float(found.model.nu) != MODEL.nu
    gradient = jax.jit(jax.grad(lambda v: cost(v)))
    # The state form ends where rounding hides any further decrease of J: at 1e-8 to 1e-7 of the first gradient.
    assert float(tree.norm(gradient(found.control))) < 1e-6 * float(tree.norm(gradient(cost.control())))
    np.testing.assert_allclose(found.state, da.minimize(cost, TIGHT).state, rtol=0, atol=1e-6)
    assert float(found.search.simplified_work[0]) > 0


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(da.ConfigurationError, match="`cg` must be a PrimalCG, found DualCG"):
        Incremental(COARSE, DualCG())
    for wrong, found in ((MODEL, "Burgers"), ((), "an empty tuple"), ((COARSE, None), "NoneType")):
        with pytest.raises(da.ConfigurationError, match=rf"takes Simplified\(model\), or several; found {found}"):
            Incremental(wrong)
    with pytest.raises(da.ConfigurationError, match="every must be at least 1, found 0"):
        Simplified(MODEL, every=0)
    members = jnp.asarray(RNG.normal(size=(3, N)))
    trajectories = da.FourDEnVar.from_model(MODEL, jnp.zeros(N), members, problem().observations)
    with pytest.raises(da.ConfigurationError, match="FourDEnVar runs no model that could be simplified"):
        da.minimize(trajectories, da.GaussNewton(inner=Incremental(COARSE)))
    with pytest.raises(da.ShapeError, match="Truncation: a field of shape"):
        da.minimize(problem(), da.GaussNewton(inner=Incremental(COARSE.replace(transfer=Truncation(5)))))
