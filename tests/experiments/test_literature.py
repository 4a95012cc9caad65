"""Set-ups of the literature: data, reruns, verdicts, the command; and the documented scores themselves."""

from __future__ import annotations

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest

pytest.importorskip("pandas")

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.experiments.literature import ROWS, SETUPS, Outcome, find_rows, rerun
from tests.published import assert_row_holds

SEEDS, SEEDS_WHERE_RUNS_ARE_LOST = 5, 20
ITERATIVE = (da.IEnKS, da.FourDVar)  # which may stop at the limit of their iterations
ROW = find_rows("lorenz63", "ETKF 1.02")[0]


def outcome(errors, row=ROW):
    errors = np.asarray(errors, float)
    return Outcome(row, errors, np.ones_like(errors), np.zeros(errors.shape, int))


def test_every_row_has_a_setup_a_unique_name_and_a_source():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) and {row.case for row in ROWS} == set(SETUPS)
    for row in ROWS:
        assert row.length > row.setup.burn_in + row.lag and row.members >= 1 and row.documented > 0
        assert (row.ours is None) == (not row.note) or row.loses, f"{row.name}: a note belongs to a score of ours"
        assert row.setup.source and (row.line or "figure" in row.setup.source)


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_every_setup_draws_states_and_observes_them(setup):
    @jax.jit
    def look(keys):
        draws = setup.draw(keys[0], 2000)
        return draws, jax.vmap(setup.operator)(draws), setup.observe(keys[1], draws, 2000).values

    draws, exact, values = look(jax.random.split(jax.random.key(0)))
    spread = np.std(np.asarray(jax.tree.leaves(draws)[0]), axis=0)
    np.testing.assert_allclose(spread, setup.variance**0.5, rtol=0.1)
    np.testing.assert_allclose(np.std(np.asarray(values - exact)), setup.noise**0.5, rtol=0.1)
    assert np.array_equal(setup.steps(3), setup.interval * np.arange(1, 4))


def test_the_verdict_counts_lost_runs_apart():
    found = outcome([0.58, 0.60, 0.59, 3.0, np.nan])
    assert found.lost == 2 and abs(found.mean - 0.59) < 1e-12 and found.reached == "lost"
    assert abs(found.standard_error - 0.01 / 3**0.5) < 1e-12
    assert outcome([0.63, 0.631, 0.632]).reached == "no"  # above .60 + 3 %
    scattered = outcome([0.58, 0.60, 0.70])  # above by less than two standard errors ...
    assert scattered.mean > 0.60 * 1.03 and scattered.reached == "yes"
    wide = outcome([0.50, 0.60, 0.90, 0.75])  # ... which are no excuse for any error
    assert wide.mean < 0.60 + 2 * wide.standard_error and wide.reached == "no"
    row = dataclasses.replace(ROW, rerun=(0.64, 0.01))
    assert outcome([0.65, 0.651], row).reached == "rerun" and outcome([0.7, 0.701], row).reached == "no"
    assert outcome([3.0, 3.0]).reached == "no"


def test_the_criterion_of_the_tests_fails_where_it_should():
    assert_row_holds(outcome([0.58, 0.60, 0.59, 0.61, 3.0]))
    for worse in ([0.65, 0.651, 0.652], [0.6, 0.6, 0.6, 3.0, np.nan], [3.0] * 5):
        with pytest.raises(AssertionError):
            assert_row_holds(outcome(worse))
    lossy = dataclasses.replace(ROW, loses=0.15)
    assert_row_holds(outcome([0.6] * 12 + [3.0] * 8, lossy))
    with pytest.raises(AssertionError):
        assert_row_holds(outcome([0.6] * 10 + [3.0] * 10, lossy))
    held = dataclasses.replace(ROW, ours=0.7, note="why")
    assert_row_holds(outcome([0.7, 0.71], held))


def test_a_rerun_is_the_same_for_the_same_key_and_needs_enough_cycles():
    row, short = find_rows("lorenz63", "persistence")[0], {"seeds": 2, "cycles": 70}
    first, second = rerun(row, **short), rerun(row, **short)
    assert np.array_equal(first.errors, second.errors) and first.errors.shape == (2,)
    assert not np.array_equal(first.errors, rerun(row, **short, key=jax.random.key(1)).errors)
    with pytest.raises(ConfigurationError, match="burn-in of 64"):
        rerun(ROW, cycles=64)
    with pytest.raises(ConfigurationError, match="at least one seed"):
        rerun(ROW, seeds=0)


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_the_command_prints_and_writes_a_table(capsys, tmp_path, monkeypatch, suffix):
    from diffassim.cli import main

    monkeypatch.setattr("warnings.showwarning", None)
    monkeypatch.setattr("diffassim.cli.benches.configure_jax", lambda dtype: None)
    path = tmp_path / f"scores.{suffix}"
    words = ["bench", "literature", "--case", "lorenz63", "--method", "persistence", "--seeds", "2", "--cycles", "80"]
    main([*words, "--out", str(path)])
    shown = capsys.readouterr()
    assert "persistence" in shown.out and "10.7" in shown.out and shown.err == ""
    rows = json.loads(path.read_text()) if suffix == "json" else list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 1 and float(rows[0]["published"]) == 10.7 and int(rows[0]["seeds"]) == 2
    main([*words, "--list"])
    assert "persistence" in capsys.readouterr().out
    for wrong in (["--case", "nowhere"], ["--out", "scores.txt"]):
        with pytest.raises(SystemExit):
            main(["bench", "literature", *wrong])
        assert capsys.readouterr().err.count("\n") == 1


def test_a_row_that_fails_takes_no_scores_of_others_along(capsys, monkeypatch):
    from diffassim.cli import main
    from diffassim.experiments import literature

    def fail_at_last(row, *args, **options):
        if row.name == last.name:
            raise ConfigurationError(f"{row.name}: lost its way")
        return rerun(row, *args, **options)

    first, last = find_rows("lorenz63", "persistence")[0], ROW
    monkeypatch.setattr("warnings.showwarning", None)
    monkeypatch.setattr("diffassim.cli.benches.configure_jax", lambda dtype: None)
    monkeypatch.setattr(literature, "find_rows", lambda *args: [first, last])
    monkeypatch.setattr(literature, "rerun", fail_at_last)
    with pytest.raises(SystemExit):
        main(["bench", "literature", "--seeds", "1", "--cycles", "80"])
    shown = capsys.readouterr()
    assert first.label in shown.out and "lost its way" in shown.err


def rows_to_rerun():
    """Return every row, but a score that two files document once; marked `long` if one of its kind comes first.

    The same method in the same case with other numbers takes most of the time, and adds least.
    """
    seen, found = set(), []
    for row in ROWS:
        kind = row.case, type(row.method)
        if "again" not in row.label:
            found.append(pytest.param(row, id=row.name, marks=[pytest.mark.long] if kind in seen else [pytest.mark.ci]))
        seen.add(kind)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", rows_to_rerun())
def test_the_documented_score_is_reached(row):
    found = rerun(row, SEEDS_WHERE_RUNS_ARE_LOST if row.loses else SEEDS)
    sound = [da.Result.CONVERGED]
    if isinstance(row.method, ITERATIVE):
        sound += [da.Result.MAX_ITERATIONS, da.Result.STALLED]
    if isinstance(row.method, da.ParticleFilter):
        sound.append(da.Result.COLLAPSED)
    assert np.all(np.isin(found.results[found.kept], sound)), found.results
    assert_row_holds(found)


OWN = """
[[row]]
case = "lorenz63/sakov2012"
setup = {law = "laplace", model_error = 0.01, burn_in = 4, cycles = 12}
method = {EnKF = {inflation = 1.04, Q = {EveryStep = {Q = {Diagonal = {std = 0.1}}}}}}
members = 20
documented = 0.8
[[row]]
case = "lorenz96/sakov2008"
label = "local"
method = {LETKF = {inflation = 1.04, localization = {GaspariCohn = {radius = 4.0}}}}
members = 7
documented = 0.22
"""


def test_rows_of_a_file_are_built_and_run(tmp_path, capsys, monkeypatch):
    from diffassim.cli import main
    from diffassim.experiments.literature import read_rows

    path = tmp_path / "rows.toml"
    path.write_text(OWN)
    noisy, local = read_rows(path)
    assert noisy.setup.law == "laplace" and noisy.setup.interval == 25 and noisy.length == 12
    assert isinstance(noisy.method.Q, da.EveryStep) and local.method.localization.radius == 4.0
    assert local.setup is SETUPS[local.case] and local.name == "lorenz96/sakov2008: local"
    found = rerun(noisy, 2)
    assert np.isfinite(found.errors).all() and found.errors.mean() < 3
    monkeypatch.setattr("diffassim.cli.benches.configure_jax", lambda dtype: None)
    main(["bench", "literature", "--rows", str(path), "--list"])
    assert "lorenz96/sakov2008: local (7 members)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("EnKF", "EnKG"), "there is no method or part 'EnKG'"),
        (("inflation = 1.04, Q", "inflation = -1.0, Q"), "row 1: .*inflation|factor must be finite and positive"),
        (("inflation = 1.04, Q", "inflatoin = 1.04, Q"), "takes no argument 'inflatoin'; did you mean 'inflation'"),
        (('"laplace"', '"cauchy"'), "there is no law 'cauchy'; known: normal, laplace"),
        (("model_error = 0.01", "model_error = -1"), "setup model_error=-1 must be a positive number"),
        (("burn_in", "burnin"), "has no 'burnin' to change"),
        (("members = 20", "members = 0"), "members=0 must be a whole number"),
        (("documented = 0.8", "documented = nan"), "documented=nan must be a positive number"),
        (("members = 20", "membres = 20"), "row 1: unknown key 'membres'"),
        (("sakov2012", "sakov2013"), "there is no set-up 'lorenz63/sakov2013'"),
        (("[[row]]", "[row]"), "not valid TOML|no table"),
        (("method =", "# method ="), "row 1: the key 'method' is missing"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path, change, text):
    from diffassim.experiments.literature import read_rows

    path = tmp_path / "rows.toml"
    path.write_text(OWN.replace(*change, 1))
    with pytest.raises(ConfigurationError, match=text):
        read_rows(path)


def test_the_truth_of_a_setup_has_the_model_error_and_the_law_that_it_states():
    still = dataclasses.replace(
        SETUPS["lorenz63/sakov2012"], model=da.models.FunctionModel(lambda x, t: x), law="laplace", model_error=0.04,
        interval=1,
    )  # fmt: skip
    states = np.asarray(still.truth(jax.random.key(0), np.zeros(3), 2000))
    np.testing.assert_allclose(np.var(np.diff(states, axis=0)), 0.04, rtol=0.1)
    errors = np.asarray(still.observe(jax.random.key(1), states[1:], 2000).values) - states[1:]
    np.testing.assert_allclose(np.var(errors), still.noise, rtol=0.1)
    assert np.mean(errors**4) / np.var(errors) ** 2 > 4.5  # six for the law of Laplace, three for a normal one
