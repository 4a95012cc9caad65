"""Twin experiments from settings: closed forms, sweeps, resuming, what diverges, and every bad input in one line."""

from __future__ import annotations

import inspect

import jax
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import diffassim as da
from diffassim.cli import main
from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration, read_toml, to_toml
from diffassim.experiments.framework.parts import PARTS, built
from diffassim.experiments.templates import template
from diffassim.experiments.twins import plan as plans
from diffassim.experiments.twins import twin_run
from diffassim.experiments.twins.assembly import first_states
from diffassim.experiments.twins.named_models import LEFT_OUT, MODELS
from diffassim.experiments.twins.plan import plan_of
from diffassim.experiments.twins.sweep import planned_runs
from diffassim.experiments.twins.twin import Twin
from diffassim.experiments.twins.twin_run import try_runs
from diffassim.experiments.twins.twin_scores import best_rows
from diffassim.experiments.twins.twin_settings import TwinConfiguration

SMALL = {
    "seeds": 2, "cycles": 12, "discarded_cycles": 4, "model": {"name": "Lorenz96", "size": 8},
    "truth": {"spin_up": 100, "samples": 30},
}  # fmt: skip
ETKF = {"method": {"ETKF": {"inflation": 1.05}}, "members": 9}


def configuration(**changes):
    return build_configuration(TwinConfiguration, SMALL | {"methods": [ETKF]} | changes, "twin")


def table_of(config, path):
    runs.run(Twin(), config, path)
    return pd.read_csv(path / "runs.csv")


def all_methods():
    kinds = da.methods.SequentialMethod, da.methods.EnsembleWindowMethod, da.methods.WindowMethod
    for part in PARTS:
        for name in part.__all__:
            kind = getattr(part, name)
            if isinstance(kind, type) and issubclass(kind, kinds) and name == kind.__name__ and _is_whole(kind):
                yield name


def _is_whole(kind):
    """Whether a class is a method, and not the base of several that says in a hook what they define."""
    return not kind.__subclasses__() or kind.__name__ in (
        "ParticleFilter",
        "IEnKS",
        "LETKF",
        "ETKF",
        "EnKF",
        "FourDVar",
    )


NEEDS = {
    "AdaptiveInflation": {"filter": "ETKF"},
    "AsynchronousFilter": {"filter": "ETKF"},
    "EnKS": {"filter": {"ETKF": {}}, "lag": 2},
    "FourDVar": {"B": {"climatology": 0.1}},
    "HybridFourDVar": {"variational": {"FourDVar": {"B": "climatology"}}, "ensemble": "ETKF"},
    "PolicyInflation": {"filter": "ETKF"},
    "OptimalParticleFilter": {"Q": {"Diagonal": {"std": 0.1}}},
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(all_methods())))
def test_every_method_of_the_package_is_found_by_its_name(name):
    kind = built("test", name) if name not in NEEDS and not _needs_taper(name) and not _is_static(name) else None
    assert kind is None or type(kind).__name__ == name
    arguments = NEEDS.get(name, {"localization": {"GaspariCohn": 3.0}} if _needs_taper(name) else {})
    config = configuration(methods=[{"method": {name: arguments}, "members": 6}])
    assert try_runs(plan_of(config).runs) == 1


def _class_of(name):
    return next(getattr(part, name) for part in PARTS if name in part.__all__)


def _needs_taper(name):
    return "localization" in inspect.signature(_class_of(name)).parameters and name not in ("HybridFourDVar", "EnFF")


def _is_static(name):
    return issubclass(_class_of(name), da.gaussian.StaticMethod)


@pytest.mark.slow
def test_single_precision_stays_single():
    methods = [
        ETKF, {"method": "EKF"}, {"method": "ParticleFilter"}, {"method": {"FourDVar": {"B": {"climatology": 0.1}}}},
        {"method": {"LETKF": {"localization": {"GaspariCohn": 3}, "inflation": 1}}},
    ]  # fmt: skip
    for truth in ({}, {"model_error": 0.1}, {"model_error_share": 0.1}):
        config = configuration(dtype="float32", methods=methods, observe={"share": 0.1}, truth=SMALL["truth"] | truth)
        samples = first_states(config, 3)
        assert samples.dtype == np.float32 and try_runs(plan_of(config).runs) == len(methods)
        methods = methods[:1]


def test_every_model_of_the_package_is_there_or_said_to_be_left_out():
    public = {
        name for name in da.models.__all__
        if isinstance(kind := getattr(da.models, name), type) and issubclass(kind, da.models.Model)
    }  # fmt: skip
    assert public - {"Model", "SpectralModel"} == (set(MODELS) - {"spherical_shallow_water"}) | set(LEFT_OUT)


SIZES = {
    "TwoScaleLorenz96": [4, 4], "KuramotoSivashinsky": 16, "LinearAdvection": 12, "AdvectionDiffusion": 6,
    "NavierStokes": 12, "TwoLayerQG": 8, "ReducedGravityQG": 9, "spherical_shallow_water": 21, "Lorenz96": 8,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_put_together_with_a_global_and_a_local_filter(name):
    if name == "spherical_shallow_water":
        pytest.importorskip("dinosaur")
    size = {"size": SIZES[name]} if name in SIZES else {}
    local = {"method": {"LETKF": {"localization": {"GaspariCohn": 3.0}}}, "members": 5}
    methods = [ETKF] if name == "TwoScaleLorenz96" else [ETKF, local]
    config = configuration(model={"name": name} | size, observe={"every": 2, "share": 0.2}, methods=methods)
    assert try_runs(plan_of(config).runs) == len(methods)


@pytest.mark.slow
def test_with_a_linear_model_ensemble_and_kalman_filter_agree(tmp_path):
    config = configuration(
        model={"name": "AdvectionDiffusion", "size": 2}, start={"std": 1.0}, truth={"samples": 30},  # nothing moves
        methods=[{"method": "EKF"}, {"method": "ETKF", "members": 300}], seeds=1, cycles=6, discarded_cycles=1,
    )  # fmt: skip
    kalman, ensemble = table_of(config, tmp_path / "run").to_dict("records")
    for name in ("analysis_spread", "analysis_rmse", "forecast_spread", "analysis_crps"):
        np.testing.assert_allclose(ensemble[name], kalman[name], rtol=0.15)
    np.testing.assert_allclose(
        kalman["analysis_spread"], (1 / (1 + np.arange(2, 7))) ** 0.5 @ np.full(5, 0.2), rtol=1e-5
    )


@pytest.mark.slow
def test_observations_without_error_are_followed_and_scores_are_those_of_the_series(tmp_path):
    config = configuration(observe={"std": 1e-4})
    row = table_of(config, tmp_path / "run").iloc[0]
    assert row["analysis_rmse"] < 2e-4 < row["climatology_rmse"] and row["diverged"] == row["lost"] == 0
    import xarray as xr

    with xr.open_dataset(tmp_path / "run" / "analysis.nc") as dataset:
        counted = dataset["analysis_rmse"].values[dataset["cycle"].values > 4, :, 0].astype(float)
    assert counted.shape == (8, 2)
    np.testing.assert_allclose(row["analysis_rmse"], counted.mean(), rtol=1e-6)
    np.testing.assert_allclose(row["analysis_rmse_se"], counted.mean(0).std(ddof=1) / 2**0.5, rtol=1e-6)


@pytest.mark.slow
def test_a_sweep_has_a_row_for_each_run_and_shares_what_is_compiled(tmp_path):
    three_d_var = {"method": {"CycledThreeDVar": {"scale": 0.1}}}
    sweep = {"method.inflation": [1.0, 1.1, 1.2], "observe.std": [0.5, 1]}
    config = configuration(sweep=sweep, methods=[ETKF, three_d_var])
    twin_run._assimilate.clear_cache()
    table = table_of(config, tmp_path / "run")
    assert len(table) == 8 and twin_run._assimilate._cache_size() == 2
    mine = table[table["method"] == "ETKF"]
    assert sorted(map(tuple, mine[["method.inflation", "observe.std"]].to_numpy())) == [
        (r, s) for r in (1.0, 1.1, 1.2) for s in (0.5, 1.0)
    ]
    assert table["method.inflation"].isna().sum() == 2 and mine["analysis_rmse"].nunique() == 6
    assert (mine[mine["observe.std"] == 0.5]["analysis_rmse"].mean()) < mine[mine["observe.std"] == 1][
        "analysis_rmse"
    ].mean()
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert {"method.inflation", "observe.std", "standard_error"} < set(scores.columns)
    page = (tmp_path / "run" / "index.html").read_text()
    assert "runs" in page.lower() and "data:image/png" in page


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "method",
    [
        {"method": {"EnKF": {}}, "members": 6},
        {"method": "EKF"},
        {"method": "ParticleFilter", "members": 6},
        {"method": {"EnKS": {"filter": "ETKF", "lag": 2}}, "members": 6},
        {"method": "IEnKS", "members": 6, "lag": 3},
        {"method": {"FourDVar": {"B": {"climatology": 0.1}}}, "lag": 3},
    ],
    ids=lambda method: str(method["method"]),
)
def test_a_run_in_parts_and_a_resumed_one_are_that_in_one_piece(tmp_path, monkeypatch, method):
    config = configuration(methods=[method])
    whole = table_of(config, tmp_path / "whole")
    monkeypatch.setattr(plans, "PART_ANALYSES", 5)
    plans._plan.cache_clear()
    try:
        assert len(plan_of(config).parts) > 1
        parts = table_of(config, tmp_path / "parts")
        pd.testing.assert_frame_equal(whole, parts, rtol=1e-5)  # series are kept in single precision

        class StoppedError(Exception):
            pass

        def stop(finished, _):
            if finished == 1:
                raise StoppedError

        with pytest.raises(StoppedError):
            runs.run(Twin(), config, tmp_path / "stopped", stop)
        runs.resume(tmp_path / "stopped")
        assert (tmp_path / "stopped" / "runs.csv").read_bytes() == (tmp_path / "parts" / "runs.csv").read_bytes()
    finally:
        plans._plan.cache_clear()


@pytest.mark.slow
def test_what_diverges_is_counted_and_is_in_no_mean(tmp_path):
    config = configuration(model={"name": "Lorenz96", "size": 8, "dt": 0.05}, sweep={"model.dt": [0.05, 0.5]})
    results = runs.run(Twin(), config, tmp_path / "run")
    table = results.tables["runs"]
    assert table["diverged"].tolist() == [0, 2] and results.counted == 2
    assert np.isfinite(table["analysis_rmse"][0]) and np.isnan(table["analysis_rmse"][1])
    assert np.isfinite(results.scores["value"]).all() and "2 of 4 repeats DIVERGED" in results.table


@pytest.mark.slow
def test_the_command_fails_only_where_nothing_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)
    (tmp_path / "bad.toml").write_text(to_toml("twin", configuration(model={"name": "Lorenz96", "dt": 0.5, "size": 8})))
    with pytest.raises(SystemExit) as caught:
        main(["run", "bad.toml"])
    assert caught.value.code == 1 and "nothing that counts has finished" in capsys.readouterr().err


def test_the_template_is_settings_and_what_is_written_repeats_the_run(tmp_path):
    (tmp_path / "my.toml").write_text(template("twin"))
    name, settings = read_toml(tmp_path / "my.toml")
    config = build_configuration(TwinConfiguration, settings, name)
    assert len(planned_runs(config)) == 9
    (tmp_path / "again.toml").write_text(to_toml("twin", config))
    assert build_configuration(TwinConfiguration, read_toml(tmp_path / "again.toml")[1], name) == config


@pytest.mark.slow
@pytest.mark.long
def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)
    main(["new", "twin"])
    (tmp_path / "my.toml").write_text(capsys.readouterr().out)
    main(["check", "my.toml"])
    assert "9 runs of 3 seeds and 500 cycles, in 9 parts; programs are compiled for 3 kinds" in capsys.readouterr().out
    few = "seeds=1", "cycles=12", "discarded_cycles=2", "truth={samples = 60, spin_up = 100}"
    main(["run", "my.toml", "--out", "sweep", *(word for each in few for word in ("--set", each))])
    first = capsys.readouterr().out
    assert first.count("CycledThreeDVar") == first.count("LETKF") == 3 and first.count(" ETKF") == 3
    main(["run", "--resume", "sweep"])
    assert capsys.readouterr().out.splitlines()[:5] == first.splitlines()[:5]


def test_several_numbers_change_together_and_labels_say_of_what():
    other = ETKF | {"label": "other"}
    config = configuration(
        methods=[ETKF, other],
        sweep={"method.members, method.inflation": [[5, 1.2], [9, 1.0]], "other.rotation": [True, False]},
    )
    planned = planned_runs(config)
    assert len(planned) == 2 + 4
    assert [(run.method.members, run.method.method["ETKF"]["inflation"]) for run in planned[:2]] == [(5, 1.2), (9, 1.0)]
    assert "other.rotation" not in planned[0].values and planned[-1].method.method["ETKF"]["rotation"] is False


def test_the_best_row_has_no_diverged_repeats_where_there_is_one():
    table = pd.DataFrame({"method": ["A", "A", "B"], "r": [1, 2, 1], "diverged": [0, 0, 1], "analysis_rmse": [2, 1, 3]})
    assert best_rows(table, ["r"], ("r",))["r"].tolist() == [2, 1]
    assert len(best_rows(table, ["r"], ())) == 3


WRONG = [
    ({"sweep": {"observ.std": [1.0]}}, "there is no 'observ'; did you mean 'observe'"),
    ({"sweep": {"observe.stdd": [1.0]}}, "observe has no 'stdd'; did you mean 'std'"),
    ({"sweep": {"observe.std": []}}, "the list of 'observe.std' is empty"),
    ({"sweep": {"observe.std": 1.0}}, "valid list"),
    ({"sweep": {"observe.std": ["large"]}}, "observe.std = 'large'"),
    ({"sweep": {"observe.std": [-1.0]}}, "greater than 0"),
    ({"sweep": {"method.inflatoin": [1.0]}}, "no method here has 'inflatoin'; did you mean 'inflation'"),
    ({"sweep": {"method.lag": [1]}}, "no method here has 'lag'"),
    ({"sweep": {"model.forcng": [8.0]}}, "has no number 'forcng'; did you mean 'forcing'"),
    ({"sweep": {"model.forcing": ["much"]}}, "forcing must be a number, found 'much'"),
    ({"sweep": {"cycles.x": [1]}}, "cycles is one number"),
    ({"sweep": {"observe": [1]}}, "observe is a table"),
    ({"sweep": {"cycles": [3]}}, "leaves nothing of 3 cycles"),
    ({"sweep": {"a, b": [1]}}, "needs 2 values at a time"),
    ({"methods": [{"method": "ETKG"}]}, "there is no method or part 'ETKG'; did you mean 'ETKF'"),
    ({"methods": [{"method": "GaspariCohn"}]}, "is a part of methods, and no method"),
    ({"methods": [{"method": {"FourDVar": {}}}]}, "FourDVar needs 'B'"),
    ({"methods": [{"method": "LETKF"}]}, "localization"),
    ({"methods": [{"method": {"ETKF": {"inflation": "big"}}}]}, "inflation"),
    ({"methods": [{"method": "ETKF", "lag": 2}]}, "it takes no lag"),
    ({"methods": [{"method": "IEnKS", "lag": 50}]}, "lag = 50 must lie between 1 and the 12 cycles"),
    ({"methods": [ETKF, ETKF]}, "2 of them are called 'ETKF'"),
    ({"model": {"name": "Lorenz97"}}, "there is no model 'Lorenz97'; did you mean 'Lorenz96'"),
    ({"model": {"name": "GR4J"}}, "GR4J cannot be made from settings"),
    ({"model": {"name": "Lorenz63", "size": 4}}, "has a state of one size"),
    ({"model": {"name": "Lorenz96", "size": [4, 4]}}, "states of 1 axes"),
    ({"observe": {"every": 2, "random": 3}}, "give every or random, not both"),
    ({"observe": {"random": 9}}, "random = 9, but the field has 8 points"),
    ({"observe": {"indices": [8]}}, "indices holds 8"),
    ({"observe": {"function": "sinn"}}, "no function of one number in NumPy"),
    ({"observe": {"fields": ["y"]}}, "there is no field 'y'"),
    ({"observe": {"law": "cauchy"}}, "there is no law 'cauchy'"),
    ({"start": {"share": 1.0, "std": 1.0}}, "give share or std, not both"),
    ({"truth": {"dt": 0.01}}, "dt is that of the model"),
    ({"best_over": ["x"]}, "'x' is not swept"),
    ({"discarded_cycles": 12}, "leaves nothing of 12 cycles"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "text"), WRONG, ids=lambda case: str(case)[:40])
def test_bad_settings_are_one_line_before_anything_is_computed(changes, text):
    with pytest.raises(ConfigurationError) as caught:
        Twin().check(configuration(**changes))
    message = str(caught.value)
    assert text in message and "\n" not in message and len(message) < 900


@pytest.mark.slow
def test_random_places_and_functions_are_observed(tmp_path):
    for observe in ({"random": 3, "anew": True, "function": "square"}, {"indices": [1, 4]}, {"random": 4}):
        config = configuration(observe=observe | {"std": 0.3}, sweep={})
        text = Twin().check(config)
        assert f"observed x: {observe.get('random', 2)} values" in text
    assert np.isfinite(
        table_of(configuration(observe={"random": 3, "anew": True}), tmp_path / "a")["analysis_rmse"]
    ).all()


@pytest.mark.slow
@pytest.mark.long
def test_the_score_of_the_literature_is_reached_from_settings(tmp_path):
    """Lorenz-96 as in Sakov and Oke (2008): LETKF with 7 members .22, ETKF with 24 members .18."""
    config = build_configuration(TwinConfiguration, {
        "seeds": 4, "cycles": 1200, "discarded_cycles": 300, "start": {"std": 0.001**0.5},
        "methods": [
            {"method": {"LETKF": {"inflation": 1.04, "rotation": True, "localization": {"GaspariCohn": 4.0}}},
             "members": 7},
            {"method": {"ETKF": {"inflation": 1.02, "rotation": True}}, "members": 28},
        ],
    }, "twin")  # fmt: skip
    table = table_of(config, tmp_path / "run")
    errors = table["analysis_rmse"] + 0
    assert errors[0] < 0.22 * 1.03 and errors[1] < 0.18 * 1.03 and (table["diverged"] == 0).all()
    assert jax.config.jax_enable_x64
