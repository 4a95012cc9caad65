"""Coefficients of an observation bias, estimated with the state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.observations import Biased, Linear
from diffassim.variational import posterior
from tests.variational.problems import LinearModel, linear_gaussian
from tests.variational.zoo import spd

TIGHT = da.GaussNewton(tolerance=1e-10, inner=da.variational.PrimalCG(1e-3))
COST, DENSE = linear_gaussian()
ANGLE = np.random.default_rng(3).normal(size=(4, 3))
PRIOR = spd(2, 7)


def offset(x, where):
    return 1.0


def slope(x, where):
    return where


def biased(stream, beta_b):
    """The stream of `linear_gaussian` with two predictors: an offset, and an angle that changes from value to value."""
    operator = Biased(
        da.observations.Function(lambda x, H, where: H @ x, stream.operator.matrix), (offset, slope), beta_b
    )
    prior = {"coefficients": da.covariances.Dense.from_matrix(PRIOR)}
    return stream.replace(operator=operator, where=ANGLE, parameters=prior)


def augmented():
    """Posterior mean and covariance of (x_0, beta) in closed form."""
    A, H, B, R, x_b, y = (DENSE[k] for k in ("A", "H", "B", "R", "x_b", "y"))
    beta_b = np.array([0.5, -0.3])
    G = np.concatenate([
        np.hstack([H @ np.linalg.matrix_power(A, k), np.ones((3, 1)), ANGLE[k][:, None]]) for k in range(4)
    ])  # fmt: skip
    P = np.block([[B, np.zeros((6, 2))], [np.zeros((2, 6)), PRIOR]])
    precision = np.linalg.inv(P) + G.T @ np.kron(np.eye(4), np.linalg.inv(R)) @ G
    prior = np.concatenate([x_b, beta_b])
    mean = prior + np.linalg.solve(precision, G.T @ np.kron(np.eye(4), np.linalg.inv(R)) @ (y.ravel() - G @ prior))
    return mean, np.linalg.inv(precision), beta_b


@pytest.mark.slow
def test_the_joint_analysis_is_the_closed_form_of_the_augmented_state():
    mean, P_a, beta_b = augmented()
    cost = COST.replace(observations=biased(COST.observations[0], beta_b))
    solution = da.minimize(cost, TIGHT)
    np.testing.assert_allclose(solution.state, mean[:6], rtol=1e-9)
    np.testing.assert_allclose(solution.operators[0].coefficients, mean[6:], rtol=1e-9)
    assert set(solution.search.terms) == {"state", "operators", "observations 0"}
    found = posterior(cost, solution)
    np.testing.assert_allclose(found.covariance(jnp.eye(6)[1]), P_a[1, :6], rtol=1e-8, atol=1e-12)


def test_the_other_forms_have_the_same_cost():
    stream = biased(COST.observations[0], jnp.zeros(2))
    Q = da.covariances.Diagonal(std=0.3)
    states = da.StateWeakConstraint4DVar(COST.model, COST.background, COST.B, Q, stream)
    members = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)))
    ensemble = da.FourDEnVar.from_model(COST.model, COST.background, members, stream)
    strong = COST.replace(observations=stream)
    still = strong.replace(model=LinearModel(jnp.eye(6)))
    fgat = da.ThreeDVarFGAT(still.model, COST.background, COST.B, stream)
    at_once = da.ThreeDVar(COST.background, COST.B, stream.replace(steps=np.zeros(4, int)))
    v, w, u = (jax.tree.map(lambda leaf: leaf + 0.3, cost.control()) for cost in (states, ensemble, strong))

    @jax.jit
    def values(v, w, u):
        forcing, same = states.forcing_form(v)
        errorless = {**u, "model_error": jnp.zeros_like(same["model_error"])}
        pairs = [(states(v), forcing(same)), (forcing(errorless), strong(u))]
        pairs += [(ensemble(w), strong.replace(B=ensemble.covariance)(w))]
        return [*pairs, (fgat(u), still(u)), (at_once(u), still(u))]

    for ours, theirs in values(v, w, u):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_cycles_hand_on_the_coefficients():
    one = da.covariances.Diagonal(std=1.0)
    y = da.Observations(np.array([[2.0], [4.0]]), [1, 2], Biased(lambda x: x), one, parameters={"coefficients": one})
    still = da.models.FunctionModel(lambda x, t: x)
    method = da.FourDVar(
        None, cost=da.variational.PerfectModel(da.ThreeDVarFGAT)
    )  # the state is known, so the bias is all there is to find
    x, history = da.cycle(method, still, jnp.zeros(1), da.split_windows(y, 1, 2), steps=1)
    # The mean of 0 and 2, and then of that and 4.
    np.testing.assert_allclose(history.operators[0].coefficients, [[1.0], [2.5]], rtol=1e-12)
    np.testing.assert_array_equal(x, [0.0])


@pytest.fixture(scope="module")
def twin():
    """Lorenz-96, an instrument with a bias of 0.8 + 0.5 angle and gross errors, and sparse anchors without."""
    rng = np.random.default_rng(0)
    model = da.models.Lorenz96()
    truth = da.rollout(model, jnp.asarray(8 + rng.normal(size=40)), 400, at=np.arange(340, 401))
    steps = np.arange(2, 61, 2)
    angle = rng.uniform(-1, 1, size=(30, 40))
    y = np.asarray(truth)[steps] + 0.8 + 0.5 * angle + 0.5 * rng.normal(size=angle.shape)
    y = np.where(rng.uniform(size=y.shape) < 0.03, y + 15, y)
    R = da.covariances.Diagonal(std=0.5)
    instrument = da.Observations(
        y, steps, Biased(da.observations.Function(_whole), (offset, slope)), R, where=angle,
        loss=da.observations.Huber(1.5), parameters={"coefficients": da.covariances.Diagonal(std=1.0)},
    )  # fmt: skip
    anchors = da.Observations(
        np.asarray(truth)[steps, ::5] + 0.5 * rng.normal(size=(30, 8)), steps, da.observations.Subsample(every=5), R
    )
    return model, truth, (instrument, anchors)


def _whole(x, where):
    return x


@pytest.mark.slow
def test_a_bias_is_found_in_cycles_and_handed_on_with_the_same_bits(twin):
    model, truth, streams = twin
    windows = da.split_windows(streams, 6, 10)
    method = da.FourDVar(da.covariances.Diagonal(std=0.5))
    options = {"steps": 6, "at": [0, 6]}
    x, history = da.cycle(method, model, truth[0] + 0.5, windows, **options)
    coefficients = history.operators[0].coefficients
    assert coefficients.shape == (10, 2)
    np.testing.assert_allclose(coefficients[-1], [0.8, 0.5], atol=0.1)

    first, last = (jax.tree.map(lambda leaf, s=s: leaf[s], windows) for s in (slice(4), slice(4, None)))
    half, early = da.cycle(method, model, truth[0] + 0.5, first, **options)
    handed_on = jax.tree.map(lambda leaf: leaf[-1], early.operators)
    again, late = da.cycle(method, model, half, last, start=24, operators=handed_on, **options)
    np.testing.assert_array_equal(again, x)
    np.testing.assert_array_equal(late.operators[0].coefficients, coefficients[4:])

    plain = tuple(s.replace(parameters=None) for s in windows)
    ignored, _ = da.cycle(method, model, truth[0] + 0.5, plain, **options)
    error, without = (float(jnp.sqrt(jnp.mean((e - truth[60]) ** 2))) for e in (x, ignored))
    assert error < 0.4 * without


def test_bad_input_is_named():
    with pytest.raises(da.ShapeError, match=r"coefficients have shape \(3,\), but there are 1 predictors"):
        Biased(Linear(jnp.eye(2)), coefficients=np.zeros(3))
    obs = da.Observations(np.zeros((1, 2)), [0], Linear(jnp.eye(2)), da.covariances.Diagonal(std=1.0),
                          parameters={"slope": da.covariances.Diagonal(std=1.0)})  # fmt: skip
    with pytest.raises(da.ConfigurationError, match="Linear has no parameter 'slope'"):
        da.minimize(da.ThreeDVar(jnp.zeros(2), da.covariances.Diagonal(std=1.0), obs))
    two = obs.replace(operator=Biased(obs.operator), parameters={"coefficients": da.covariances.Diagonal(np.ones(2))})
    with pytest.raises(da.ShapeError, match=r"parameters\['coefficients'\].* shape \(2,\)"):
        da.minimize(da.ThreeDVar(jnp.zeros(2), da.covariances.Diagonal(std=1.0), two))


@pytest.mark.slow
def test_impact_and_influence_know_the_bias():
    _, P_a, beta_b = augmented()
    cost = COST.replace(observations=biased(COST.observations[0], beta_b))
    solution = da.minimize(cost, TIGHT)
    A, H, R = DENSE["A"], DENSE["H"], DENSE["R"]
    G = np.stack([
        np.hstack([H @ np.linalg.matrix_power(A, k), np.ones((3, 1)), ANGLE[k][:, None]]) for k in range(4)
    ])  # fmt: skip
    influence = np.einsum("tij,jk,tlk,li->ti", G, P_a, G, np.linalg.inv(R))
    found = da.variational.observation_influence(posterior(cost, solution))[0]
    np.testing.assert_allclose(found, influence, rtol=1e-8, atol=1e-10)
    impact = da.variational.observation_impact(cost, solution, lambda v: jnp.sum(cost.state(v) ** 2))
    np.testing.assert_allclose(impact.total, impact.change, rtol=1e-6)
