"""The benchmark of learned assimilation: verdicts, the command, and the protocols of its rows."""

from __future__ import annotations

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("pandas")

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.experiments.learning import bench
from diffassim.experiments.learning.bench import Row, Score, Settings, measure, train
from diffassim.experiments.learning.kolmogorov_runs import Motion, VelocitySensors
from diffassim.experiments.learning.kolmogorov_runs import model as kolmogorov_model
from diffassim.experiments.learning.rows import (
    LEFT_OUT,
    ROWS,
    data_scarcity,
    ensemble_update,
    find_row,
    fusion,
    inverse_operator,
    kolmogorov_flow,
    learned_solver,
    online_correction,
    single_state_analysis,
    stochastic_lorenz63,
    windows_without_truth,
)
from diffassim.experiments.learning.rows.stochastic_smoother import train_smoother
from diffassim.learned import CorrectedModel, LearnedCovarianceAnalysis, Network, Normalized, Remembered, SurrogateModel
from diffassim.models import Lorenz96, rollout


def guess(settings):
    return [Score("guess", 1.0 + settings.seed, "learned", 3.0, 2.5), Score("yardstick", 2.0, "classical")]


GUESS = Row("L0", "guessing", "error", "nobody", guess)


def test_every_row_is_named_once_and_has_a_source():
    assert not set(ROWS) & set(LEFT_OUT)
    for name in ROWS:
        row = find_row(name)
        assert row.name == name and row.title and row.metric and row.source
    with pytest.raises(ConfigurationError, match="no row 'L99'"):
        find_row("L99")


def test_each_score_is_told_when_it_is_known():
    def one_after_the_other(settings):
        yield Score("first", 1.0 + settings.seed)
        assert told[-1] == f"L0, seed {settings.seed}, first: {1.0 + settings.seed:g}"
        yield Score("second", 2.0)

    told = []
    row = Row("L0", "guessing", "error", "nobody", one_after_the_other)
    outcomes = measure(row, seeds=2, settings=Settings(seed=3, note=told.append))
    assert [outcome.values.tolist() for outcome in outcomes] == [[4.0, 5.0], [2.0, 2.0]] and len(told) == 4


def test_outcomes_are_means_over_seeds_held_to_the_aim():
    learned, yardstick = measure(GUESS, seeds=3)
    assert learned.values.tolist() == [1.0, 2.0, 3.0] and learned.mean == 2.0 and learned.reached == "yes"
    assert abs(learned.standard_error - 1 / 3**0.5) < 1e-12
    assert yardstick.reached == "" and yardstick.standard_error == 0.0
    assert measure(GUESS, settings=Settings(seed=3))[0].reached == "no"
    higher = Row("L0", "guessing", "skill", "nobody", guess, higher=True)
    assert measure(higher, settings=Settings(seed=3))[0].reached == "yes"
    lost = Row("L0", "guessing", "error", "nobody", lambda settings: [Score("guess", np.nan, aim=1.0)])
    assert measure(lost, seeds=2)[0].reached == "no"  # a run that is lost never counts as reached
    for wrong in ({"seeds": 0}, {"settings": Settings(minutes=0.0)}):
        with pytest.raises(ConfigurationError, match="L0"):
            measure(GUESS, **wrong)
    with pytest.raises(ConfigurationError, match="kind='known'"):
        Score("guess", 1.0, "known")


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_the_command_prints_and_writes_a_table(capsys, tmp_path, monkeypatch, suffix):
    from diffassim.cli import main

    monkeypatch.setattr("warnings.showwarning", None)
    monkeypatch.setattr("diffassim.cli.benches.configure_jax", lambda dtype: None)
    monkeypatch.setattr("diffassim.experiments.learning.rows.find_row", lambda name: GUESS)
    path = tmp_path / f"scores.{suffix}"
    main(["bench", "learned", "L0", "--seeds", "2", "--out", str(path)])
    shown = capsys.readouterr()
    assert "yardstick" in shown.out and "1.500" in shown.out and "2.5" in shown.out
    assert shown.err.count("\n") == 4 and "diffassim: L0, seed 1, " in shown.err
    rows = json.loads(path.read_text()) if suffix == "json" else list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 2 and float(rows[0]["mean"]) == 1.5 and rows[0]["reached"] == "yes"
    monkeypatch.undo()
    main(["bench", "learned", "--list"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*ROWS, *LEFT_OUT))
    for wrong in (["L99"], ["L11", "--out", "scores.txt"]):
        with pytest.raises(SystemExit):
            main(["bench", "learned", *wrong])
        assert capsys.readouterr().err.count("\n") == 1


def test_a_row_that_fails_takes_no_scores_of_others_along(capsys, monkeypatch):
    from diffassim.cli import main

    def fail(settings):
        yield Score("first of two", 7.25)
        raise ConfigurationError("L00: lost its way")

    rows = {"L0": GUESS, "L00": Row("L00", "failing", "error", "nobody", fail)}
    monkeypatch.setattr("warnings.showwarning", None)
    monkeypatch.setattr("diffassim.cli.benches.configure_jax", lambda dtype: None)
    monkeypatch.setattr("diffassim.experiments.learning.rows.find_row", rows.get)
    with pytest.raises(SystemExit):
        main(["bench", "learned", "L0", "L00"])
    shown = capsys.readouterr()
    assert "yardstick" in shown.out and "first of two: 7.25" in shown.err and "lost its way" in shown.err


def test_training_keeps_to_its_updates_or_to_its_time(monkeypatch):
    told = []

    def loss(w, x, key):
        return jnp.mean((w - x) ** 2)

    options = {"name": "a mean", "updates": 300, "rate": 0.1, "batch_size": 4, "chunk": 50}
    data = jnp.full(8, 3.0)
    found = train(loss, jnp.zeros(()), data, settings=Settings(minutes=10.0, tell=told.append), **options)
    assert int(found.state.step) == 300 and abs(float(found.trained) - 3) < 1e-2
    found = train(loss, jnp.zeros(()), data, settings=Settings(minutes=1e-9, tell=told.append), **options)
    assert int(found.state.step) == 50 and "50 of 300" in told[-1]  # never nothing, and it says so


def test_the_stochastic_model_is_the_law_of_its_windows():
    windows = stochastic_lorenz63.draw(jax.random.key(0), 3)
    models = stochastic_lorenz63.given_model(windows, wrong=False)
    dt, a = stochastic_lorenz63.DT, stochastic_lorenz63.NOISE

    def again(model, truth):
        """Return the trajectory that the model makes with the noise that the truth had."""
        still = {"x": truth, "noise": jnp.zeros((truth.shape[0], 2)), "error": jnp.zeros(truth.shape[0])}
        steps = jnp.arange(truth.shape[0] - 1)
        drift = jax.vmap(model.step)(jax.tree.map(lambda leaf: leaf[:-1], still), steps)["x"]
        noise = (truth[1:] - drift)[:, 1:] / (a * dt**0.5 * truth[:-1, 1:])
        first = {"x": truth[0], "noise": noise[0], "error": jnp.zeros(())}
        forcing = {
            "x": jnp.zeros((noise.shape[0], 3)), "error": jnp.zeros(noise.shape[0]),
            "noise": jnp.concatenate([noise[1:], jnp.zeros((1, 2))]),
        }  # fmt: skip
        return rollout(model, first, noise.shape[0], forcing=forcing)["x"], noise

    found, noise = jax.vmap(again)(models, windows.truth)
    np.testing.assert_allclose(found, windows.truth, atol=1e-9)  # X has no noise: it would show any other law
    assert abs(float(jnp.std(noise)) - 1) < 0.1
    assert windows.values.shape == (3, 15, 3) and windows.truth.shape == (3, 300, 3)


def test_parameters_and_forcing_of_the_wrong_model_are_what_the_protocol_says():
    windows = stochastic_lorenz63.draw(jax.random.key(1), 2)
    model = stochastic_lorenz63.given_model(windows, wrong=True)
    given = jnp.stack([model.sigma, model.rho, model.beta], axis=1)
    np.testing.assert_allclose(given / windows.parameters, jnp.array([[0.85, 0.85, 1.15]] * 2))
    assert model.coupling.tolist() == [0.85] * 2 and model.exponent.tolist() == [1.0] * 2
    added = windows.wrong_forcing - windows.forcing - 0.1 * windows.truth[:, :, 0]
    assert 0.05 < float(jnp.std(added)) < 2.0 and float(jnp.max(jnp.abs(jnp.diff(added)))) < 0.5  # red, not white


def test_the_closure_is_found_where_it_is_the_truth():
    weights = jnp.array([0.001, 0.01, -1.0, -0.5])
    model = Lorenz96(forcing=data_scarcity.FORCING, dt=0.005)
    law = CorrectedModel(model, Network(data_scarcity.cubic, weights))
    samples = rollout(law, 4 + 3 * jax.random.normal(jax.random.key(0), (8,)), 400)[None, 1:]
    found = data_scarcity.regress(samples, 1)
    np.testing.assert_allclose(found.model.network.weights, weights, atol=1e-9)
    assert float(found.std) < 1e-9


def test_the_learned_error_model_is_a_density():
    network = Network(lambda w, features: jnp.broadcast_to(w, (*features.shape[:-1], 2)), jnp.array([0.5, -0.7]))
    errors = jnp.linspace(-300.0, 300.0, 600_001)
    p = jnp.exp(data_scarcity.log_density(network, jnp.zeros((errors.size, 1)), errors, jnp.asarray(1.0)))
    total = float(jnp.sum(p) * (errors[1] - errors[0]))
    assert abs(total - 1) < 1e-5
    assert abs(float(jnp.sum(p * errors) * (errors[1] - errors[0])) - 0.5) < 1e-3


def test_settings_of_seeds_have_their_own_keys():
    first, second = (jax.random.key_data(Settings(seed=k).key) for k in range(2))
    assert not np.array_equal(first, second) and bench.KINDS == ("learned", "classical")


def test_the_untrained_analysis_is_a_constant_gain_and_the_same_everywhere():
    row = single_state_analysis
    analysis = row.untrained(Settings())
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = (jax.random.normal(k, (row.N,), jnp.float32) for k in keys[:2])
    observations = da.Observations(y[None], [1], error=da.covariances.Diagonal(std=jnp.ones((), jnp.float32)))
    found, _ = analysis.analyze(None, Remembered(x, analysis.memory), observations)
    np.testing.assert_allclose(found.state, x + 0.2 * (y - x), rtol=1e-4, atol=1e-5)
    noisy = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(keys[2], w.shape, w.dtype), analysis.network)
    memory = jax.random.normal(keys[2], (row.N, row.MEMORY), jnp.float32)
    here = noisy(x, y, memory)
    there = noisy(jnp.roll(x, 7), jnp.roll(y, 7), jnp.roll(memory, 7, axis=0))
    for a, b in ((here[0].weights, there[0].weights), (here[1], there[1])):
        np.testing.assert_allclose(jnp.roll(a, 7, axis=0), b, atol=1e-4)
    assert float(jnp.std(here[0].weights, axis=0).max()) > 0.1


@pytest.mark.slow
@pytest.mark.long
def test_the_expected_error_is_that_of_the_analysis_and_least_for_the_gain_of_kalman():
    row = single_state_analysis
    truth, belief, P = jax.tree.map(lambda leaf: leaf[0], row.first(jax.random.key(0), 1))
    derivative = jax.jacfwd(lambda x: row.model().step(x, 0))(belief.state)
    forecast_errors = derivative @ (0.2 * P) @ derivative.T + row.MODEL_ERROR * jnp.eye(row.N, dtype=P.dtype)
    factor = jnp.linalg.cholesky(forecast_errors)
    known = da.covariances.Dense(factor)
    found = {}
    for name, B in (("right", known), ("too small", 0.5 * known), ("too large", 2.0 * known)):
        analysis = LearnedCovarianceAnalysis(Network(lambda w, x, g, m, B=B: (B, m + 1)), belief.memory, tolerance=1e-6)
        after_truth, after, errors = row.expected(analysis, truth, belief, 0.2 * P, jax.random.key(1))
        y = after_truth + jax.random.normal(jax.random.key(1), truth.shape, truth.dtype)
        observations = da.Observations(y[None], [1], error=da.covariances.Diagonal(std=jnp.ones((), truth.dtype)))
        expected, _ = da.cycle(analysis, row.model(), belief, observations)
        np.testing.assert_allclose(after.state, expected.state, rtol=1e-3, atol=1e-3)
        assert np.array_equal(after.memory, expected.memory)
        found[name] = errors
    best = forecast_errors - forecast_errors @ jnp.linalg.solve(
        forecast_errors + jnp.eye(row.N, dtype=P.dtype), forecast_errors
    )
    np.testing.assert_allclose(found["right"], best, atol=1e-4)
    assert jnp.trace(found["right"]) < min(jnp.trace(found["too small"]), jnp.trace(found["too large"]))


def test_windows_of_lorenz63_are_trajectories_and_a_perfect_model_has_no_loss(monkeypatch):
    row = learned_solver
    for name, count in (("TRAINING", 3), ("HELD", 4), ("TEST", 2)):
        monkeypatch.setattr(row, name, count)
    windows, model = row.draw(jax.random.key(0)), da.models.Lorenz63(dt=0.01)
    assert windows.training.shape == (3, 200, 3) and windows.test.shape == (2, 200, 3)
    np.testing.assert_allclose(rollout(model, windows.test[1, 0], 20), windows.test[1, :21], rtol=1e-9)
    change = Network(lambda w, x: model.step(x, 0) - x)
    perfect = SurrogateModel(Normalized(change), dt=0.01)
    perfect = perfect.replace(network=perfect.network.replace(spread=jnp.ones(3)))
    assert float(row.model_loss(perfect, windows.training, jax.random.key(1))) < 1e-20
    values = row.observe(windows.training, jax.random.key(2))
    assert values.shape == (3, 23, 3)
    inverse = row.Inverse(lambda seen: seen.reshape(23, 3)[0], jnp.ones(3), jnp.full(3, 2.0))
    obs = da.Observations(values[0], row.OBSERVED, error=da.covariances.Diagonal(std=1.0))
    np.testing.assert_allclose(inverse((obs,)), values[0, 0], rtol=1e-12)  # normalized there and back
    assert windows.held.shape[0] == 4 and row.error_of(inverse, windows.held, jax.random.key(3)).factor.shape == (3, 3)


def test_the_inverse_keeps_what_was_observed_and_is_the_same_at_every_site():
    row = inverse_operator
    w = jax.random.normal(jax.random.key(0), (3 * row.SNAPSHOTS, row.APART - 1))

    def neighbouring(w, seen):
        around = jnp.concatenate([jnp.roll(seen, k, axis=0) for k in (-1, 0, 1)], axis=1)
        return jnp.sin(around @ w)

    inverse = row.Inverse(Network(neighbouring, w))
    values = row.CENTER + row.SPREAD * jax.random.normal(jax.random.key(1), (row.SNAPSHOTS, row.N // row.APART))
    state = inverse.state(values)
    assert state.shape == (row.N,)
    np.testing.assert_array_equal(state[:: row.APART], values[0])
    shifted = inverse.state(jnp.roll(values, 2, axis=1))
    np.testing.assert_allclose(shifted, jnp.roll(state, 2 * row.APART), rtol=1e-12)


def test_the_loss_without_truth_is_the_cost_that_4dvar_minimizes():
    row = windows_without_truth
    truth = row.truths(jax.random.key(0), 2, row.STEPS + 2)
    records = row.observe(truth, jax.random.key(1))
    assert abs(float(jnp.mean(~jnp.isnan(records))) - row.SHARE) < 0.05
    still = row.Smoother(Network(lambda w, seen: w * jnp.ones((row.N, 1), jnp.float32), jnp.zeros((), jnp.float32)))
    zero = jnp.zeros((), jnp.float32)
    idle = row.Refinement(Network(lambda w, seen: w * jnp.ones((row.N, 2 + row.MEMORY), seen.dtype), zero), zero)
    background = row.CENTER * jnp.ones(row.N, jnp.float32)
    found = row.loss(row.Refined(still, idle), records[:, :-1], jax.random.key(2))  # a single window fits
    costs = [row.cost_of(record[:-1]) for record in records]
    expected = np.mean([cost(cost.control()) for cost in costs]) / (row.SHARE * row.N * (row.STEPS + 1))
    np.testing.assert_allclose(float(found), expected, rtol=1e-4)
    for method, gradients in ((still, 0), (row.Refined(still, idle), 1 + row.REFINEMENTS)):
        states, left, work = row.middles(records[:, :-1], method)
        np.testing.assert_allclose(
            states[0], rollout(row.model(row.DT, row.PRECISION), background, row.HALF)[-1], rtol=1e-4
        )
        np.testing.assert_allclose(np.mean(left), expected * row.SHARE * row.N * (row.STEPS + 1), rtol=1e-4)
        np.testing.assert_array_equal(work, gradients)


@pytest.mark.slow
def test_untrained_refinements_of_a_window_descend_and_are_the_same_at_every_variable():
    row = windows_without_truth
    records = row.observe(row.truths(jax.random.key(0), 4, row.STEPS + 1), jax.random.key(1))
    networks = row.untrained(Settings())
    left = [row.middles(records, method)[1] for method in (networks.smoother, networks)]
    assert bool(jnp.all(left[1] < left[0]))
    noisy = jax.tree.map(
        lambda w: w + 0.1 * jax.random.normal(jax.random.key(2), w.shape, w.dtype), networks.refinement
    )
    x, slope = jax.random.normal(jax.random.key(3), (2, row.N), jnp.float32)
    memory = jax.random.normal(jax.random.key(4), (row.N, row.MEMORY), jnp.float32)
    here = noisy({"state": x}, {"state": slope}, memory)
    there = noisy({"state": jnp.roll(x, 7)}, {"state": jnp.roll(slope, 7)}, jnp.roll(memory, 7, axis=0))
    np.testing.assert_allclose(jnp.roll(here[0]["state"], 7), there[0]["state"], atol=1e-4)
    np.testing.assert_allclose(jnp.roll(here[1], 7, axis=0), there[1], atol=1e-4)
    assert float(jnp.std(here[0]["state"])) > 1e-3


def test_a_kind_that_is_hidden_has_no_influence_on_the_fusion():
    row = fusion
    assert abs(float(row.beam(jnp.full(row.N, 3.0), jnp.array([[39.7]]))[0]) - 3) < 1e-12
    x = jax.random.normal(jax.random.key(0), (row.N,))
    np.testing.assert_allclose(
        row.beam(jnp.roll(x, 1), jnp.array([[0.25]])), row.beam(x, jnp.array([[39.25]])), rtol=1e-12
    )
    seen = row.observe(x, jax.random.key(1))
    total = Network(
        lambda w, tokens, queries: (
            jnp.ones((queries.shape[0], 1))
            * sum(jnp.sum(jnp.where(mask, values[:, 0], 0)) for values, mask in tokens.values())
        )
    )
    shown = {"gauge": jnp.asarray(True), "beam": jnp.asarray(False)}
    other = seen | {"beam": (seen["beam"][0] + 5, seen["beam"][1])}
    np.testing.assert_array_equal(row.encoded(total, seen, shown), row.encoded(total, other, shown))
    moved = seen | {"gauge": (seen["gauge"][0] + 5, seen["gauge"][1])}
    assert float(jnp.max(jnp.abs(row.encoded(total, seen, shown) - row.encoded(total, moved, shown)))) > 1


def test_the_aim_of_online_learning_is_a_share_of_the_gap_that_offline_leaves(monkeypatch):
    import pandas as pd

    row = online_correction
    errors = dict(zip(row.METHODS, (0.5, 0.3, 0.25, 0.2), strict=True))
    rows = [
        {"method": method, "variable": "slow", "lead": lead, "metric": "rmse", "value": error * (1 + lead)}
        for method, error in errors.items()
        for lead in (0.0, row.FORECAST)
    ]

    class Finished:
        scores = pd.DataFrame(rows)

    monkeypatch.setattr(row, "run_experiment", lambda experiment, config, path, tell: Finished)
    scores = {score.method: score for score in row.run(Settings())}
    assert scores["offline"].aim is None and abs(scores["online"].aim - 0.22) < 1e-12
    assert scores["perfect model"].kind == "classical" and scores["online"].value == 0.25


@pytest.mark.slow
def test_the_untrained_update_is_the_letkf_and_the_network_is_the_same_every_four_variables():
    row, size = ensemble_update, ensemble_update.SIZES[10]
    method = row.untrained(size, Settings())
    truth, belief = row.first(jax.random.key(0), 2, 10)
    key = jax.random.key(1)
    _, _, error = row.cycled(method, truth[0], jax.tree.map(lambda leaf: leaf[0], belief), key, 3)
    _, _, expected = row.cycled(method.filter, truth[0], belief.state[0], key, 3)
    np.testing.assert_allclose(error, expected, rtol=1e-4)
    noisy = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(key, w.shape, w.dtype), method.network)
    draws = jax.random.uniform(key, (5, row.N), jnp.float32, 0.5, 2.0)
    seen = dict(zip(("prior_mean", "prior_spread", "mean", "spread", "pull"), draws, strict=True))
    memory = jax.random.normal(key, (row.N, row.MEMORY), jnp.float32)
    here = noisy(seen, memory)
    there = noisy({name: jnp.roll(field, 4) for name, field in seen.items()}, jnp.roll(memory, 4, axis=0))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(jnp.roll(a, 4, axis=0), b, atol=1e-4)
    assert float(jnp.std(here[0])) > 0.05


@pytest.mark.slow
def test_lanes_that_are_lost_start_again_and_others_go_on(monkeypatch):
    row, size = ensemble_update, ensemble_update.SIZES[10]
    method = row.untrained(size, Settings())
    truth, belief = row.attracted(jax.random.key(0), 2, 10)
    carry = truth, belief.replace(memory=belief.memory + 1)
    for limit, lost in ((row.LOST, 0.0), (0.0, 1.0)):
        monkeypatch.setattr(row, "LOST", limit)
        loss = row.loss_of(method.filter)
        value, metrics, (after, cycled) = loss((method.network, method.memory), None, jax.random.key(1), carry)
        assert np.isfinite(value) and float(metrics["lost"]) == lost
        assert bool(jnp.all(cycled.memory == 0)) == bool(lost)
        assert float(jnp.sqrt(jnp.mean((jnp.mean(cycled.state, axis=1) - after) ** 2))) < 3


@pytest.mark.parametrize("analysed", [False, True])
def test_an_untrained_smoother_is_its_first_guess_and_training_lowers_its_error(analysed):
    windows, at = stochastic_lorenz63.draw(jax.random.key(5), 20), stochastic_lorenz63.OBSERVED
    seen = stochastic_lorenz63.seen_of(windows, windows.truth + 0.3 if analysed else None)
    options = {"settings": Settings(minutes=1.0), "name": "a smoother", "share": 1.0, "updates": 10}
    trained, updates = train_smoother(seen, windows.truth, at, 0.7, **options)
    untrained = trained.replace(network=jax.tree.map(jnp.zeros_like, trained.network))
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), seen)
    guess, found = (jax.vmap(lambda one, s=s: s(one, at))(single) for s in (untrained, trained))
    np.testing.assert_allclose(guess[:, at], seen.analysis[:, at] if analysed else windows.values, atol=1e-5)
    errors = [stochastic_lorenz63.error(states.astype(float), windows.truth) for states in (found, guess)]
    assert updates == 10 and errors[0] < errors[1]


def eddies(n, key=0):
    """Return a smooth vorticity without symmetry."""
    return da.covariances.Matern(3.0, 1.0, da.grids.Grid((0.4, 0.4), (True, True)), smoothness=4.0).sample(
        jax.random.key(key), jnp.zeros((n, n))
    )


@pytest.mark.parametrize("key", range(6))  # all four pairs of reflections among them
def test_motions_are_symmetries_of_the_flow_and_of_what_sensors_see(key):
    flow, n = kolmogorov_model(16), 16
    x = flow.step(eddies(n), 0)  # within the modes that the model keeps, and a little beyond
    motion = Motion.drawn(jax.random.key(key), n)
    np.testing.assert_allclose(motion.vorticity(flow.step(x, 0)), flow.step(motion.vorticity(x), 0), atol=1e-12)
    modes = jnp.fft.rfft2(x).at[n // 2].set(0).at[:, n // 2].set(0)  # the sign of these cannot be turned
    x = jnp.fft.irfft2(modes, (n, n))
    seen = motion.sensed(flow.velocity(x))
    np.testing.assert_allclose(VelocitySensors()(motion.vorticity(x)), seen, atol=1e-12)
    np.testing.assert_array_equal(VelocitySensors()(x)[1, 2], flow.velocity(x)[:, 4, 8])


def test_the_inverse_of_kolmogorov_flow_moves_with_the_sensors_and_its_prior_is_the_same_at_each():
    row, n = kolmogorov_flow, 8
    w = jax.random.normal(jax.random.key(0), (3 * 2 * row.SNAPSHOTS, (n // 4) ** 2))

    def neighbouring(w, seen):
        around = [seen, jnp.roll(seen, 1, axis=0), jnp.roll(seen, 1, axis=1)]
        return jnp.sin(jnp.concatenate(around, axis=-1) @ w)

    inverse = row.Inverse(Network(neighbouring, w), jnp.zeros((n, n)))
    values = jax.random.normal(jax.random.key(1), (500, row.SNAPSHOTS, 4, 4, 2))
    here, there = inverse(values[0]), inverse(jnp.roll(values[0], (1, 2), axis=(1, 2)))
    np.testing.assert_allclose(there, jnp.roll(here, (2, 4), axis=(0, 1)), atol=1e-12)
    assert float(jnp.std(here)) > 1
    spread = 1.0 + jnp.arange(1.0 * n)[None, None] % 2  # differs between the points of a cell
    first = spread * jax.random.normal(jax.random.key(2), (500, n, n))
    B = row.error_of(inverse, (values, first))
    assert B.modes.shape == (24, n, n)  # wavenumbers up to 2 along both axes
    product = B.apply(first[0])
    np.testing.assert_allclose(
        B.apply(jnp.roll(first[0], (2, 4), axis=(0, 1))), jnp.roll(product, (2, 4), (0, 1)), atol=1e-9
    )


def test_interpolated_velocities_are_those_of_the_sensors_there():
    row, n = kolmogorov_flow, 32
    place = 2 * np.pi / n * np.arange(n)
    flow = jnp.broadcast_to(-jnp.sin(jnp.asarray(place))[:, None], (n, n))  # u = -cos(y), one wave over four sensors
    values = VelocitySensors()(flow)[None]
    found = row.from_interpolated(flow, values)
    np.testing.assert_allclose(found, jnp.broadcast_to(found[:, :1], (n, n)), atol=1e-12)
    assert float(jnp.mean(jnp.abs(found - flow)) / jnp.mean(jnp.abs(flow))) < 0.25
    constant = row.from_interpolated(flow, jnp.ones_like(values))
    np.testing.assert_allclose(constant, 0, atol=1e-12)


@pytest.mark.slow
def test_the_steps_of_kolmogorov_flow_are_short_enough_for_the_fastest_eddies():
    for seed in (2, 5_000):  # with two steps a snapshot, four of the runs of each were lost
        key = jax.random.split(jax.random.key(seed), 6)[0]
        assert np.isfinite(kolmogorov_flow.runs(key, 128, 32, [20], jnp.float32)).all()


def test_lost_runs_of_kolmogorov_flow_are_named(monkeypatch):
    monkeypatch.setattr(kolmogorov_flow, "runs", lambda *args: jnp.full((3, 2, 8, 8), jnp.nan).at[0].set(0.0))
    with pytest.raises(da.ConfigurationError, match="2 of 3 runs on 8 x 8 points are not finite"):
        kolmogorov_flow.draw(jax.random.key(0), 3, 2, 8)


@pytest.mark.slow
@pytest.mark.long
def test_the_row_of_kolmogorov_flow_runs_at_any_size(monkeypatch):
    monkeypatch.setattr(kolmogorov_flow, "SPIN_UP", 20)
    for name in ("SEARCH", "EXACT"):
        monkeypatch.setattr(kolmogorov_flow, name, da.Descent(optax.sgd(1e-6), max_iterations=2))  # compiles soon
    told = []
    extent = kolmogorov_flow.Extent(16, 4, 20, 3, 8, 1, 2)
    found = list(kolmogorov_flow.scores(Settings(minutes=1.0, tell=told.append), extent, updates=20))
    assert [score.kind for score in found] == ["learned", "learned", "classical"]
    assert all(np.isfinite(score.value) for score in found) and "runs the flow" in told
    assert "16 x 16, 3 cases" in found[0].note and "20 updates" in found[0].note
