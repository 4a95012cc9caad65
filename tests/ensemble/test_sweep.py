"""What every ensemble method must do."""

from __future__ import annotations

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from tests.durations import further_by_hand
from tests.ensemble.zoo import INFLATIONS, KEY, METHODS, SITES, Column, ensemble, observed, values

ABSTRACT = {
    getattr(da.ensemble, name)
    for name in ("DomainFilter", "EnsembleMethod", "GlobalFilter", "LocalizedMethod", "SerialFilter", "TransportFilter")
}
every_method = pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
# For what takes long: one global, one local and one serial method, and the others by hand.
each_method = further_by_hand(METHODS, ("ETKF", "LETKF", "EAKF"))


def test_every_exported_method_is_listed():
    exported = {
        thing
        for name in da.ensemble.__all__
        if inspect.isclass(thing := getattr(da.ensemble, name)) and issubclass(thing, da.ensemble.EnsembleMethod)
    }
    assert exported - ABSTRACT == {type(entry.method) for entry in METHODS}


@every_method
def test_without_observations_the_posterior_is_the_prior_bit_by_bit(entry):
    E = ensemble()
    for y in (observed(np.full((1, SITES), np.nan)), observed(values(), mask=False)):
        posterior, info = entry.method.replace(inflation=1.2).analyze(KEY, E, y)
        assert np.array_equal(posterior, E)
        assert (
            info.count == 0 and info.chi_square == 0 and info.log_likelihood == 0 and info.result == da.Result.CONVERGED
        )


@every_method
def test_a_record_without_times_leaves_the_ensemble_as_it_is(entry):
    members = ensemble()
    nothing = da.Observations(np.zeros((0, SITES)), np.zeros(0, int), error=da.covariances.Diagonal(std=1.0))
    still = da.models.FunctionModel(lambda x, t: x)
    after, history = da.cycle(entry.method, still, members, nothing, key=KEY)
    chex.assert_trees_all_equal(after, members)
    assert history.analysis.mean.shape == (0, SITES)


class Unreliable(da.observations.Identity):
    """The whole state, infinite where it is not to be used."""

    keep: object

    def __call__(self, x, where=None):
        return x + jnp.where(jnp.isin(jnp.arange(SITES), self.keep), 0.0, jnp.inf)


@each_method
@pytest.mark.slow
def test_missing_observations_are_the_same_as_removed_ones(entry):
    E, y = ensemble(), values()
    keep = np.array([0, 2, 3, 6])
    wrong = y.copy()
    wrong[0, [1, 4, 5, 7]] = np.nan

    def moments(theta, y, operator):
        posterior, info = entry.method.replace(rotation=False).analyze(
            KEY, E + theta["state"], observed(y, theta["std"], operator=operator)
        )
        mean = jnp.mean(posterior, 0)
        told = info.chi_square + info.analysis_spread + info.log_likelihood
        return jnp.sum(mean**3) + jnp.sum(jnp.var(posterior, 0) ** 2) + told

    theta = {"state": jnp.zeros_like(E), "std": 0.8}
    derivative = jax.jit(jax.value_and_grad(moments))
    removed = derivative(theta, y[:, keep], da.observations.Subset(keep))
    masked = derivative(theta, wrong, Unreliable(keep))
    if not entry.method.random or entry.method.rotation:  # the rotation is switched off; other draws differ in number
        chex.assert_trees_all_close(masked, removed, rtol=1e-11, atol=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(masked))


@every_method
def test_missing_values_have_no_influence_whatever_was_stored_there(entry):
    E, y = ensemble(), values()
    mask = np.arange(SITES) % 3 > 0
    first, _ = entry.method.analyze(KEY, E, observed(y, mask=mask))
    second, _ = entry.method.analyze(KEY, E, observed(np.where(mask, y, 1e6), mask=mask))
    assert np.array_equal(first, second)


def check_derivative(method):
    """Compare with central differences, and ask for finite derivatives where all members are the same."""
    E, y = ensemble(), values()
    direction = jnp.asarray(np.random.default_rng(3).normal(size=E.shape))

    @jax.jit
    def loss(s, E):
        moved = method.replace(inflation=jax.tree.map(lambda leaf: leaf + 0.1 * s, method.inflation))
        posterior, info = moved.analyze(KEY, E + s * direction, observed(y + 0.3 * s, 0.8 + 0.2 * s))
        told = info.chi_square + info.background_spread + info.analysis_spread + info.log_likelihood
        return jnp.sum(jnp.sin(posterior)) + told

    gradient, h = jax.jit(jax.grad(loss, argnums=(0, 1))), 1e-5
    difference = (loss(h, E) - loss(-h, E)) / (2 * h)
    np.testing.assert_allclose(gradient(0.0, E)[0], difference, rtol=1e-7, atol=1e-8)
    identical = jnp.ones_like(E)
    assert all(np.isfinite(leaf).all() for leaf in gradient(0.0, identical))


@each_method
@pytest.mark.slow
def test_the_derivative_equals_central_differences(entry):
    check_derivative(entry.method)


@pytest.mark.parametrize("inflation", INFLATIONS, ids=lambda inflation: type(inflation).__name__)
def test_the_derivative_passes_through_every_inflation(inflation):
    check_derivative(da.ETKF(inflation=inflation))


def test_every_exported_inflation_is_listed():
    exported = {thing for thing in vars(da.ensemble).values() if inspect.isclass(thing)}
    found = {thing for thing in exported if issubclass(thing, da.ensemble.Inflation)} - {da.ensemble.Inflation}
    assert found == {type(inflation) for inflation in INFLATIONS}


@every_method
def test_single_precision_stays_and_agrees(entry):
    E, y = ensemble(), values()
    double, _ = entry.method.analyze(KEY, E, observed(y))
    single, info = entry.method.analyze(KEY, E.astype(np.float32), observed(y.astype(np.float32)))
    assert single.dtype == np.float32
    assert info.chi_square.dtype == info.analysis_spread.dtype == info.log_likelihood.dtype == np.float32
    if not entry.method.random:  # random numbers of another precision are others
        np.testing.assert_allclose(single, double, atol=entry.single)


@every_method
def test_a_sweep_over_inflation_is_traced_once(entry):
    E, y = ensemble(), observed(values())
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def spread(factor, E):
        swept = jax.vmap(lambda r: entry.method.replace(inflation=r).analyze(KEY, E, y)[1].analysis_spread)
        return swept(factor)

    found = spread(jnp.linspace(1.0, 1.5, 3), E)
    np.testing.assert_allclose(found[1] / found[0], 1.25, rtol=1e-12)
    assert np.isfinite(spread(jnp.linspace(0.9, 1.0, 3), E + 1)).all()


@every_method
def test_a_state_of_parts_is_analysed_as_the_whole(entry):
    E, y = ensemble(), values()
    parts = Column(E[:, None, :], {"square": E**2})
    posterior, _ = entry.method.analyze(KEY, E, observed(y))
    split, _ = entry.method.analyze(KEY, parts, observed(y[:, None, :], operator=da.observations.Field("wind")))
    if not entry.joint:
        np.testing.assert_allclose(split.wind[:, 0], posterior, rtol=1e-12)
    assert split.humidity["square"].shape == E.shape


@every_method
def test_identical_members_stay_as_they_are(entry):
    E = jnp.ones_like(ensemble())
    posterior, info = entry.method.analyze(KEY, E, observed(values()))
    np.testing.assert_allclose(posterior, E, rtol=1e-14)
    assert info.analysis_spread < 1e-14 and info.result == da.Result.CONVERGED


@every_method
def test_a_member_that_is_not_finite_is_counted_and_reported(entry):
    E = ensemble().at[2, 3].set(jnp.nan).at[4, 0].set(jnp.inf)
    _, info = entry.method.analyze(KEY, E, observed(values()))
    assert info.non_finite == 2 and info.result == da.Result.DIVERGED
    _, info = entry.method.analyze(KEY, E, observed(values(), mask=False))
    assert info.non_finite == 2 and info.result == da.Result.DIVERGED


@every_method
def test_one_member_is_no_ensemble(entry):
    with pytest.raises(ShapeError, match=r"at least two members, found shapes \(1, 8\)"):
        entry.method.analyze(KEY, ensemble(members=1), observed(values()))


@each_method
@pytest.mark.slow
def test_more_members_than_variables_and_more_variables_than_members(entry):
    for members in (2, 30):
        posterior, info = entry.method.analyze(KEY, ensemble(members=members), observed(values()))
        assert posterior.shape == (members, SITES) and info.result == da.Result.CONVERGED
        assert info.analysis_spread < 1.2 * info.background_spread


def test_members_are_made_floats_and_must_agree_in_number():
    whole = jnp.arange(24).reshape(3, 8)
    found, expected = (da.ETKF().analyze(None, E, observed(values()))[0] for E in (whole, whole.astype(float)))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ShapeError, match="same leading member axis"):
        da.ETKF().analyze(None, {"a": jnp.ones((3, 8)), "b": jnp.ones((4, 8))}, observed(values()))


def test_a_missing_key_is_named():
    for entry in METHODS:
        if entry.method.random:
            with pytest.raises(ConfigurationError, match="key="):
                entry.method.analyze(None, ensemble(), observed(values()))


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_impossible_inflation_is_named(wrong):
    for inflation in (wrong, da.ensemble.PriorInflation):
        with pytest.raises(ConfigurationError, match="factor must be finite and positive"):
            da.ETKF(inflation=inflation if isinstance(inflation, float) else inflation(wrong))
    for relaxation in (da.ensemble.RelaxToPriorSpread, da.ensemble.RelaxToPriorPerturbations):
        with pytest.raises(ConfigurationError, match=r"must be in \[0, 1\]"):
            relaxation(wrong - 0.5)


def test_a_robust_loss_is_refused():
    y = observed(values()).replace(loss=da.observations.Huber())
    with pytest.raises(ConfigurationError, match="Gaussian observation errors, found the loss Huber"):
        da.ETKF().analyze(KEY, ensemble(), y)
