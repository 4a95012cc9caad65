"""The account of a cycled ensemble."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.cycling import EnsembleHistory, Moments
from diffassim.diagnostics import cycle_summary
from diffassim.methods.account import AnalysisInfo

TIMES = 6


def history(chi_square=1.0, spread=1.0, lost_from=TIMES):
    moments = Moments(np.full((TIMES, 3), 2.0), np.full((TIMES, 3), spread))
    code = np.where(np.arange(TIMES) < lost_from, da.Result.CONVERGED, da.Result.DIVERGED)
    count = np.array([4, 4, 0, 4, 4, 4])
    info = AnalysisInfo(
        count=count,
        chi_square=np.where(count > 0, chi_square, 0.0),
        background_spread=np.ones(TIMES),
        analysis_spread=np.ones(TIMES),
        log_likelihood=np.zeros(TIMES),
        non_finite=np.arange(TIMES),
        result=code,
    )
    return EnsembleHistory(np.arange(10, 10 + TIMES), moments, moments, info)


def test_means_count_sound_analyses_after_the_burn_in():
    truth = np.full((TIMES, 3), 1.0)
    found = cycle_summary(history(lost_from=5), truth, burn_in=1)
    assert (found.analyses, found.counted, found.empty, found.lost, found.lost_at) == (6, 4, 1, 1, 15)
    assert found.failed_members == 0 + 1 + 2 + 3 + 4
    assert found.analysis_error == found.background_error == found.analysis_spread == found.chi_square == 1.0
    text = str(found)
    assert "DIVERGED" in text and "1 lost, from step 15 on" in text and "spread/error" in text
    everything = cycle_summary(history(lost_from=0), truth)
    assert everything.counted == 0 and everything.lost == 6 and np.isnan(everything.chi_square)


@pytest.mark.parametrize(
    ("case", "truth", "text"),
    [
        (history(), None, "consistent"),
        (history(chi_square=2.0), None, "less error than there is"),
        (history(chi_square=0.5), None, "more error than there is"),
        (history(spread=0.5), 1.0, "less error than there is"),
    ],
)
def test_advice(case, truth, text):
    truth = None if truth is None else np.full((TIMES, 3), truth)
    assert text in str(cycle_summary(case, truth))


def test_a_cycle_is_summarized():
    obs = da.Observations(np.zeros((4, 3)), [1, 2, 3, 4], error=da.covariances.Diagonal(std=1.0))
    members = jax.random.normal(jax.random.key(0), (40, 3))
    _, real = da.cycle(da.ETKF(), da.models.FunctionModel(lambda x, t: x), members, obs)
    found = cycle_summary(real, jnp.zeros((4, 3)))
    np.testing.assert_allclose(found.analysis_spread, np.mean(real.info.analysis_spread), rtol=1e-12)
    assert found.counted == 4 and found.lost_at is None


@pytest.mark.parametrize(
    ("options", "text"),
    [({"truth": np.zeros((TIMES, 2))}, "truth has shapes"), ({"burn_in": TIMES}, "leaves nothing")],
)
def test_wrong_input(options, text):
    with pytest.raises(da.ShapeError, match=text):
        cycle_summary(history(), **options)
    with pytest.raises(da.ShapeError, match="take one"):
        cycle_summary(jax.tree.map(lambda leaf: np.stack([leaf, leaf]), history()))
