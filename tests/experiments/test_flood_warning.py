"""Flood warnings: the twin's optimum is exact, agents come near it, and a record is judged by what warnings cost."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")
pytest.importorskip("pint")

import jax
import jax.numpy as jnp
import xarray as xr
from scipy.stats import norm

import diffassim as da
from diffassim.cli import main
from diffassim.core.errors import ConfigurationError
from diffassim.decisions.problems import RecordedWarning, WarningCosts
from diffassim.experiments.control.flood_warning import FloodWarnings
from diffassim.experiments.control.flood_warning_record import RAIN, SOURCES, Known
from diffassim.experiments.control.flood_warning_rules import RULES, LevelRule, Probable, costs_by_lead, learned, warned
from diffassim.experiments.control.flood_warning_settings import FloodWarningConfiguration
from diffassim.experiments.control.flood_warning_twin import (
    CostLoss,
    Threshold,
    best_threshold,
    expected_cost,
    optimum,
    river,
    warning_environment,
)
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.paired import paired_difference
from diffassim.gaussian import EKF, Gaussian
from tests.command_line import refused
from tests.experiments.test_catchment import AREA, basin

pytestmark = pytest.mark.usefixtures("command_line")


def twin(cancellation, quantile=0.9, leads=(1, 2)):
    costs = WarningCosts(10.0, 1.0, cancellation, shares=True)
    return warning_environment(leads, quantile, costs, np.dtype("float64"))


@pytest.mark.slow
def test_without_withdrawals_the_optimum_is_that_of_cost_loss():
    environment = twin(0.0)
    expected = 0.0
    for spread in np.asarray(environment.spreads):
        climate = np.sqrt(environment.variability**2 - spread**2)
        f = np.linspace(-8, 8, 20_001) * climate
        p = norm.cdf((f - environment.threshold) / spread)
        weight = np.exp(-((f / climate) ** 2) / 2)
        expected += np.sum(weight * np.minimum(10 * p, 1 - p)) / weight.sum()
    cost, actions = optimum(environment)
    np.testing.assert_allclose(cost, expected, rtol=3e-3)
    np.testing.assert_allclose(expected_cost(environment, CostLoss(environment)), expected, rtol=3e-3)
    assert (np.diff(actions, axis=0) >= 0).all()  # warned of whatever is worse


@pytest.mark.slow
def test_with_withdrawals_a_warning_is_kept_longer_and_rules_cost_more():
    environment = twin(2.0)
    cost, actions = optimum(environment)
    first = np.argmax(np.asarray(actions), axis=0)  # the lowest forecast that is warned of
    assert (first[:, 1] < first[:, 0]).all()
    ruled = expected_cost(environment, CostLoss(environment))
    threshold = best_threshold(environment)
    assert float(cost) < float(expected_cost(environment, threshold)) < float(ruled)
    moved = Threshold(threshold.thresholds + jnp.array([0.3, 0.0]))
    assert float(expected_cost(environment, threshold)) < float(expected_cost(environment, moved))


@pytest.mark.slow
def test_the_spreads_are_those_of_the_filter_along_the_river():
    found, environment = river(np.dtype("float64")), twin(1.0, leads=(1, 3))
    y = da.Observations(jnp.zeros((60, 2)), jnp.arange(1, 61), error=found.error)
    prior = Gaussian.from_covariance(jnp.zeros(2), da.covariances.Diagonal(std=3.0))
    belief, _ = da.cycle(EKF(Q=found.Q), found.model, prior, y)
    A, Q = np.asarray(found.model.A), np.diag(np.asarray(found.Q.std) ** 2)
    P, spreads = np.asarray(belief.covariance()), []
    for _ in range(3):
        P = A @ P @ A.T + Q
        spreads.append(P[0, 0] ** 0.5)
    np.testing.assert_allclose(environment.spreads, [spreads[0], spreads[2]], rtol=1e-6)
    climate = np.linalg.solve(np.eye(4) - np.kron(A, A), Q.ravel()).reshape(2, 2)
    np.testing.assert_allclose(environment.variability, climate[0, 0] ** 0.5, rtol=1e-9)
    np.testing.assert_allclose(environment.threshold, norm.ppf(0.9) * climate[0, 0] ** 0.5, rtol=1e-6)


def made_up(days=3000, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=days)
    known = np.zeros((days, 2, len(SOURCES) + len(RAIN)))
    noise = rng.normal(size=(days, 2)).cumsum(axis=1) * 0.3
    for k, factor in enumerate((3.0, 1.5, 1.0)):
        known[:, :, k] = truth[:, None] - 1.3 + factor * noise
    known[:, :, 3:] = rng.uniform(size=(days, 2, 2))
    return Known(np.arange(days), truth > 1.3, known)


@pytest.mark.long
def test_policies_that_know_more_cost_less_on_days_they_did_not_see():
    costs = WarningCosts(10.0, 1.0, 1.0)
    before, after = made_up(), made_up(seed=1)
    rules = learned(before, costs)
    assert tuple(rules) == RULES
    record = RecordedWarning(costs, after.known, after.flood)
    over = costs.over(2, np.dtype("float64"))
    paid = {name: costs_by_lead(warned(record, rule), after.flood, over).sum() for name, rule in rules.items()}
    assert paid["never"] == 20 * after.flood.sum() and paid["always"] == 2 * (~after.flood).sum()
    assert paid["threshold on analysis"] < paid["threshold on AR(1)"] < paid["threshold on discharge"] < paid["always"]
    assert max(paid["probability"], paid["planned"]) < 1.03 * paid["threshold on analysis"]
    assert paid["planned"] < 1.02 * paid["probability"]
    own = made_up()
    days = RecordedWarning(costs, own.known, own.flood)
    fitted = {name: costs_by_lead(warned(days, rule), own.flood, over).sum() for name, rule in rules.items()}
    for k, source in enumerate(SOURCES):  # no other thresholds are cheaper on the days that were learned from
        for cut in np.quantile(own.known[:, :, k], [0.85, 0.9, 0.95], axis=0):
            given = own.known[:, :, k] > cut
            assert fitted[f"threshold on {source}"] <= costs_by_lead(given, own.flood, over).sum()


def test_a_policy_for_other_leads_or_numbers_is_refused():
    record = RecordedWarning(WarningCosts(), np.zeros((4, 3, 5)), np.zeros(4))
    over = WarningCosts().over(2, np.dtype("float64"))
    assert warned(record, LevelRule(jnp.zeros(3), 4)).shape == (4, 3)
    for policy, message in (
        (LevelRule(jnp.zeros(2), 0), "made for 2 leads and 5 numbers"),
        (LevelRule(jnp.zeros(3), 5), "LevelRule was made"),
        (Probable(jnp.zeros((3, 4)), jnp.zeros(3), over), "made for 3 leads and 4 numbers"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            warned(record, policy)


def test_a_withdrawal_is_paid_at_its_lead():
    costs = WarningCosts(5.0, 1.0, 0.5).over(2, np.dtype("float64"))
    found = costs_by_lead([[0, 1], [1, 0], [0, 0], [1, 1]], [0, 1, 1, 0], costs)
    assert found.tolist() == [[0.5, 1.0], [0.0, 5.0], [5.0, 5.0], [1.0, 1.0]]


def test_paired_intervals_hold_what_is_common_and_know_dependence():
    rng = np.random.default_rng(0)
    common = rng.normal(size=2000)
    inside = []
    for _ in range(60):
        noise = np.repeat(rng.normal(size=100), 20) + 0.02
        found = paired_difference(common + noise, common, 40, resamples=400)
        inside.append(found.low < 0.02 * 2000 < found.high)
        assert found.low < found.total < found.high
    assert 0.85 <= np.mean(inside) <= 1
    assert paired_difference(np.arange(7.0), np.arange(7.0), 3) == (0, 0, 0)
    with pytest.raises(ConfigurationError, match="block=8 must lie between 1 and the 7"):
        paired_difference(np.zeros(7), np.zeros(7), 8)


@pytest.mark.long
def test_agents_come_near_the_optimum_and_a_resumed_run_is_the_same(tmp_path):
    config = FloodWarningConfiguration(
        parts=("twin",), seeds=2, agents=("Q-learning", "pathwise gradient"), misses=(10.0,), leads=(1, 2)
    )
    whole = runs.run(FloodWarnings(), config, tmp_path / "whole")

    def stop(finished, count):
        if finished == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(FloodWarnings(), config, tmp_path / "parts", stop)
    runs.resume(tmp_path / "parts")
    assert (tmp_path / "whole" / "scores.csv").read_bytes() == (tmp_path / "parts" / "scores.csv").read_bytes()
    rows = whole.scores.set_index(["method", "metric"])["value"]
    for agent in config.agents:
        assert rows[agent, "seeds_within_3_percent"] == 2 and rows[agent, "lost_seeds"] == 0
        assert -1e-9 < rows[agent, "worst_excess_percent"] < 3
    assert rows["cost-loss", "excess_percent"] > rows["threshold", "excess_percent"] > 0
    assert "2/2" in whole.table and (tmp_path / "whole" / "overview.png").stat().st_size > 10_000


@pytest.mark.long
def test_a_table_of_ones_own_through_the_command_line(tmp_path, capsys):
    basin(simulated=True).to_csv(tmp_path / "basin.csv")
    settings = {
        "file": tmp_path / "basin.csv", "area": AREA, "latitude": 45, "date": "Tag", "precipitation": "N",
        "temperature": "T", "discharge": "Q", "updates": 0, "flood_quantile": 0.9, "leads": [1, 2],
    }  # fmt: skip
    words = [f"--set={key}={value}" for key, value in settings.items()]
    main(["run", "flood-warning", *words, '--set=parts=["record"]', "--set=misses=[8]", f"--out={tmp_path / 'run'}"])
    text = capsys.readouterr().out
    assert "a miss costs 8" in text and "planned - best rule" in text and "twin" not in text.lower().split("record:")[0]
    with xr.open_dataset(tmp_path / "run" / "analysis.nc") as dataset:
        assert dataset["warning"].dims == ("miss", "rule", "time", "lead")
        given = dataset["warning"].sel(rule="always")
        assert bool((given == 1).all()) and set(np.unique(dataset["warning"])) <= {0, 1}


def test_thresholds_beyond_the_record_are_refused_before_anything_is_computed(tmp_path, capsys):
    words = ["run", "flood-warning", "--set=flood_thresholds=[5000]", f"--out={tmp_path / 'run'}"]
    said = refused(capsys, *words)
    assert "flood threshold 5000 m3/s: exceeded on 0 days of the calibration, whose highest discharge is" in said


def test_settings_are_checked():
    for wrong, message in (
        ({"misses": [-1.0]}, "misses.0"),
        ({"misses": []}, "misses"),
        ({"misses": [5.0, 5.0]}, "twice"),
        ({"misses": [0.0], "false_alarm": 0.0}, "both are zero"),
        ({"cancellation": -0.5}, "cancellation"),
        ({"false_alarm": "nan"}, "false_alarm"),
        ({"flood_quantile": 1.0}, "flood_quantile"),
        ({"flood_thresholds": [5.0, 9.0]}, "warnings are of one"),
        ({"agents": ["SARSA"]}, "there are Q-learning"),
        ({"agents": ["PPO", "PPO"]}, "one twice"),
        ({"parts": ["lake"]}, "parts"),
        ({"file": "basin.csv", "area": 10.0}, "latitude: must be set for a file of your own"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_configuration(FloodWarningConfiguration, wrong, "flood-warning")


def test_a_file_of_ones_own_has_the_settings_of_any_catchment():
    found = FloodWarningConfiguration(file="basin.csv", area="8640 ha", latitude=45)
    assert (found.precipitation, found.discharge, found.date_format) == ("precipitation", "discharge", "")
    assert found.calibration_start is None and found.verification_end is None and found.area == 86.4
    assert FloodWarningConfiguration().discharge == "Q" and FloodWarningConfiguration().area == 2976.41
    again = FloodWarningConfiguration(**found.model_dump(mode="json", exclude_none=True))
    assert again == found
    assert jax.tree.leaves(found.costs(3.0)) == [3.0, 1.0, 1.0]


def test_batches_of_seeds_are_all_of_them():
    config = FloodWarningConfiguration(seeds=7, agents=("PPO",))
    assert config.runs() == [("PPO", 0, 5), ("PPO", 5, 2)]
    assert FloodWarningConfiguration(parts=("record",)).runs() == []
