"""The comparison of inflations: small runs, files of policies, and what is judged."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import xarray as xr

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments.control.adaptive_inflation import AdaptiveInflationComparison, AdaptiveInflationConfiguration
from diffassim.experiments.control.adaptive_inflation_judging import (
    Judged,
    by_regime,
    chosen_constants,
    in_turn,
    judge,
    lanes_of,
    with_constants,
)
from diffassim.experiments.control.adaptive_inflation_regimes import (
    BURN_IN,
    CHANGED,
    REGIMES,
    TRAINED,
    Nature,
    Regime,
    drawn_regime,
    observed,
)
from diffassim.experiments.control.adaptive_inflation_results import results_of
from diffassim.experiments.control.adaptive_inflation_training import FILTERS, TRAININGS, about, untrained_like
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration

SMALL = {
    "filters": ("ETKF",), "trainings": ("PPO",), "copies": 2, "effort": 0.02, "seeds": 2, "tuning": 1, "drawn": 2,
    "half": 10, "n": 12, "members": 6,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
def test_a_run_can_be_stopped_and_its_policies_used_again(tmp_path, monkeypatch):
    small = FILTERS["ETKF"]._replace(factors=(1.05, 1.5))
    monkeypatch.setitem(FILTERS, "ETKF", small)
    config = AdaptiveInflationConfiguration(**SMALL)
    whole = runs.run(AdaptiveInflationComparison(), config, tmp_path / "whole")

    def stop(finished, count):
        if finished == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(AdaptiveInflationComparison(), config, tmp_path / "parts", stop)
    runs.resume(tmp_path / "parts")
    for name in ("scores.csv", "policies.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    for name in ("overview.png", "courses.png"):
        assert (tmp_path / "whole" / name).stat().st_size > 10_000
    rows = whole.scores.set_index(["method", "variable", "metric"])["value"]
    with xr.open_dataset(tmp_path / "whole" / "analysis.nc") as dataset:
        error = dataset["error"].values[0]
        assert error.shape == (6, len(REGIMES), 2) and np.isfinite(error).all()
        curve = dataset["curve"].values[0, 0]
        assert curve.shape == (2, 40) and np.isfinite(curve[:, :2]).all() and np.isnan(curve[:, 2:]).all()
    np.testing.assert_allclose(rows["ETKF: PPO", "forcing 9", "ratio"], np.mean(error[5, 2] / error[0, 2]))
    assert (
        "forcing 8 to 11" in whole.table
        and "the best of 2 trainings" in whole.table
        and "lost" in {metric for _, _, metric in rows.index}
    )

    with xr.open_dataset(tmp_path / "whole" / "analysis.nc") as dataset:
        single = results_of(config.model_copy(update={"seeds": 1, "copies": 1}), dataset.isel(twin=[0]).load(), CHANGED)
    assert "ratio_half_interval" not in set(single.scores["metric"]) and np.isfinite(single.scores["value"]).all()
    assert "one twin, no intervals" in single.table and "trained once" in single.table and "+-" not in single.table

    path = tmp_path / "whole" / "policies.json"
    again = AdaptiveInflationConfiguration(**SMALL, policy=path)
    found = runs.run(AdaptiveInflationComparison(), again, tmp_path / "again")
    assert found.scores.equals(whole.scores)
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(DataError, match="was changed"):
        runs.run(AdaptiveInflationComparison(), again, tmp_path / "altered")
    path.write_text(json.dumps({}))
    with pytest.raises(DataError, match="no file of policies"):
        runs.run(AdaptiveInflationComparison(), again, tmp_path / "none")


def test_settings_are_checked(tmp_path):
    for wrong, message in (
        ({"filters": ["EnKF"]}, "there are ETKF, LETKF"),
        ({"trainings": ["PPO", "PPO"]}, "one twice"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"effort": 0}, "effort"),
        ({"members": 2}, "members"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_configuration(AdaptiveInflationConfiguration, wrong, "adaptive-inflation")
    missing = AdaptiveInflationConfiguration(policy=tmp_path / "nothing.json")
    with pytest.raises(DataError, match=r"nothing.json: cannot be read"):
        AdaptiveInflationComparison().start(missing)
    whole = AdaptiveInflationConfiguration()
    assert AdaptiveInflationComparison().chunks(whole) == len(FILTERS) * (1 + len(TRAININGS))
    assert AdaptiveInflationComparison().chunks(missing) == len(FILTERS)


@pytest.mark.slow
def test_no_regime_that_is_scored_is_one_of_the_training():
    assert set(CHANGED) == {name for name, (_, after) in REGIMES.items() if after is not None} and len(CHANGED) >= 4

    def drawn(regime):
        return all(low <= getattr(regime, key) <= high for key, (low, high) in TRAINED.items()) and regime.noise == 0

    beyond = [name for name, named in REGIMES.items() if not all(drawn(part) for part in named if part is not None)]
    assert len(beyond) >= 10, beyond
    regimes = jax.vmap(lambda key: drawn_regime(key, jnp.float64))(jax.random.split(jax.random.key(0), 500))
    for key, (low, high) in TRAINED.items():
        values = np.asarray(getattr(regimes, key))
        assert values.min() >= low and values.max() <= high
    assert 0.25 < np.mean(regimes.forcing == 8) < 0.42


@pytest.mark.slow
def test_twins_are_what_their_regimes_say():
    keys = jax.random.split(jax.random.key(0), 3)
    lanes = lanes_of(keys, 1, 2, 4, 5, 20, 15, "float64")
    twins, each = lanes.scored, len(REGIMES)
    assert twins.truth.shape == (2 * each, BURN_IN + 30, 20) and twins.ensemble.shape == (2 * each, 5, 20)
    assert len(lanes.tuned.truth) == each and len(lanes.drawn.truth) == 4 and len(lanes.choosing.truth) == each + 4
    names, half = list(REGIMES), BURN_IN + 15
    share = by_regime(np.asarray(twins.observations.mask).mean(axis=2))[names.index("observed 100 to 30 %")]
    assert np.all(share[:, :half] == 1) and np.all(share[:, half:] == 0.3)
    std = by_regime(np.asarray(twins.observations.error.std))[names.index("errors of 0.3 to 2.5")]
    assert np.all(std[:, :half] == 0.3) and np.all(std[:, half:] == 2.5)
    noise = by_regime(np.asarray(twins.observations.values - twins.truth))[names.index("errors of 2.5")]
    assert abs(noise.std() - 2.5) < 0.1
    other = lanes_of(keys.at[0].set(keys[1]), 1, 2, 4, 5, 20, 15, "float64")
    assert np.array_equal(twins.truth, other.scored.truth)
    assert not np.array_equal(lanes.tuned.truth, other.tuned.truth)
    values, seen = observed(Regime(share=0.01), jnp.zeros(20), keys[0])
    assert seen.sum() == 1 and values.shape == (20,)


@pytest.mark.slow
def test_a_filter_is_judged_by_its_errors_and_lost_ones_are_counted():
    lanes = lanes_of(jax.random.split(jax.random.key(0), 3), 1, 1, 2, 20, 20, 10, "float64")
    twins = lanes.choosing
    found = judge(with_constants("ETKF", (1.2, 1.0), "float64"), twins)
    _, history = da.cycle(
        with_constants("ETKF", (1.2, 1.0), "float64"), da.models.Lorenz96(),
        twins.ensemble[3], jax.tree.map(lambda leaf: leaf[3], twins.observations),
    )  # fmt: skip
    error = np.sqrt(np.mean((np.asarray(history.analysis.mean) - twins.truth[3]) ** 2, axis=1))
    np.testing.assert_allclose(found.error[3], np.minimum(error, 6.0)[BURN_IN:], rtol=1e-6)
    np.testing.assert_allclose(found.factor, 1.2, rtol=1e-6)
    collapsed = judge(with_constants("ETKF", (0.2, 1.0), "float64"), twins)
    assert collapsed.lost.sum() > 3 >= found.lost.sum() and np.asarray(collapsed.error).max() == 6.0
    each = np.repeat([[1.2, 1.0], [0.2, 1.0]], [10, 5], axis=0)
    both = judge(with_constants("ETKF", each, "float64"), twins, each=True)
    joined = [np.concatenate([a[:10], b[10:]]) for a, b in zip(found, collapsed, strict=True)]
    np.testing.assert_allclose(both.error, joined[0], rtol=1e-6)
    assert np.array_equal(both.lost, joined[3])


def test_constants_are_chosen_by_regime_and_by_half():
    errors = np.full((2, 2 * len(REGIMES) + 2, 4), 1.0)
    errors[1, 4:6, 2:] = 0.4  # the third regime is better with the second pair, in its second half
    errors[1, 4:6, :2] = 1.1
    errors[0, -2:] = 0.9
    found = chosen_constants([(1.1, 1.0), (1.5, 2.0)], errors, 2 * len(REGIMES))
    assert found.one.tolist() == [1.1, 1.0] and found.best[2].tolist() == [1.5, 2.0]
    assert found.halves.shape == (2, len(REGIMES), 2)
    assert found.halves[0, 2].tolist() == [1.1, 1.0] and found.halves[1, 2].tolist() == [1.5, 2.0]
    assert np.all(np.delete(found.best, 2, axis=0) == (1.1, 1.0))
    lost = np.array([True, False])  # the first one only in the half that does not count
    ones = Judged(np.array([[1.0, 1.0, 6.0, 6.0], [1.0] * 4]), *np.ones((2, 2, 4)), lost)
    twos = Judged(np.array([[6.0, 2.0, 2.0, 2.0], [6.0, 2.0, 2.0, 6.0]]), *np.full((2, 2, 4), 2.0), ~lost)
    switched = in_turn(ones, twos)
    assert np.array_equal(switched.spread, [[1, 1, 2, 2]] * 2)
    assert switched.error.tolist() == [[1, 1, 2, 2], [1, 1, 2, 6]] and switched.lost.tolist() == [False, True]


@pytest.mark.slow
def test_the_nature_of_the_training_changes_without_notice():
    nature = Nature.create(jax.random.key(0), 5, 12, "float64", count=8).replace(dwell=2.0)
    regime, x, members = nature.start(jax.random.key(1))
    assert members.shape == (5, 12)
    step, seen = jax.jit(nature.following), set()
    for k in range(40):
        regime, x, observations = step(regime, x, k, jax.random.key(k))
        seen.add(float(regime.std))
        assert np.all(np.asarray(observations.error.std) == regime.std)
    assert 8 < len(seen) < 32 and np.abs(x).max() < 30


@pytest.mark.slow
def test_a_policy_says_what_it_is_for():
    for name, contender in FILTERS.items():
        told = about(name)
        assert told["filter"] == name and len(told["actions"]) == 2 + (len(contender.radii) > 1)
        leaves = jax.tree.leaves(untrained_like(name, "float64"))
        assert all(leaf.dtype == jnp.float64 for leaf in leaves) and leaves
