"""Learned parts behind the protocols of what they stand in for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.learned import (
    CorrectedModel,
    LearnedAnalysis,
    LearnedMinimizer,
    LearnedStart,
    Network,
    SurrogateModel,
    control_of,
)

N = 6
MODEL = da.models.Lorenz96(dt=0.05)
RNG = np.random.default_rng(0)
X = jnp.asarray(2 + 3 * RNG.normal(size=N))
ONE = da.covariances.Diagonal(std=1.0)
Y = da.Observations(np.array(X) + RNG.normal(size=(2, N)), [2, 4], error=ONE)
COST = da.StrongConstraint4DVar(MODEL, X + 0.5, da.covariances.Diagonal(std=2.0), Y)


def test_a_surrogate_of_the_exact_step_is_the_model():
    step = Network(lambda w, x: w * MODEL.step(x, 0), 1.0)
    change = Network(lambda w, x: w * (MODEL.step(x, 0) - x), 1.0)
    expected = da.rollout(MODEL, X, 5)
    for surrogate in (SurrogateModel(step, 0.05, residual=False), SurrogateModel(change, 0.05)):
        np.testing.assert_allclose(da.rollout(surrogate, X, 5), expected, rtol=1e-12)
    with pytest.raises(ShapeError, match="shaped like the state"):
        SurrogateModel(Network(lambda w, x: x[:2])).step(X, 0)


@pytest.mark.parametrize("B", [da.covariances.Diagonal(std=2.0), da.covariances.Dense.from_matrix(np.eye(N) + 0.5)])
def test_the_control_of_a_state_gives_the_state(B):
    cost = COST.replace(B=B)
    np.testing.assert_allclose(cost.state(control_of(cost, X)), X, rtol=1e-10)


@pytest.mark.slow
def test_a_start_is_taken_only_where_the_cost_agrees():
    calls = da.GaussNewton(max_outer=1) if hasattr(da.GaussNewton(), "max_outer") else da.GaussNewton()
    good, bad, broken = (Network(lambda w, obs: w, w) for w in (X, X + 50.0, jnp.full(N, jnp.nan)))
    first = {name: da.minimize(COST, LearnedStart(net, calls)).search.cost_history[0] for name, net in
             (("good", good), ("bad", bad), ("broken", broken))}  # fmt: skip
    np.testing.assert_allclose(first["good"], COST(control_of(COST, X)), rtol=1e-10)
    for name in ("bad", "broken"):
        np.testing.assert_allclose(first[name], COST(COST.control()), rtol=1e-10)


def descent(rate):
    return Network(lambda w, v, g, h: (jax.tree.map(lambda leaf: -w * leaf, g), h), rate)


@pytest.mark.slow
def test_learned_steps_never_raise_the_cost_and_the_search_ends_at_the_minimum():
    plain = da.minimize(COST)
    for rate in (0.05, 100.0, jnp.nan):
        method = LearnedMinimizer(descent(rate), steps=3)
        _, values = jax.jit(method.learned_steps)(COST, COST.control())
        assert np.all(np.diff(values) <= 0) and (np.ptp(values) > 0) == (rate == 0.05)
        np.testing.assert_allclose(da.minimize(COST, method).cost, plain.cost, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.long
def test_proposed_steps_are_learned_steps_that_are_all_taken_and_train_by_the_gradients_that_they_see():
    def final(rate, start, frozen=None):
        """Return J after two steps down the gradient; with `frozen` gradients from there."""
        v = start
        for k in range(2):
            slope = jax.grad(lambda v: COST(v))(v) if frozen is None else frozen[k]
            v = jax.tree.map(lambda x, g: x - rate * g, v, slope)
        return COST(v)

    method, start = LearnedMinimizer(descent(0.01), steps=2), COST.control()
    for rate in (0.01, 100.0):
        _, values = LearnedMinimizer(descent(rate), steps=2).proposed_steps(COST, start)
        np.testing.assert_allclose(values[-1], final(rate, start), rtol=1e-9)
        assert (values[-1] < values[0]) == (rate == 0.01)  # nothing is refused
    _, disposed = method.learned_steps(COST, start)
    np.testing.assert_allclose(method.proposed_steps(COST, start)[1], disposed, rtol=1e-12)
    slopes = [jax.grad(lambda v: COST(v))(start)]
    slopes.append(jax.grad(lambda v: COST(v))(jax.tree.map(lambda x, g: x - 0.01 * g, start, slopes[0])))
    expected = jax.grad(final)(0.01, start, slopes)
    found = jax.grad(lambda m: m.proposed_steps(COST, start)[1][-1], allow_int=True)(method).network.weights
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
def test_gradients_through_it_are_those_of_the_classical_minimizer():
    def total(background, method):
        return jnp.sum(da.minimize(COST.replace(background=background), method).state ** 2)

    exact = da.GaussNewton(tolerance=1e-10)
    expected = jax.grad(total)(X + 0.5, exact)
    for method in (LearnedMinimizer(descent(0.05), 2, None, exact), LearnedStart(Network(lambda w, o: w, X), exact)):
        np.testing.assert_allclose(jax.grad(total)(X + 0.5, method), expected, rtol=1e-5)


def test_a_linear_network_is_a_fixed_gain_and_gaps_change_nothing():
    values = np.array(Y.values)
    values[1] = np.nan
    values[0, 2] = np.nan
    R = da.covariances.Diagonal(std=2.0)
    gain = LearnedAnalysis(Network(lambda K, x, g: K * g, 0.8))
    _, history = da.cycle(gain, MODEL, X, da.Observations(values, [2, 4], error=R))
    forecast = da.rollout(MODEL, X, 2)[-1]
    expected = forecast + 0.8 / 4 * jnp.where(jnp.isnan(values[0]), 0, values[0] - forecast)
    np.testing.assert_allclose(history.analysis.mean[0], expected, rtol=1e-10)
    assert np.array_equal(history.analysis.mean[1], history.background.mean[1])
    assert history.info.count.tolist() == [N - 1, 0] and not history.analysis.spread.any()


def test_a_memory_is_carried_and_a_loss_passes_through_the_cycle():
    network = Network(lambda K, x, g, h: (K * g + 0.1 * h, h + g), 0.3)
    method = LearnedAnalysis(network, memory=jnp.zeros(N))

    @jax.jit
    def loss(K):
        last, history = da.cycle(method.replace(network=network.replace(weights=K)), MODEL, X, Y)
        return jnp.mean((history.analysis.mean - Y.values) ** 2) + jnp.sum(last.memory**2)

    slope, h = jax.grad(loss)(0.3), 1e-5
    np.testing.assert_allclose(slope, (loss(0.3 + h) - loss(0.3 - h)) / (2 * h), rtol=1e-6)
    with pytest.raises(ShapeError, match="increment"):
        LearnedAnalysis(Network(lambda w, x, g: x[:2])).analyze(None, X, Y)


def answering(answer):
    return Network(lambda w, *seen: answer(*seen))


@pytest.mark.parametrize("network", [lambda x: x[:1], lambda x: x[:, None], lambda x: {"x": x}, lambda x: None])
@pytest.mark.parametrize("part", [SurrogateModel, lambda network: CorrectedModel(da.models.Lorenz96(), network)])
def test_an_output_unlike_the_state_is_named_where_jax_would_spread_it(part, network):
    with jax.numpy_rank_promotion("allow"), pytest.raises(ShapeError, match="shaped like the state"):
        part(answering(network)).step(jnp.ones(6), 0)


def test_a_correction_in_another_precision_leaves_the_state_in_its_own():
    corrected = CorrectedModel(da.models.Lorenz96(), answering(lambda x: 0.1 * x.astype(jnp.float32)))
    x = jnp.linspace(0, 5, 6)
    expected = da.models.Lorenz96().step(x, 0) + 0.05 * 0.1 * x
    assert corrected.step(x, 0).dtype == x.dtype
    np.testing.assert_allclose(corrected.step(x, 0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda v, g, h: g, ConfigurationError, r"must return \(step, memory\)"),
        (lambda v, g, h: (g["state"], h), ShapeError, "step has the shapes"),
        (lambda v, g, h: (jax.tree.map(jnp.sum, g), h), ShapeError, "shaped like the control vector"),
        (lambda v, g, h: (g, jnp.ones(3)), ShapeError, "memory has the shapes"),
    ],
)
def test_learned_steps_that_fit_no_control_vector_are_named(answer, error, message):
    y = da.Observations(jnp.zeros((1, 4)), [0], error=da.covariances.Diagonal(std=1.0))
    cost = da.ThreeDVar(jnp.ones(4), da.covariances.Diagonal(std=1.0), y)
    with pytest.raises(error, match=message):
        da.minimize(cost, LearnedMinimizer(answering(answer), memory=jnp.ones(2)))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda x, g, h: g, ConfigurationError, r"must return \(answer, memory\)"),
        (lambda x, g, h: (g, jnp.ones(3)), ShapeError, "memory has the shapes"),
        (lambda x, g, h: (g[:1], h), ShapeError, "increment has the shapes"),
    ],
)
def test_a_learned_analysis_that_fits_no_state_is_named(answer, error, message):
    y = da.Observations(jnp.zeros((1, 4)), [1], error=da.covariances.Diagonal(std=1.0))
    still = da.models.FunctionModel(lambda x, t: x)
    with pytest.raises(error, match=message):
        da.cycle(LearnedAnalysis(answering(answer), jnp.ones(2)), still, jnp.ones(4), y)
