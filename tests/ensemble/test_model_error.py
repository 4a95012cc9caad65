"""Additive inflation, model error by draws and by a square root, and parameters that walk at random."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Blocks, Dense, Diagonal, Zero
from diffassim.ensemble import LETKF, AdditiveInflation, Inflations, PriorInflation, SquareRootNoise
from diffassim.models import FunctionModel, WithParameters
from tests.cycling.test_ensemble import MODEL, STD, check_gradient, twin
from tests.ensemble.zoo import KEY, Column, ensemble, observed, values

F = np.random.default_rng(0).normal(size=(4, 4))
Q, MATRIX = Dense.from_matrix(F @ F.T), F @ F.T
SPREAD = np.array([1.0, 10.0, 0.1, 2.0])


def members(N, seed=1):
    return np.random.default_rng(seed).normal(size=(N, 4)) * SPREAD + 3.0


@pytest.mark.slow
def test_with_more_members_than_variables_the_square_root_adds_exactly_q():
    for E in (members(5), members(12)):
        found = np.asarray(SquareRootNoise(Q)(KEY, jnp.asarray(E)))
        np.testing.assert_allclose(np.cov(found.T), np.cov(E.T) + MATRIX, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(found.mean(0), E.mean(0), rtol=1e-13)


@pytest.mark.slow
def test_with_fewer_members_it_adds_what_lies_in_their_span_and_draws_the_rest():
    E = members(3)
    A = E - E.mean(0)
    S = np.diag(A.std(0, ddof=1))
    scaled = A @ np.linalg.inv(S)
    span = (
        S @ np.linalg.pinv(scaled, rcond=1e-10) @ scaled @ np.linalg.inv(S)
    )  # the projection, in units of the spreads
    core = np.asarray(SquareRootNoise(Q, residual=False)(None, jnp.asarray(E)))
    np.testing.assert_allclose(np.cov(core.T), np.cov(E.T) + span @ MATRIX @ span.T, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(core.mean(0), E.mean(0), rtol=1e-13)

    drawn = jax.jit(jax.vmap(lambda key: SquareRootNoise(Q)(key, jnp.asarray(E))))(jax.random.split(KEY, 4000))
    rest = np.asarray(drawn) - core
    np.testing.assert_allclose(rest.mean(1), 0.0, atol=1e-11)
    np.testing.assert_allclose(span @ rest.reshape(-1, 4).T, 0.0, atol=1e-10)
    covariance = np.einsum("kni,knj->ij", rest, rest) / (2 * 4000)
    outside = np.eye(4) - span
    expected = outside @ MATRIX @ outside.T
    np.testing.assert_allclose(covariance, expected, atol=0.1 * np.abs(expected).max())


def test_a_state_of_parts_has_a_square_root_as_well():
    E = ensemble(members=5)
    parts = Column(E[:, None, :], {"square": E[:, :2]})
    noise = SquareRootNoise(Blocks(Column(Diagonal(std=0.3), {"square": Zero()})), residual=False)
    found = noise(None, parts)
    assert found.wind.shape == (5, 1, 8) and found.humidity["square"].shape == (5, 2)


@pytest.mark.parametrize("N", [3, 9])
@pytest.mark.slow
def test_members_without_spread_get_the_residual_alone(N):
    E = jnp.asarray(np.tile(SPREAD, (N, 1)))
    np.testing.assert_array_equal(SquareRootNoise(Q, residual=False)(None, E), E)
    drawn = SquareRootNoise(Q)(KEY, E)
    assert np.all(np.std(drawn, axis=0) > 0)
    np.testing.assert_allclose(drawn.mean(0), E[0], rtol=1e-12)
    gradient = jax.grad(lambda E: jnp.sum(SquareRootNoise(Q)(KEY, E) ** 2))(E)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("N", [3, 9])
def test_the_derivative_of_the_square_root_equals_central_differences(N):
    E, direction = jnp.asarray(members(N)), jnp.asarray(members(N, seed=2))

    @jax.jit
    def loss(s):
        return jnp.sum(jnp.sin(SquareRootNoise((1 + s) * Q)(KEY, E + s * direction)))

    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.0), difference, rtol=1e-6)


@pytest.mark.parametrize("treatment", ["draws", "square root"])
def test_a_cycle_with_model_error_approaches_the_kalman_filter(treatment):
    """A linear model of two variables with noise, forecast and analysed three times."""
    M, H = np.array([[0.9, 0.3], [-0.2, 0.8]]), np.array([[1.0, 0.0]])
    noise = np.array([[0.5, 0.2], [0.2, 0.3]])
    y = np.array([[0.7], [-0.4], [1.1]])
    x, P = np.zeros(2), np.eye(2)
    for k in range(3):
        x, P = M @ x, M @ P @ M.T + noise
        K = P @ H.T / (H @ P @ H.T + 0.8**2)
        x, P = x + K @ (y[k] - H @ x), P - K @ H @ P
    rng = np.random.default_rng(3)
    N = 4000 if treatment == "draws" else 6
    E = rng.normal(size=(N, 2))
    E = (E - E.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(E.T))).T  # exactly N(0, I), so only Q is sampled
    Q = Dense.from_matrix(noise)
    method = da.EAKF(Q=Q if treatment == "draws" else SquareRootNoise(Q))
    obs = da.Observations(y, [1, 2, 3], da.observations.Subset(jnp.array([0])), Diagonal(std=0.8))
    model = FunctionModel(lambda x, t: jnp.asarray(M) @ x)
    found, _ = da.cycle(method, model, jnp.asarray(E), obs, key=KEY)
    options = {"atol": 0.06} if treatment == "draws" else {"rtol": 1e-11}
    np.testing.assert_allclose(found.mean(0), x, **options)
    np.testing.assert_allclose(np.cov(found.T), P, **options)


def test_additive_inflation_keeps_the_mean_and_adds_its_covariance():
    E = jnp.asarray(members(30))
    add = jax.jit(jax.vmap(lambda key: AdditiveInflation(Q).after(None, E, key)))(jax.random.split(KEY, 2000))
    np.testing.assert_allclose(add.mean(1), np.tile(E.mean(0), (2000, 1)), rtol=1e-11)
    drawn = np.asarray(add) - np.asarray(E)
    covariance = np.einsum("kni,knj->ij", drawn, drawn) / (29 * 2000)
    np.testing.assert_allclose(covariance, MATRIX, atol=0.05 * MATRIX.max())


@pytest.mark.slow
def test_several_inflations_act_in_turn():
    E, y = ensemble(), observed(values())
    noise = AdditiveInflation(Diagonal(std=0.3))
    both, _ = da.ETKF((PriorInflation(1.2), 1.1, noise)).analyze(KEY, E, y)
    prior = da.ETKF(Inflations((PriorInflation(1.2), 1.1))).analyze(None, E, y)[0]
    by_hand, _ = da.ETKF(1.1).analyze(None, PriorInflation(1.2).before(E), y)
    np.testing.assert_allclose(prior, by_hand, rtol=1e-12)
    assert 0.1 < float(jnp.std(both - prior)) < 0.6
    np.testing.assert_allclose(both.mean(0), prior.mean(0), rtol=1e-12)
    again, _ = da.ETKF((PriorInflation(1.2), 1.1, noise)).analyze(KEY, E, y)
    other, _ = da.ETKF((PriorInflation(1.2), 1.1, noise)).analyze(jax.random.key(9), E, y)
    assert np.array_equal(both, again) and not np.allclose(both, other)


@pytest.mark.slow
def test_the_gradient_passes_through_a_cycle_with_model_error():
    E, obs, truth = twin(list(range(1, 7)), members=5)

    def error(std):
        method = da.ETKF(AdditiveInflation(Diagonal(std=0.5 * std)), Q=SquareRootNoise(Diagonal(std=std)))
        _, history = da.cycle(method, MODEL, E, obs, key=KEY)
        return jnp.mean((history.analysis.mean - truth[obs.steps]) ** 2)

    check_gradient(error, 0.2)


@pytest.mark.slow
def test_wrappers_forecast_with_the_model_error_of_their_filter():
    E, obs, _ = twin([1, 2])
    method = da.ETKF(Q=Diagonal(std=0.3))
    expected, _ = da.cycle(method, MODEL, E, obs, key=KEY)
    lagged, _ = da.cycle(da.EnKS(method, lag=1), MODEL, E, obs, key=KEY)
    np.testing.assert_allclose(lagged.members[:, 0], expected, rtol=1e-10)
    adaptive, _ = da.cycle(da.ensemble.AdaptiveInflation(method, shape=1e12), MODEL, E, obs, key=KEY)
    np.testing.assert_allclose(adaptive.members, expected, rtol=1e-6)
    perfect, _ = da.cycle(da.ETKF(), MODEL, E, obs)
    assert np.abs(perfect - expected).max() > 0.05


def test_parameters_of_the_members_are_found_from_observations_of_the_state():
    rng = np.random.default_rng(4)
    truth = np.asarray(da.rollout(MODEL, jnp.asarray(8 + rng.normal(size=12)), 400))[200:]
    y = truth[4::4] + 0.2 * rng.normal(size=truth[4::4].shape)
    obs = da.Observations(y, 4 * np.arange(1, 51), da.observations.Field("state"), Diagonal(std=0.2))
    model = WithParameters(da.models.Lorenz96(dt=0.05), ("forcing",))
    start = {"state": truth[:1] + rng.normal(size=(40, 12)), "parameters": {"forcing": 7 + 0.5 * rng.normal(size=40)}}
    walk = Blocks({"state": Zero(), "parameters": {"forcing": Diagonal(std=0.01)}})
    found, history = da.cycle(da.ETKF(1.02, Q=walk), model, jax.tree.map(jnp.asarray, start), obs, key=KEY)
    forcing = found["parameters"]["forcing"]
    assert abs(float(forcing.mean()) - 8) < 0.1 and float(forcing.std()) < 0.1
    assert history.analysis.mean["parameters"]["forcing"].shape == (50,)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: da.ETKF(Q=0.3), "ETKF: Q must be a covariance or SquareRootNoise, found float"),
        (lambda: SquareRootNoise(0.3), "Q must be a covariance, found float"),
        (lambda: AdditiveInflation(0.3), "Q must be a covariance, found float"),
        (lambda: da.ETKF(Q=SquareRootNoise(STD), replace_failed=True), "mixes the members before"),
        (lambda: da.IEnKS(AdditiveInflation(STD)), "IEnKS: inflation must be deterministic"),
        (lambda: da.AsynchronousFilter(da.ETKF(Q=STD)), "the filter's Q would be left out"),
        (lambda: da.AsynchronousFilter(da.ETKF(replace_failed=True)), "failed members cannot be replaced"),
        (lambda: da.ETKF(AdditiveInflation(STD)).analyze(None, ensemble(), observed(values())), "give key="),
        (lambda: da.cycle(da.ETKF(Q=STD), MODEL, *twin([1, 2])[:2]), "draws random numbers here"),
        (lambda: WithParameters(da.models.Lorenz96(), ("friction",)), "Lorenz96 has no parameter 'friction'; it has"),
    ],
)
def test_what_does_not_go_together_is_named(wrong, text):
    with pytest.raises(da.ConfigurationError, match=text):
        wrong()


def test_a_square_root_without_residual_needs_no_key():
    E, obs, _ = twin([1, 2])
    method = LETKF(localization=da.ensemble.GaspariCohn(2.0), Q=SquareRootNoise(Diagonal(std=0.1), residual=False))
    assert not method.random
    _, history = da.cycle(method, MODEL, E, obs)
    assert np.isfinite(history.analysis.mean).all()


GAPS = da.Observations(np.array([[1.0, 2.0], [np.nan, 0.5]]), [2, 5], error=Diagonal(std=0.5))
EVERY = da.Observations(
    np.array([[np.nan] * 2, [1.0, 2.0], [np.nan] * 2, [np.nan] * 2, [np.nan, 0.5]]), [1, 2, 3, 4, 5],
    error=Diagonal(std=0.5),
)  # fmt: skip
TURNING = FunctionModel(lambda x, t: jnp.asarray([[0.9, 0.5], [-0.4, 1.1]], x.dtype) @ x + jnp.asarray(t, x.dtype) / 10)


@pytest.mark.parametrize("method", [da.EKF, da.UKF], ids=lambda method: method.__name__)
def test_error_at_every_step_is_that_of_a_record_with_a_row_for_every_step(method):
    start = da.gaussian.Gaussian.from_covariance(jnp.ones(2), Diagonal(std=0.7))
    noise = Dense.from_matrix(jnp.array([[0.3, 0.1], [0.1, 0.2]]))
    found, gathered = (
        da.cycle(method(Q=Q), TURNING, start, record) for Q, record in ((da.EveryStep(noise), GAPS), (noise, EVERY))
    )
    np.testing.assert_allclose(found[0].mean, gathered[0].mean, rtol=1e-12)
    np.testing.assert_allclose(found[0].covariance(), gathered[0].covariance(), rtol=1e-11)
    np.testing.assert_allclose(found[1].log_likelihood, gathered[1].log_likelihood, rtol=1e-12)


def test_the_square_root_at_every_step_has_the_covariance_of_the_kalman_filter():
    noise, E = Diagonal(std=0.4), jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
    members, history = da.cycle(da.ETKF(Q=da.EveryStep(SquareRootNoise(noise, residual=False))), TURNING, E, GAPS)
    belief, exact = da.cycle(da.EKF(Q=da.EveryStep(noise)), TURNING, da.gaussian.Gaussian.from_samples(E), GAPS)
    np.testing.assert_allclose(members.mean(0), belief.mean, rtol=1e-9)
    np.testing.assert_allclose(np.cov(members.T), belief.covariance(), rtol=1e-9)
    np.testing.assert_allclose(history.log_likelihood, exact.log_likelihood, rtol=1e-9)


@pytest.mark.parametrize("method", [da.EnKF, da.ParticleFilter], ids=lambda method: method.__name__)
def test_draws_at_every_step_are_many_and_a_continued_cycle_has_them_bit_by_bit(method):
    # Nothing observed, identity dynamics: after 5 steps the variance of the draws is 5.
    still, times = FunctionModel(lambda x, t: x), da.analysis_times(GAPS.replace(mask=False))
    method, E = method(Q=da.EveryStep(Diagonal(std=1.0))), jnp.zeros((2000, 2))
    whole, _ = da.cycle(method, still, E, times, key=KEY)
    middle, first = da.cycle(method, still, E, times[:1], key=KEY)
    end, _ = da.cycle(method, still, middle, times[1:], key=KEY, start=first.step[-1])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(end), strict=True):
        np.testing.assert_array_equal(a, b)
    drawn = whole.members if hasattr(whole, "members") else whole
    np.testing.assert_allclose(np.var(drawn, axis=0), 5.0, rtol=5 * (2 / 2000) ** 0.5)
    assert abs(np.corrcoef(np.asarray(drawn).T)[0, 1]) < 5 * 2000**-0.5


def test_model_error_that_does_not_fit_is_named_where_it_is_given_or_used():
    from diffassim.core.errors import ConfigurationError, ShapeError

    E, y = ensemble(), observed(values())
    holes = Diagonal(std=jnp.asarray([1.0, np.nan, *[1.0] * 6]))
    long = Diagonal(std=jnp.ones(9))
    for Q in (holes, da.EveryStep(holes), SquareRootNoise(holes)):
        with pytest.raises(ConfigurationError, match="ETKF: Q: Diagonal std holds 1 NaN of 8"):
            da.ETKF(Q=Q).analyze(KEY, E, y)
    with pytest.raises(ConfigurationError, match="ParticleFilter: Q: Diagonal std holds 1 NaN"):
        da.ParticleFilter(Q=holes).analyze(KEY, E, y)
    with pytest.raises(ConfigurationError, match="ETKF: inflation: Diagonal std holds 1 NaN"):
        da.ETKF(inflation=(1.1, AdditiveInflation(holes))).analyze(KEY, E, y)
    for method in (da.ETKF(Q=long), da.ensemble.AdaptiveInflation(da.ETKF(Q=long)), da.EnKS(da.ETKF(Q=long))):
        with pytest.raises(ShapeError, match=r"ETKF: Q: Diagonal std has shape \(9,\)"):
            method.analyze(KEY, E, y)
    for wrong in (1.0, da.EveryStep(Diagonal(std=1.0))):
        with pytest.raises(ConfigurationError, match="EveryStep: Q must be a covariance, found"):
            da.EveryStep(wrong)
    with pytest.raises(ConfigurationError, match="weighted particles need draws"):
        da.ParticleFilter(Q=SquareRootNoise(Diagonal(std=1.0)))
    with pytest.raises(ConfigurationError, match="optimal for an error at the analysis"):
        da.OptimalParticleFilter(Q=da.EveryStep(Diagonal(std=1.0)))


def test_what_wraps_a_filter_passes_the_gate_as_the_filter_does():
    from diffassim.core.errors import ShapeError

    beyond = observed(values(sites=1), operator=da.observations.Subset(np.array([9])))
    still = FunctionModel(lambda x, t: x)
    steered = da.ensemble.AdaptiveInflation(da.ETKF()), da.ensemble.PolicyInflation(da.ETKF())
    wrapped = (da.ParticleFilter(), da.EnKS(da.ETKF()), *steered)
    for method in wrapped:
        with pytest.raises(ShapeError):
            method.analyze(KEY, ensemble(), beyond)
    for method in (da.IEnKS(), da.AsynchronousFilter(da.ETKF())):
        with pytest.raises(ShapeError):
            method.analyze(KEY, still, ensemble(), beyond, 0, 1, [0])
        late = observed(values()).replace(steps=np.array([3]))
        with pytest.raises(ShapeError, match="at step 3 lies behind the end of the window of 2 steps"):
            method.analyze(KEY, still, ensemble(), late, 0, 2, [0])
    members = ensemble()
    for method in wrapped[1:]:  # an ensemble is taken for what they hand on, as in a cycle
        found, _ = method.analyze(None, members, observed(values()))
        first = jax.tree.leaves(found)[0]
        now = first[:, 0] if first.ndim == 3 else first
        np.testing.assert_allclose(now, da.ETKF().analyze(None, members, observed(values()))[0], rtol=1e-13)
