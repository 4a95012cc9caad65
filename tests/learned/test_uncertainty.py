"""Uncertainty of learned parts: closed forms, and coverage where the law of the errors drifts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.learned import Network
from diffassim.learned.uncertainty import AdaptiveConformal, DeepEnsemble, LastLayerLaplace, calibration_table
from diffassim.training import fit

KEY = jax.random.key(0)


def linear(w):
    return Network(jnp.multiply, jnp.asarray(w))


def test_an_ensemble_is_the_mean_of_its_members_and_trains_each_as_if_alone():
    ensemble = DeepEnsemble.of([linear(1.0), linear(3.0)])
    x = jnp.arange(1.0, 9.0)
    assert ensemble(x[0]) == 2 and ensemble.size == 2 and abs(float(ensemble.spread(x[0])) - 2**0.5) < 1e-12

    def each(network, batch, key):
        return jnp.mean((network(batch) - 2 * batch) ** 2)

    loss = DeepEnsemble.loss(each, share=1.0)
    options = {"optimizer": optax.sgd(1e-3), "steps": 3, "batch_size": 8, "key": KEY, "chunk": 3}
    together = fit(loss, ensemble, x, **options).trained
    for w, found in zip((1.0, 3.0), together.members.weights, strict=True):
        alone = fit(each, linear(w), x, **options).trained
        np.testing.assert_allclose(found, alone.weights, rtol=1e-12)
    with pytest.raises(ConfigurationError, match="cannot disagree"):
        DeepEnsemble.of([linear(1.0)])
    with pytest.raises(ShapeError, match="network 1"):
        DeepEnsemble.of([linear(1.0), linear([1.0, 2.0])])
    with pytest.raises(ConfigurationError, match="two or more"):
        DeepEnsemble(linear([1.0]))
    with pytest.raises(ConfigurationError, match="share"):
        DeepEnsemble.loss(each, share=0.0)


def test_laplace_is_bayesian_regression_in_closed_form():
    rng = np.random.default_rng(0)
    features, noise, prior = rng.normal(size=(30, 4)), 0.3, 2.0
    targets = features @ rng.normal(size=(4, 2)) + noise * rng.normal(size=(30, 2))
    fitted = LastLayerLaplace.fit(features, targets, noise=noise, prior=prior)
    P = np.linalg.inv(features.T @ features / noise**2 + np.eye(4) / prior**2)
    at = rng.normal(size=(5, 4))
    mean, std = fitted(jnp.asarray(at))
    np.testing.assert_allclose(mean, at @ P @ features.T @ targets / noise**2, rtol=1e-10)
    np.testing.assert_allclose(std[:, 0], np.sqrt(np.einsum("if,fg,ig->i", at, P, at)), rtol=1e-10)
    np.testing.assert_allclose(std[:, 0], std[:, 1], rtol=1e-14)


def test_laplace_finds_prior_and_noise_of_the_largest_evidence():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, 6))
    targets = features @ (0.5 * rng.normal(size=(6, 40))) + 0.2 * rng.normal(size=(400, 40))
    fitted = LastLayerLaplace.fit(features, targets)
    assert abs(float(fitted.noise) / 0.2 - 1) < 0.02 and abs(float(fitted.prior) / 0.5 - 1) < 0.1

    def evidence(noise, prior):
        C = noise**2 * np.eye(400) + prior**2 * features @ features.T
        return -0.5 * np.linalg.slogdet(C)[1] * 40 - 0.5 * np.sum(targets * np.linalg.solve(C, targets))

    best = float(fitted.noise), float(fitted.prior)
    for factors in ((1.01, 1), (0.99, 1), (1, 1.05), (1, 0.95)):
        assert evidence(*best) > evidence(best[0] * factors[0], best[1] * factors[1])
    with pytest.raises(ShapeError):
        LastLayerLaplace.fit(features, targets[:, 0])
    with pytest.raises(DataError):
        LastLayerLaplace.fit(features, np.where(targets > 0, np.nan, targets))


def test_conformal_intervals_keep_their_coverage_where_fixed_ones_lose_it():
    t = jnp.arange(6000)
    errors = (1 + 2 * t / 6000) * jax.random.normal(KEY, t.shape)  # three times as large at the end
    interval = AdaptiveConformal(level=0.9)
    state, hits = interval.run(interval.init(1.645), errors, 0.0, 1.0)
    late = hits[3000:]
    assert 0.85 <= float(jnp.mean(late)) <= 0.95
    assert float(jnp.mean(jnp.abs(errors[3000:]) <= 1.645)) < 0.6  # what held at the beginning
    assert float(state.factor) > 3.5
    at = float(calibration_table(errors[:500], jnp.ones(500), levels=[0.9]).coverage[0])
    assert 0.85 <= at <= 0.95


def test_the_guarantee_holds_for_errors_of_any_law():
    t = np.arange(2000)
    errors = jnp.asarray(np.where((t // 200) % 2 == 0, 5.0, 0.1) * np.sign(np.sin(t)))  # no law at all
    interval = AdaptiveConformal(level=0.9, rate=0.2, memory=1.0)
    _, hits = interval.run(interval.init(0.0, 1.0), errors, 0.0, 1.0)
    assert abs(float(jnp.mean(1 - hits)) - 0.1) <= (5 + 2 * 0.2) / (0.2 * 2000)


def test_missing_values_are_as_if_they_were_not_there():
    values = jax.random.normal(KEY, (40, 3))
    gaps = values.at[5:9, 1].set(jnp.nan)
    interval = AdaptiveConformal()
    state, hits = interval.run(interval.init(jnp.full(3, 1.6), jnp.ones(3)), gaps, 0.0, 1.0)
    assert bool(jnp.all(jnp.isnan(hits) == jnp.isnan(gaps)))
    short = jnp.concatenate([values[:5, 1], values[9:, 1]])
    alone, seen = interval.run(interval.init(1.6, 1.0), short, 0.0, 1.0)
    np.testing.assert_allclose(state.factor[1], alone.factor, rtol=1e-13)
    assert np.array_equal(np.asarray(hits[:, 1])[~np.isnan(hits[:, 1])], seen)
    for wrong in ({"level": 1.0}, {"rate": 0.0}, {"memory": 2.0}):
        with pytest.raises(ConfigurationError):
            AdaptiveConformal(**wrong)


def test_a_calibration_table_counts_intervals_of_spreads_and_of_members():
    keys = jax.random.split(KEY, 3)
    spread = 0.5 + jax.random.uniform(keys[0], (4000,))
    errors = spread * jax.random.normal(keys[1], (4000,))
    table = calibration_table(errors.at[:1000].set(jnp.nan), spread)
    np.testing.assert_allclose(table.coverage, table.levels, atol=0.03)
    assert int(table.counts) == 3000 and "90.0 %" in str(table)
    members = 3 + spread[None] * jax.random.normal(keys[2], (99, 4000))
    np.testing.assert_allclose(calibration_table(3 + errors, members=members).coverage, table.levels, atol=0.03)
    for wrong in ({}, {"spreads": 1.0, "members": members}, {"spreads": 1.0, "levels": [1.0]}):
        with pytest.raises(ConfigurationError):
            calibration_table(errors, **wrong)


@pytest.mark.slow
def test_the_last_layer_bears_fewer_samples_than_features_and_features_that_are_the_same():
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        few = jnp.asarray(rng.normal(size=(3, 8)), dtype)
        twice = jnp.asarray(np.repeat(rng.normal(size=(40, 3)), 2, axis=1), dtype)
        for features in (few, twice):
            targets = features @ jnp.ones((8 if features is few else 6, 2), dtype)
            mean, std = LastLayerLaplace.fit(features, targets)(features)
            np.testing.assert_allclose(mean, targets, rtol=1e-3, atol=1e-4)
            assert np.all(np.isfinite(std)) and mean.dtype == dtype
    whole = LastLayerLaplace.fit(np.arange(40)[:, None], np.arange(40)[:, None])  # integers are numbers
    np.testing.assert_allclose(whole.weights, 1.0, rtol=1e-6)


def test_known_noise_and_prior_give_the_posterior_of_the_textbook():
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(20, 4)), rng.normal(size=(20, 1))
    found = LastLayerLaplace.fit(features, targets, noise=0.5, prior=2.0)
    P = np.linalg.inv(features.T @ features / 0.25 + np.eye(4) / 4)
    np.testing.assert_allclose(found.weights, P @ features.T @ targets / 0.25, rtol=1e-10)
    np.testing.assert_allclose(
        found(jnp.asarray(features))[1][:, 0] ** 2, np.diag(features @ P @ features.T), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LastLayerLaplace.fit(np.ones((3, 2)), np.ones((3, 1)), noise=0.0), ConfigurationError, "noise"),
        (lambda: LastLayerLaplace.fit(np.ones((3, 2)), np.ones((3, 1)), prior=-1.0), ConfigurationError, "prior"),
        (lambda: LastLayerLaplace.fit(np.ones((0, 2)), np.ones((0, 1))), DataError, "no sample"),
        (lambda: LastLayerLaplace.fit(np.eye(3), np.ones((3, 1)))(jnp.ones((4, 2))), ShapeError, "fitted to 3"),
        (lambda: AdaptiveConformal(level=np.array(90.0)), ConfigurationError, "level=90"),
        (lambda: AdaptiveConformal().init(-1.0), ConfigurationError, "factor"),
        (lambda: AdaptiveConformal().init(1.0, 0.0), ConfigurationError, "scale"),
        (lambda: run_interval(np.ones(5), np.zeros(4), 1.0), ShapeError, "centers of shape"),
        (lambda: calibration_table(np.ones((4, 5)), np.ones(4)), ShapeError, r"spreads of shape \(4,\)"),
        (lambda: calibration_table(np.ones(4), -1.0), DataError, "negative"),
        (lambda: calibration_table(np.ones((4, 5)), members=np.ones((9, 5, 4))), ShapeError, "members of shape"),
        (lambda: calibration_table(np.ones(4), members=np.ones((1, 4))), ShapeError, "two or more"),
    ],
)
def test_what_intervals_cannot_be_made_of_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def run_interval(values, centers, spreads, factor=1.6):
    interval = AdaptiveConformal()
    return interval.run(interval.init(factor), values, centers, spreads)


def test_a_forecast_that_says_nothing_changes_no_interval():
    values, ones = np.array([3.0, 0.1, 5.0, 0.3]), np.ones(4)
    plain, hits = run_interval(values[[0, 1, 3]], 0 * ones[:3], ones[:3])
    for bad in ({"spreads": np.array([1, 1, 0.0, 1])}, {"spreads": np.array([1, 1, -1.0, 1])},
                {"centers": np.array([0, 0, np.nan, 0])}, {"values": np.array([3.0, 0.1, np.nan, 0.3])}):  # fmt: skip
        state, told = run_interval(**({"values": values, "centers": 0 * ones, "spreads": ones} | bad))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, state, plain))
        assert np.isnan(told[2]) and np.array_equal(np.delete(told, 2), hits)
    several, _ = run_interval(np.ones((5, 2)), 0.0, 1.0, factor=np.array([1.0, 2.0]))  # a state for each, one scale
    assert several.scale.shape == (2,)


def test_calibration_counts_only_what_can_be_compared():
    table = calibration_table([0.5, 0.5, np.nan], [1.0, np.nan, 1.0], levels=[0.9])
    assert int(table.counts) == 1 and table.coverage.tolist() == [1.0]
    assert np.isnan(calibration_table([np.nan], 1.0, levels=[0.9]).coverage[0])


def test_members_with_dropout_draw_each_for_itself():
    def dropping(seed):
        options = {"rngs": nnx.Rngs(seed), "param_dtype": jnp.float64}
        return Network.from_nnx(nnx.Sequential(nnx.Linear(3, 3, **options), nnx.Dropout(0.5, rngs=nnx.Rngs(seed))))

    ensemble, x = DeepEnsemble.of([dropping(k) for k in range(4)]), jnp.ones(3)
    expected = [dropping(k)(x, key=key) for k, key in enumerate(jax.random.split(KEY, 4))]
    np.testing.assert_allclose(ensemble(x, key=KEY), np.mean(expected, axis=0), rtol=1e-12)
    assert not np.array_equal(ensemble(x, key=KEY), ensemble(x))
