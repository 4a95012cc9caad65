"""The regulated lake: nothing looks ahead, plans beat rules below their bound, and kept policies are judged again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

from diffassim.cli import main
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.decisions import Basin, Lake, episode_returns
from diffassim.experiments.control.reservoir import Reservoir, ReservoirConfiguration
from diffassim.experiments.control.reservoir_contenders import Contender, fitted, judged, kept_like, subset
from diffassim.experiments.control.reservoir_data import fulda_years
from diffassim.experiments.control.reservoir_filter import Components, analyses
from diffassim.experiments.control.reservoir_outlook import SIGHTS, Outlook, averaged
from diffassim.experiments.control.reservoir_planning import LookAhead, foresight, plan
from diffassim.experiments.control.reservoir_rules import RuleCurve, simulate
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.io.catchment import CatchmentRecord
from diffassim.io.lake_years import LakeYears

COMO = Path(os.environ.get("DIFFASSIM_TEST_DATA", Path(__file__).parents[2] / "data")) / "como_regulation.csv"
DAYS = 60
SMALL = {"days": DAYS, "folds": 2, "seeds": 1, "effort": 0.02, "sights": ("nothing",)}


def made_up(years=6, days=DAYS, seed=0):
    """Return years with a season, persistent inflow, and a demand that follows it."""
    rng = np.random.default_rng(seed)
    x, z = np.zeros((years, days)), np.zeros((years, days))
    for day in range(1, days):
        x[:, day] = 0.8 * x[:, day - 1] + 0.6 * rng.standard_normal(years)
        z[:, day] = 0.9 * z[:, day - 1] + 0.05 * x[:, day] + 0.1 * rng.standard_normal(years)
    season = 1 - 0.4 * np.cos(2 * np.pi * np.arange(days) / days)
    return LakeYears("made up", np.arange(years), 140 * np.exp(0.7 * x) / season, 150 * season * np.exp(z))


def anomalies(outlook, record):
    """Return anomalies of inflow, and of averaged demand in the second morning."""
    own = jax.tree.map(lambda leaf: np.asarray(leaf, float), outlook)
    average = 0.8 * own.first + 0.2 * record.demand[:, 0]
    x = (np.log(record.inflow + own.small[0]) - own.center) / own.scale
    return x, np.log(average + own.small[1]) - own.demand_center[1]


def written(record, path):
    rows = [(2000 + y, d + 1) for y in range(len(record.years)) for d in range(record.inflow.shape[1])]
    frame = pd.DataFrame(rows, columns=["year", "day"])
    frame.assign(inflow=record.inflow.ravel(), demand=record.demand.ravel()).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("sight", SIGHTS)
def test_features_do_not_change_with_what_comes_and_fits_not_with_years_left_out(sight):
    record = made_up()
    outlook = Outlook.fit(record, np.arange(4), sight)
    before, day = outlook.features(record), 25
    later = record._replace(inflow=record.inflow.copy(), demand=record.demand.copy())
    later.inflow[:, day:] *= 3
    later.demand[:, day:] *= 2
    after = outlook.features(later)
    np.testing.assert_array_equal(before[:, : day + 1], after[:, : day + 1])
    assert (before[:, day + 1] != after[:, day + 1]).any()  # averaged demand at least
    left_out = record._replace(inflow=record.inflow.copy())
    left_out.inflow[4:] = 1.0
    same = Outlook.fit(left_out, np.arange(4), sight)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), outlook, same))


def test_the_filter_is_the_exact_conditional_mean():
    components = Components(np.array([0.5, 0.95]), np.array([0.6, 0.3]), 0.1)
    x = np.random.default_rng(0).standard_normal((2, 6))
    lag = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    each = [v * m**lag for m, v in zip(components.memory, components.variance, strict=True)]
    total = each[0] + each[1] + components.noise * np.eye(6)
    for day in (0, 3, 5):
        own = [part[day, : day + 1] @ np.linalg.solve(total[: day + 1, : day + 1], x[:, : day + 1].T) for part in each]
        np.testing.assert_allclose(analyses(components, x)[:, day], np.stack(own, -1), rtol=1e-9, atol=1e-12)


def test_components_of_a_record_are_found_again():
    rng = np.random.default_rng(0)
    f, g = np.zeros((2, 200, 300))
    for day in range(1, 300):
        f[:, day] = 0.5 * f[:, day - 1] + 0.75**0.5 * rng.standard_normal(200)
        g[:, day] = 0.96 * g[:, day - 1] + (0.5 * (1 - 0.96**2)) ** 0.5 * rng.standard_normal(200)
    found = Components.fit((f + g)[:, 100:])
    np.testing.assert_allclose(found.memory, [0.5, 0.96], atol=0.1)
    np.testing.assert_allclose(found.variance, [1.0, 0.5], atol=0.2)


def test_laws_are_those_that_made_the_years():
    record = made_up(years=80)
    outlook = Outlook.fit(record, np.arange(80), "belief")
    x = anomalies(outlook, record)[0]
    features = outlook.features(record)
    error = (x - features[..., 0])[:, 5:]
    assert abs(error.mean()) < 0.02 and error.std() == pytest.approx(float(features[:, 5:, 1].mean()), rel=0.1)
    assert error.std() < 0.8 * x.std()
    expected = features[:, 5:, 6]
    assert np.corrcoef(np.log(expected).ravel(), np.log(record.demand[:, 5:]).ravel())[0, 1] > 0.95
    np.testing.assert_allclose(averaged(record.demand, 0.0)[:, 1], 0.2 * record.demand[:, 0])


@pytest.mark.slow
def test_no_policy_is_above_foresight_and_the_plan_is_above_the_rules():
    record, basin = made_up(years=24), Basin()
    outlook = Outlook.fit(record, np.arange(24), "belief")
    lake = Lake(record.inflow, record.demand, outlook.features(record), basin=basin)
    bound = np.asarray(foresight(lake)[0]).sum(1)
    look = LookAhead(outlook, plan(outlook, basin, DAYS), basin)
    rule = RuleCurve(jnp.array([0.7, 0, 0, 0, 0, 1.1, 0.4, 1.0]), jnp.asarray(150.0), basin, DAYS)
    found = {}
    for name, policy in (("plan", look), ("rule", rule), ("all", lambda seen, key: jnp.full(1, 491.61))):
        policy = jax.tree_util.Partial(policy) if name == "all" else policy
        rewards, levels, releases = simulate(lake, policy)
        found[name] = np.asarray(rewards).sum(1)
        assert (found[name] <= bound + 0.005 * np.abs(bound) + 5).all()  # foresight interpolates between nodes
        stored = np.diff(np.asarray(levels), axis=1) * 145.9e6 / 86400
        np.testing.assert_allclose(record.inflow[:, 1:] - stored, releases[:, 1:], rtol=1e-6, atol=1e-6)
    assert found["plan"].mean() > found["rule"].mean() + 0.1 * abs(found["rule"].mean())
    starts = jax.vmap(lake.year_start)(jnp.arange(24))
    returns = episode_returns(lake, rule, jax.random.key(0), 24, starts=starts)
    np.testing.assert_allclose(returns, found["rule"], rtol=1e-10)


@pytest.mark.slow
def test_values_of_a_plan_are_what_it_brings_where_its_laws_hold():
    record = made_up(years=150)
    outlook, basin = Outlook.fit(record, np.arange(150), "inflow"), Basin()
    found = plan(outlook, basin, DAYS)
    rewards = judged_by(outlook, basin, record)
    # from the first evening on: the value of where each year then is
    x, z = anomalies(outlook, record)
    promised = [
        interpolated(found, level, anomaly, demand)
        for level, anomaly, demand in zip(rewards[1][:, 0], x[:, 0], z, strict=True)
    ]
    happened = rewards[0][:, 1:].sum(1)
    error = happened.std() / len(happened) ** 0.5
    assert abs(np.mean(promised) - happened.mean()) < 4 * error + 0.1 * abs(happened.mean())  # nodes are coarse


def judged_by(outlook, basin, record):
    lake = Lake(record.inflow, record.demand, outlook.features(record), basin=basin)
    return [np.asarray(v) for v in simulate(lake, LookAhead(outlook, plan(outlook, basin, DAYS), basin))]


def interpolated(found, *point):
    from diffassim.decisions.grid import grid_weights

    axes = (found.levels, found.anomalies, found.demands)
    index, weights = grid_weights(axes, jnp.asarray(point, found.levels.dtype))
    return float(weights @ found.values[0].reshape(-1)[index])


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["rule curve", "plan", "pathwise", "PPO"])
def test_actions_do_not_change_with_what_comes(agent):
    record, basin = made_up(), Basin()
    config = ReservoirConfiguration(**SMALL)
    rules = np.tile([0.7, 0, 0, 0, 0, 1.1, 0.4, 1.0, 0.3, 0.1], (1, 1))
    kept, _, _ = fitted(Contender(agent, "belief"), record, basin, [np.arange(4)], rules, config)
    later = subset(record, np.arange(4, 6))
    later.inflow[:, 30:] *= 3
    later.demand[:, 30:] *= 2
    plain = judged(kept[0], subset(record, np.arange(4, 6)), basin, "float64")
    other = judged(kept[0], later, basin, "float64")
    for a, b in zip(plain[1:], other[1:], strict=True):  # levels and releases
        np.testing.assert_array_equal(a[:, :30], b[:, :30])
    like = kept_like(Contender(agent, "belief"), basin, DAYS, 1)
    assert jax.tree.structure(like) == jax.tree.structure(kept[0])
    assert all(a.shape == b.shape for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(kept[0]), strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reservoir")
    config = ReservoirConfiguration(table=written(made_up(), folder / "lake.csv"), **SMALL)
    return config, runs.run(Reservoir(), config, folder / "run"), folder


@pytest.mark.long
def test_a_run_has_all_policies_beside_the_rule_and_the_bound(finished):
    config, results, folder = finished
    returns = results.scores[results.scores["metric"] == "mean_return"].set_index("method")["value"]
    assert list(returns.index) == ["perfect foresight", *(each.name for each in config.contenders())]
    assert returns.max() == returns["perfect foresight"] and results.counted == 5
    assert np.isfinite(returns).all()  # three years tell a plan too little to be above a rule
    assert (folder / "run" / "overview.png").stat().st_size > 10_000
    shares = results.scores[results.scores["metric"] == "years_better"]["value"]
    assert len(shares) == 4 and shares.between(0, 1).all()
    table = Reservoir().check(config)
    assert "6 years" in table and "mean inflow" in table
    again = runs.score(folder / "run")
    pd.testing.assert_frame_equal(again.scores, results.scores)


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_with_the_same_result(tmp_path):
    table = written(made_up(), tmp_path / "lake.csv")
    config = ReservoirConfiguration(table=table, **SMALL | {"agents": ("rule curve", "plan")})
    runs.run(Reservoir(), config, tmp_path / "whole")

    def stop(done, count):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(Reservoir(), config, tmp_path / "parts", stop)
    runs.resume(tmp_path / "parts")
    for name in ("scores.csv", "table.txt"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.long
def test_kept_policies_are_judged_in_other_years_and_refused_when_altered(finished, command_line, capsys, tmp_path):
    _, _, folder = finished
    other = written(made_up(years=3, seed=5), tmp_path / "other.csv")
    main(["score", str(folder / "run"), "--against", str(other), "--out", str(tmp_path / "scores.csv")])
    text = capsys.readouterr().out
    assert "3 years of other.csv" in text and "pathwise" in text and "perfect foresight" in text
    scores = pd.read_csv(tmp_path / "scores.csv")
    returns = scores[scores["metric"] == "mean_return"].set_index("method")["value"]
    assert len(returns) == 5 and returns.max() == returns["perfect foresight"]

    def refused(words, *arguments):
        with pytest.raises(SystemExit) as error:
            main(["score", *map(str, arguments)])
        assert error.value.code == 2
        assert words in capsys.readouterr().err

    short = written(made_up(years=2, days=DAYS - 1), tmp_path / "short.csv")
    refused("has 59 of 60 days", folder / "run", "--against", short)
    refused("leave out --layout", folder / "run", "--against", other, "--set", "time=day")
    altered = tmp_path / "altered"
    shutil.copytree(folder / "run", altered)
    manifest = json.loads((altered / "policies" / "manifest.json").read_text())
    victim = altered / "policies" / "arrays" / next(iter(manifest["files"]))
    victim.write_bytes(victim.read_bytes() + b" ")
    refused("was changed", altered, "--against", other)
    shutil.rmtree(altered / "policies")
    refused("is it a checkpoint?", altered, "--against", other)
    text = (altered / "config.toml").read_text()
    (altered / "config.toml").write_text("\n".join(line for line in text.splitlines() if not line.startswith("table")))
    refused("not for the lake of a table", altered, "--against", other)
    (altered / "analysis.nc").unlink()
    refused("finish the run", altered, "--against", other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agents": ("plan",)}, "must include 'rule curve'"),
        ({"agents": ("rule curve", "SARSA")}, "found 'SARSA'"),
        ({"sights": ("belief",)}, "must include 'nothing'"),
        ({"sights": ("nothing", "nothing")}, "found one twice"),
        ({"folds": 1}, "folds"),
        ({"days": 400}, "days"),
    ],
)
def test_settings_that_make_no_comparison_are_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        build_configuration(ReservoirConfiguration, settings, "reservoir")


def test_a_table_of_few_years_makes_no_blocks(tmp_path):
    config = ReservoirConfiguration(table=written(made_up(years=3), tmp_path / "lake.csv"), **SMALL)
    with pytest.raises(ConfigurationError, match="two years in a block are the least"):
        runs.run(Reservoir(), config, tmp_path / "run")
    with pytest.raises(DataError, match="has a day 60"):
        Reservoir().check(config.model_copy(update={"days": 59}))


def test_the_demand_on_the_fulda_knows_nothing_of_the_day():
    dates = pd.date_range("1980-01-01", "1983-12-31")
    flow = np.random.default_rng(0).uniform(5, 50, len(dates))
    flow[400] = np.nan
    record = CatchmentRecord(dates, flow * 86.4 / 2976.41, *(np.zeros(len(dates)) for _ in range(3)), 2976.41)
    found = fulda_years(record, 365)
    assert found.years.tolist() == [1981, 1982, 1983] and found.inflow.shape == (3, 365)
    assert found.inflow[0, 34] == found.inflow[0, 33] == pytest.approx(flow[399])  # what is missing is as it was
    assert found.demand.mean() == pytest.approx(0.8 * np.nanmean(flow), rel=0.05)


@pytest.mark.slow
def test_a_rule_on_lake_como_costs_what_it_did():
    from diffassim.io.lake_years import read_lake_years

    if not COMO.exists():
        pytest.skip(f"{COMO.name} is not in {COMO.parent}; set DIFFASSIM_TEST_DATA to where it is (gym4ReaL)")
    record = read_lake_years(COMO)
    assert record.inflow.shape == (52, 365)
    rule = RuleCurve(jnp.array([0.589, -0.071, -0.084, 0.055, 0.073, 1.247, 0.422, 1.7]), jnp.asarray(91.0), Basin())
    rewards = simulate(Lake(record.inflow, record.demand), rule)[0]
    assert -14800 < float(np.asarray(rewards).sum(1).mean()) < -13000
