"""Diagnostics of ensembles: closed forms, a verification library, reliable and unreliable ensembles, bad input."""

from __future__ import annotations

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.diagnostics import (
    binned_spread_error,
    exceedance_reliability,
    independent_count,
    innovation_statistics,
    interval_coverage,
    rank_histogram,
    spread_error,
)

N, M = 9, 20_000


def pairs(spread=1.0, bias=0.0, size=M, seed=0, members=N):
    """Return members and values from one distribution of varying width, or from one that is too narrow or too low."""
    rng = np.random.default_rng(seed)
    center, width = rng.normal(size=size), rng.uniform(0.3, 3.0, size)
    return center + bias + spread * width * rng.normal(size=(members, size)), center + width * rng.normal(size=size)


def test_ranks_are_counted_by_hand():
    members = np.array([[1.0, 1.0, 1.0, np.nan, 1.0], [3.0, 3.0, 1.0, 3.0, 3.0], [2.0, 2.0, 1.0, 2.0, 2.0]])
    found = rank_histogram(members, np.array([0.0, 2.0, 1.0, 2.0, np.nan]))
    # Below all; equal to the second: ranks 1 and 2; equal to all three: every rank.
    np.testing.assert_allclose(found.counts, [1 + 1 / 4, 1 / 2 + 1 / 4, 1 / 2 + 1 / 4, 1 / 4], rtol=1e-12)
    assert found.skipped == 2


def test_ranks_and_brier_scores_are_those_of_a_verification_library():
    xr = pytest.importorskip("xarray")
    library = pytest.importorskip("scores.probability")
    rng = np.random.default_rng(1)
    members, value = np.round(rng.normal(size=(N, 40, 5)), 1), np.round(rng.normal(size=(40, 5)), 1)
    value[::7, 2] = np.nan
    E, y = xr.DataArray(members, dims=["member", "t", "x"]), xr.DataArray(value, dims=["t", "x"])
    found = rank_histogram(members, value)
    expected = library.rank_histogram(E, y, "member")
    np.testing.assert_allclose(found.counts / found.counts.sum(), expected, rtol=1e-12, atol=1e-15)
    brier = library.brier_score_for_ensemble(
        E, y, "member", 0.4, fair_correction=False, event_threshold_operator=operator.gt
    )
    np.testing.assert_allclose(exceedance_reliability(members, value, 0.4).brier, float(brier.squeeze()), rtol=1e-12)


def test_chi_square_and_its_parts():
    found = rank_histogram(*pairs())
    expected = stats.chisquare(np.asarray(found.counts))
    np.testing.assert_allclose([found.chi_square, found.p_value], [expected.statistic, expected.pvalue], rtol=1e-9)
    assert abs(found.slope) < 3.5 and abs(found.convexity) < 3.5 and found.flatness < 3.2  # 1 in 2,000 each
    assert found.slope**2 + found.convexity**2 <= found.chi_square
    low, narrow, wide = (rank_histogram(*pairs(**how)) for how in ({"bias": -0.3}, {"spread": 0.6}, {"spread": 1.6}))
    assert low.slope > 10 and narrow.convexity > 10 and wide.convexity < -10
    assert narrow.p_value < 1e-10 and rank_histogram(np.zeros((1, 3)), np.ones(3)).convexity == 0


def test_a_reliable_ensemble_claims_its_error_in_every_bin_and_covers_what_it_should():
    found = spread_error(*pairs(members=200), bins=5)
    # The error of a root mean square over 4,000 values is about 1.2 %, that of a spread of 200 members 5 % at most.
    np.testing.assert_allclose(found.spread, found.error, rtol=0.08)
    members, value = pairs()
    found = spread_error(members, value)
    assert abs(found.ratio - 1) < 0.03 and found.count.sum() == M and 0.2 < found.correlation < 0.9
    narrow = spread_error(*pairs(spread=0.5), bins=1)
    assert narrow.ratio < 0.6 and narrow.spread.shape == (1,)
    assert np.isnan(spread_error(np.stack([value, value + 1]), value).correlation)
    cover = interval_coverage(members, value)
    np.testing.assert_allclose(cover.nominal, [0.2, 0.4, 0.6, 0.8], rtol=1e-12)
    np.testing.assert_allclose(cover.observed, cover.nominal, atol=4 * 0.5 / M**0.5)
    assert np.all(np.diff(cover.width) > 0)
    assert np.all(interval_coverage(*pairs(spread=0.5)).observed < cover.nominal - 0.05)
    exceed = exceedance_reliability(members, value, 0.5)
    # A probability of nine members scatters by up to .17, which bends the curve of a perfect ensemble a little.
    assert exceed.count.sum() == M and exceed.reliability < 0.02 < exceed.resolution
    assert exceedance_reliability(*pairs(bias=1.5), 0.5).reliability > 0.05


def test_missing_pairs_have_no_influence():
    members, value = pairs(size=500)
    gaps, holes = value.copy(), members.copy()
    gaps[::5], holes[3, 1::5] = np.nan, np.inf
    keep = (np.arange(500) % 5 > 1).nonzero()[0]
    for function in (rank_histogram, spread_error, interval_coverage, lambda *p: exceedance_reliability(*p, 0.2)):
        found, removed = function(holes, gaps), function(members[:, keep], value[keep])
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(removed), strict=True):
            np.testing.assert_array_equal(a, b)


def test_innovations_by_stream():
    rng, times = np.random.default_rng(2), 3000
    steps = np.arange(1, times + 1) * 2
    truth = rng.normal(size=(times, 3))
    members = truth[:, None] + 0.5 * rng.normal(size=(times, 1, 3)) + 0.5 * rng.normal(size=(times, 30, 3))
    first = truth[:, :2] + 0.3 + 0.8 * rng.normal(size=(times, 2))
    first[::3, 0] = np.nan
    late = rng.normal(size=(times // 2, 1)) * 0.8 + truth[::2, 2:]
    streams = (
        da.Observations(first, steps, da.observations.Subset([0, 1]), da.covariances.Diagonal(std=0.8)),
        da.Observations(late, steps[::2], da.observations.Subset([2]), da.covariances.Diagonal(std=0.4)),
    )
    biased, wrong = innovation_statistics(members, streams, steps)
    claimed = (1 + (0.5 / 0.8) ** 2) ** 0.5
    assert biased.count == 5000 and wrong.count == 1500
    assert abs(biased.bias - 0.3 / 0.8) < 5 * biased.bias_error < 0.1
    np.testing.assert_allclose(biased.expected, claimed, rtol=0.02)
    np.testing.assert_allclose(biased.deviation, (claimed**2 + (0.3 / 0.8) ** 2) ** 0.5, rtol=0.05)
    assert abs(biased.correlation - (0.3 / 0.8) ** 2 / biased.deviation**2) < 0.06  # that of the bias alone
    assert wrong.chi_square > 1.8 and "observations 1: 1500 values" in str(wrong)
    means = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=1, keepdims=True), members)
    assert innovation_statistics(means, streams, steps)[0].expected == 1.0
    hidden = da.Observations(np.full((2, 3), np.nan), steps[:2], error=da.covariances.Diagonal(std=1.0))
    assert innovation_statistics(members, hidden, steps)[0].count == 0


def test_innovations_of_a_cycle_that_is_right():
    key = jax.random.split(jax.random.key(0), 3)
    Q, R = da.covariances.Diagonal(std=0.5), da.covariances.Diagonal(std=1.0)
    truth = jnp.cumsum(0.5 * jax.random.normal(key[0], (800, 4)), axis=0)
    obs = da.Observations(truth + jax.random.normal(key[1], truth.shape), np.arange(1, 801), error=R)
    start = da.gaussian.Gaussian(jnp.zeros(4), jnp.eye(4))
    _, history = da.cycle(da.EKF(Q=Q), da.models.FunctionModel(lambda x, t: x), start, obs, key=key[2])
    (found,) = innovation_statistics(history.background.mean[:, None], obs, history.step)
    assert abs(found.correlation) < 4 / 3200**0.5 and abs(found.bias) < 4 * found.bias_error


def test_spreads_beside_errors_are_those_of_the_members():
    members, value = pairs(spread=0.7, size=500)
    value[:20] = np.nan
    std, error = np.std(members, axis=0, ddof=1) * np.sqrt(1 + 1 / N), members.mean(0) - value
    found, expected = binned_spread_error(std, error, bins=7), spread_error(members, value, bins=7)
    for name in ("spread", "error", "count", "correlation"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)
    with pytest.raises(ShapeError, match="differ"):
        binned_spread_error(std, error[1:])
    with pytest.raises(DataError, match="none of 500 pairs"):
        binned_spread_error(std, np.nan * error)
    with pytest.raises(ConfigurationError, match="bins=0"):
        binned_spread_error(std, error, bins=0)


def test_the_number_of_independent_ranks():
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 8, (4000, 3))
    assert independent_count(ranks, 8, blocks=200) > 0.85 * ranks.size
    # Places that always agree count as one, and a value that stays for ten times as one.
    together = np.repeat(np.repeat(ranks[:2000, :1], 10, axis=0), 3, axis=1)
    assert 0.8 < independent_count(together, 8, blocks=200) / 2000 < 1.25
    gaps = np.where(rng.uniform(size=ranks.shape) < 0.5, -1, ranks)
    assert independent_count(gaps, 8, blocks=200) <= (gaps >= 0).sum()
    assert independent_count(np.full((5, 2), -1), 8) == 0 and independent_count(ranks[:1], 8) == 3
    with pytest.raises(ConfigurationError, match="found the rank 7"):
        independent_count(ranks, 7)


def test_bad_input_is_named():
    members, value = pairs(size=10)
    with pytest.raises(ShapeError, match="the member axis comes first"):
        rank_histogram(members.T, value)
    with pytest.raises(DataError, match="none of 10 pairs"):
        rank_histogram(members, value * np.nan)
    with pytest.raises(ShapeError, match="no spread"):
        spread_error(members[:1], value)
    with pytest.raises(ConfigurationError, match="bins=0"):
        spread_error(members, value, bins=0)
    with pytest.raises(ShapeError, match="bounds no interval"):
        interval_coverage(members[:1], value)
    obs = da.Observations(np.zeros((1, 3)), [5], error=da.covariances.Diagonal(std=1.0))
    with pytest.raises(ShapeError, match="at step 5"):
        innovation_statistics(np.zeros((2, 4, 3)), obs, [4, 6])


def test_figures_show_the_numbers():
    pytest.importorskip("matplotlib")
    from diffassim.plotting import ensembles as plots
    from diffassim.plotting.style import figure, style

    members, value = pairs(size=300)
    with style():
        drawn = figure()
        ranks, spread, cover, exceed = drawn.subplots(2, 2).ravel()
        frequencies = rank_histogram(members, value).frequencies
        plots.draw_rank_histogram(ranks, frequencies, "all")
        np.testing.assert_allclose([bar.get_height() for bar in ranks.patches], frequencies)
        for seed in (0, 1):
            found = spread_error(*pairs(size=300, spread=1 + seed, seed=seed))
            plots.draw_spread_error(spread, found, "one")
            assert spread.get_xlim()[1] > max(found.spread.max(), found.error.max())
        found = interval_coverage(members, value)
        plots.draw_coverage(cover, found)
        np.testing.assert_array_equal(cover.lines[-1].get_ydata(), found.observed)
        found = exceedance_reliability(members, value, 50.0)  # never given but zero
        plots.draw_exceedance(exceed, found)
        assert exceed.lines[-1].get_xydata().tolist() == [[0.0, 0.0]]
        drawn.canvas.draw()
