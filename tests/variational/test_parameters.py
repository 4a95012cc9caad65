"""Any part of a model or operator is a control variable, chosen by its path, within its bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.core.paths import value_at
from diffassim.covariances import Dense, Diagonal
from diffassim.learned import CorrectedModel, Network
from diffassim.models import FunctionModel, Lorenz63
from diffassim.variational import Bounded, observation_impact, posterior

LORENZ = Lorenz63(dt=0.02)
X_B = jnp.array([1.5, -1.5, 25.0])
Y = da.Observations(np.random.default_rng(0).normal(size=(2, 3)), [2, 4], error=Diagonal(std=2.0))
SILENT = CorrectedModel(
    LORENZ, Network(lambda w, x: w["layers"][1]["kernel"] @ x, {"layers": [{"kernel": jnp.zeros((3, 3))}] * 2})
)
KERNEL = "network.weights.layers.1.kernel"


def four_d_var(model, parameters, **options):
    return da.StrongConstraint4DVar(model, X_B, None, Y, parameters=parameters, **options)


def test_by_path_by_name_and_by_hand_are_one_cost():
    def value(path, model):
        cost = four_d_var(model, {path: Diagonal(std=2.0)})
        return jax.value_and_grad(lambda v: cost({"parameters": {path: v}}))(jnp.array(0.7))

    nested = FunctionModel(lambda x, t, a: a["of"][0].step(x, t), arguments={"of": (LORENZ,)})
    found = [value("rho", LORENZ), value("model.rho", SILENT), value("arguments.of.0.rho", nested)]
    moved = 28 * np.exp(0.7 * 2 / 28)  # in log space: Lorenz63 declares that rho is positive
    by_hand = da.StrongConstraint4DVar(LORENZ.replace(rho=moved), X_B, Diagonal(std=1.0), Y)
    expected = by_hand(by_hand.control()) + 0.5 * 0.7**2
    for J, slope in found:
        np.testing.assert_allclose([J, slope], [expected, found[0][1]], rtol=1e-12)


def test_a_weight_inside_of_a_network_is_sought_alone():
    cost = four_d_var(SILENT, {KERNEL: Diagonal(std=0.5)})
    v = {"parameters": {KERNEL: jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))}}
    assert da.diagnostics.check_gradient(cost, v).passed
    moved = cost.controlled_model(v)
    np.testing.assert_allclose(value_at(moved, KERNEL), 0.5 * v["parameters"][KERNEL], rtol=1e-12)
    others = [value_at(moved, path) for path in ("network.weights.layers.0.kernel", "model.rho", "scale")]
    assert not np.any(others[0]) and others[1:] == [28.0, 1.0]


@pytest.mark.slow
def test_a_weight_is_fitted_through_the_window():
    cost = four_d_var(SILENT, {KERNEL: Diagonal(std=0.5)})
    found = da.minimize(cost)
    assert float(found.cost) < float(cost(cost.control())) - 1
    np.testing.assert_allclose(value_at(found.model, KERNEL), 0.5 * found.control["parameters"][KERNEL], rtol=1e-12)


def test_weights_in_single_precision_inside_of_a_model_in_double():
    weights = jnp.zeros((3, 3), jnp.float32)
    mixed = CorrectedModel(LORENZ, Network(lambda w, x: w.astype(x.dtype) @ x, weights))
    cost = four_d_var(mixed, {"network.weights": Diagonal(std=0.5)})
    v = {"parameters": {"network.weights": jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))}}
    assert jax.tree.map(jnp.result_type, cost.control()) == {"parameters": {"network.weights": jnp.float64}}
    assert cost.controlled_model(v).network.weights.dtype == jnp.float32
    assert cost(v).dtype == jax.grad(lambda v: cost(v))(v)["parameters"]["network.weights"].dtype == jnp.float64


def growth(bound=None, std=1.0, truth=4.0):
    # One step of x -> a x from x = 1: the observed value is the parameter, whose minimum is known.
    model = FunctionModel(lambda x, t, a: a["rate"] * x, arguments={"rate": jnp.array(1.5)})
    y = da.Observations(jnp.array([[truth]]), [1], error=Diagonal(std=0.5))
    prior = Diagonal(std=std) if bound is None else Bounded(Diagonal(std=std), *bound)
    return da.StrongConstraint4DVar(model, jnp.ones(1), None, y, parameters={"arguments.rate": prior})


ONE_SIDED = [pytest.param(bound, marks=pytest.mark.slow) for bound in ((1.0, np.inf), (-np.inf, 2.0))]


@pytest.mark.parametrize("bound", [(1.0, 2.0), *ONE_SIDED])
def test_the_minimum_within_bounds_is_that_of_the_transformed_parameter(bound):
    from scipy.optimize import minimize_scalar

    lower, upper = bound

    def moved(v):
        if np.isinf(upper):
            return lower + 0.5 * np.exp(v / 0.5)
        if np.isinf(lower):
            return upper - 0.5 * np.exp(-v / 0.5)
        return lower + 1 / (1 + np.exp(-v / 0.25))

    expected = minimize_scalar(lambda v: 0.5 * v**2 + 2 * (4 - moved(v)) ** 2, bounds=(-3, 3), method="bounded")
    found = da.minimize(growth(bound), da.GaussNewton(tolerance=1e-8))
    rate = value_at(found.model, "arguments.rate")
    np.testing.assert_allclose(rate, moved(expected.x), rtol=1e-5)
    assert lower < rate < upper
    far = growth(bound).controlled_model({"parameters": {"arguments.rate": jnp.array(1e3)}})
    assert lower <= value_at(far, "arguments.rate") <= upper


@pytest.mark.slow
def test_products_and_cycles_take_paths():
    unbounded = growth()
    solution = da.minimize(unbounded, da.GaussNewton(tolerance=1e-10))
    np.testing.assert_allclose(solution.model.arguments["rate"], 1.5 + 2.5 / 1.25, rtol=1e-9)
    found = posterior(unbounded, solution)
    np.testing.assert_allclose(found.values, [4.0], rtol=1e-9)  # 1 / 0.5^2

    def rate_of(cost):
        return lambda v: cost.controlled_model(v).arguments["rate"]

    np.testing.assert_allclose(found.variance_of(rate_of(unbounded)), 1 / 5, rtol=1e-9)
    bounded = growth((1.0, 6.0))
    within = posterior(bounded, da.minimize(bounded, da.GaussNewton(tolerance=1e-10)))
    p = jax.grad(rate_of(bounded))(within.control)["parameters"]["arguments.rate"]
    np.testing.assert_allclose(within.variance_of(rate_of(bounded)), p**2 / (1 + 4 * p**2), rtol=1e-8)  # delta method
    impact = observation_impact(unbounded, solution, lambda v: (unbounded.trajectory(v)[1, 0] - 4.0) ** 2)
    np.testing.assert_allclose(impact.total, 0.5**2 - 2.5**2, rtol=1e-6)

    prior = {"arguments.rate": Bounded(Diagonal(std=1.0), 0.5, 6.0)}
    record = da.Observations(jnp.array([[2.0], [4.0], [8.0]]), [1, 2, 3], error=Diagonal(std=0.1))
    windows = da.split_windows(record, 1, 3)
    x, history = da.cycle(da.FourDVar(None, parameters=prior), unbounded.model, jnp.ones(1), windows, steps=1)
    rates = history.parameters["arguments.rate"]  # of each window
    assert (
        rates[-1] == history.model_after(unbounded.model).arguments["rate"] and rates.shape == windows.steps.shape[:1]
    )
    assert abs(float(rates[-1]) - 2) < 0.02 and abs(float(x[0]) - 8) < 0.2


def test_a_parameter_inside_of_an_operator():
    operator = da.observations.Biased(lambda x: x, (lambda x: 1.0,))
    bias = da.Observations(
        jnp.array([[3.0]]), [0], operator, Diagonal(std=1.0), parameters={"coefficients": Diagonal(std=1.0)}
    )
    by_name = da.minimize(da.ThreeDVar(jnp.zeros(1), Diagonal(std=1.0), bias))
    held = bias.replace(parameters={"coefficients": Bounded(Diagonal(std=1.0), -0.2, 0.2)})
    bounded = da.minimize(da.ThreeDVar(jnp.zeros(1), Diagonal(std=1.0), held))
    np.testing.assert_allclose(by_name.operators[0].coefficients, 1.0, rtol=1e-6)
    assert 0.1 < float(bounded.operators[0].coefficients[0]) < 0.2 and float(bounded.state[0]) > 1.2


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"model.roh": Diagonal(std=1.0)}, ConfigurationError, "has no parameter 'model.roh'; it has model.rho"),
        ({"rho": Diagonal(std=1.0)}, ConfigurationError, "no parameter 'rho'; it has .*model.rho"),
        ({"network.function": Diagonal(std=1.0)}, ConfigurationError, "no parameter 'network.function'"),
        ({"model": Diagonal(std=1.0), "model.rho": Diagonal(std=1.0)}, ConfigurationError, "is a part of 'model'"),
        ({KERNEL: Dense.from_matrix(np.eye(2))}, ShapeError, r"parameters\['network.weights.layers.1.kernel'\]"),
        (["model.rho"], ConfigurationError, "parameters must be a dict of covariances by path, found list"),
        ({"model.rho": 2.0}, ConfigurationError, "must be a covariance, found 2.0"),
        ({"model.rho": Bounded(Diagonal(std=1.0), 30.0, 40.0)}, DataError, "28.0 does not lie inside of the bounds"),
        ({"model.rho": Bounded(Diagonal(std=1.0), -5.0, -1.0)}, ConfigurationError, "must lie below"),  # declared: > 0
    ],
)  # fmt: skip
def test_what_cannot_be_sought_is_named(parameters, error, message):
    with pytest.raises(error, match=message):
        four_d_var(SILENT, parameters)


def test_a_cycle_names_them_before_it_runs():
    windows = da.split_windows(Y, 2, 2)
    wrong = da.FourDVar(Diagonal(std=1.0), parameters={"rho": Bounded(Diagonal(std=1.0), 0.0, 28.0)})
    for method in (wrong, da.HybridFourDVar(wrong, da.ETKF())):
        with pytest.raises(DataError, match=r"FourDVar.parameters\['rho'\]: the value 28.0 does not lie inside"):
            da.cycle(method, LORENZ, jnp.stack([X_B, X_B + 1]) if method is not wrong else X_B, windows, steps=2)


def test_bounds_the_wrong_way_round_are_named():
    with pytest.raises(ConfigurationError, match=r"lower=2.0 must lie below upper=1.0"):
        Bounded(Diagonal(std=1.0), 2, 1)
