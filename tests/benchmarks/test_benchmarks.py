"""Each benchmark runs at a tiny size and reports what it should; nothing is asserted about time."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from benchmarks import (
    accelerator,
    adjoint,
    chaotic_windows,
    diffusion,
    ensemble,
    field_256,
    gradients,
    harness,
    imports,
    incremental,
    large_network,
    loading,
    long_window,
    peers_learned,
    peers_variational,
    privacy,
    published_qg,
    qg,
    reference,
    scaling,
    scaling_cases,
    spectral,
    tables,
    training,
    window,
    writing,
)
from benchmarks.problems import DT, EVERY, load_window, lorenz96_arrays, lorenz96_cost


def rows(capsys, run, tmp_path, **options):
    file = tmp_path / "records.json"
    run(**options, json=file)
    assert "machine" in capsys.readouterr().out
    return {row["what"]: row for row in map(json.loads, file.read_text().splitlines())}


@pytest.mark.ci
@pytest.mark.slow
def test_the_bare_versions_are_the_same_problem():
    arrays = lorenz96_arrays(3, seed=1)
    cost = lorenz96_cost(arrays)
    x, x_b, y = arrays["x_true"], arrays["x_background"], arrays["observations"]
    expected = float(cost({"state": jnp.asarray(x - x_b)}))
    for tendency in reference.FORWARDS.values():
        np.testing.assert_allclose(reference.cost(x, x_b, y, EVERY, DT, tendency), expected, rtol=1e-12)
    np.testing.assert_allclose(reference.numpy_cost(x, x_b, y, EVERY, DT), expected, rtol=1e-12)
    found, norm, _ = reference.gauss_newton(jnp.asarray(x_b), jnp.asarray(y), 1e-8, 0.1, every=EVERY, dt=DT)
    assert norm <= 1e-8
    np.testing.assert_allclose(found, da.minimize(cost, da.GaussNewton(tolerance=1e-8)).state, atol=1e-7)


def test_stored_windows_are_read(tmp_path):
    arrays = lorenz96_arrays(2, seed=3)
    np.savez(tmp_path / "window.npz", **arrays)
    read = load_window(tmp_path / "window.npz", times=5, seed=0)
    assert all(np.array_equal(read[key], arrays[key]) for key in arrays)


def test_rounds_are_interleaved_and_the_minimum_is_kept():
    order = []
    times = harness.interleave({k: lambda k=k: order.append(k) for k in "ab"}, rounds=3, shortest=0.0)
    assert order == ["a", "b"] * 4  # one call each to find the number of repetitions
    assert all(t.seconds > 0 for t in times.values())


def test_a_failing_process_is_reported():
    with pytest.raises(RuntimeError, match="no such number"):
        harness.fresh_process("raise ValueError('no such number')")


@pytest.mark.ci
@pytest.mark.slow
def test_window(capsys, tmp_path):
    found = rows(capsys, window.main, tmp_path, times=3, rounds=3, processes=1)
    assert found["default settings"]["more"]["within 1e-5"]
    assert found["first call, no cache"]["seconds"] > 0 and found["first call, persistent cache"]["seconds"] > 0


@pytest.mark.ci
@pytest.mark.slow
def test_long_window(capsys, tmp_path):
    found = rows(capsys, long_window.main, tmp_path, times=4, seeds=1, rounds=3)
    assert found["default"]["more"]["reached"] == "1 of 1" and not found["default"]["more"]["missed"]


@pytest.mark.ci
@pytest.mark.slow
def test_chaotic_windows(capsys, tmp_path):
    found = rows(capsys, chaotic_windows.main, tmp_path, n=(12,), times=4, seeds=1)
    assert found["default"]["more"]["reached"] == "1 of 1" and found["by hand"]["more"]["work, median"] > 0


@pytest.mark.ci
@pytest.mark.slow
def test_gradients(capsys, tmp_path):
    found = rows(capsys, gradients.main, tmp_path, times=3, rounds=3)
    assert found["solve and implicit gradient"]["more"]["error"] < 1e-3


@pytest.mark.ci
@pytest.mark.slow
def test_adjoint(capsys, tmp_path):
    found = rows(capsys, adjoint.main, tmp_path, n=(40,), steps=(20,), budget=0.1)
    assert found["J and gradient"]["ratio"] > 1 and found["J and gradient, whole process"]["peak_bytes"] > 1e6


def test_imports(capsys, tmp_path):
    assert rows(capsys, imports.main, tmp_path, processes=1)["import diffassim after jax"]["seconds"] > 0


@pytest.mark.ci
@pytest.mark.slow
def test_tables(capsys, tmp_path):
    found = rows(capsys, tables.main, tmp_path, rows=3_000, stations=7, directory=tmp_path)
    assert found["read_table"]["more"]["rows/s"] > 0 and found["read_table"]["peak_bytes"] > 1e6
    assert not (tmp_path / "reports.csv").exists()


@pytest.mark.ci
@pytest.mark.slow
def test_ensemble(capsys, tmp_path):
    sizes = {"members": (8,), "times": 10, "experiments": 3, "points": 8, "line": 200}
    found = rows(capsys, ensemble.main, tmp_path, **sizes, budget=0.1)
    assert all(row["more"].get("differs by", 0) < 1e-3 for row in found.values())
    long = found["LETKF, N = 8, whole process"]
    assert long["more"]["rms"] < long["more"]["rms prior"]


@pytest.mark.ci
@pytest.mark.slow
def test_field(capsys, tmp_path):
    found = rows(
        capsys, field_256.main, tmp_path, n=16, steps=4, observations=30, budget=0.1, rows=("float64 emissions",)
    )
    analysis = found["analysis of the state and emissions"]["more"]
    assert analysis["result"] == "CONVERGED" and analysis["gradient reduced by"] >= 1000
    assert analysis["error over the background's"] < 1
    parts = found["its parts: state and emissions"]["more"]
    assert all(parts[part] > 0 for part in ("covariance", "model", "adjoint of the model", "interpolation"))


@pytest.mark.ci
@pytest.mark.slow
def test_spectral(capsys, tmp_path):
    found = rows(capsys, spectral.main, tmp_path, line=32, square=(12,), steps=5, budget=0.1)
    assert found["inner iteration, tangent stored"]["reference"] in ("J", "bare forward run", "forward run of exponax")
    assert found["programs compiled"]["ratio"] == 0  # for several outer loops after one


@pytest.mark.slow  # compiles five searches of a field
def test_incremental(capsys, tmp_path):
    found = rows(capsys, incremental.main, tmp_path, n=16, steps=8, stations=20, rounds=3, outer=2)
    assert found["plain Gauss-Newton"]["ratio"] == 1.0 and len(found) == 6
    half = found["half the resolution"]["more"]
    assert half["full gradients"] < found["plain Gauss-Newton"]["more"]["full gradients"]
    assert float(half["J above the lowest"]) < 1e-4


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setattr(peers_variational, "installed", lambda name: False)
    (row,) = peers_variational.long_cycle(cycles=2, seed=0)
    assert row.what == "dapper: not installed" and row.more["to compare"] == "pip install dapper"


@pytest.mark.slow
def test_a_large_network(capsys, tmp_path):
    found = rows(capsys, large_network.main, tmp_path, width=4, levels=1, steps=2, iterations=2)
    more = found["2 iterations"]["more"]
    assert more["J"][1] < more["J"][0] and more["error, before and after"][1] < more["error, before and after"][0]


@pytest.mark.slow
@pytest.mark.long
def test_fine_tuning_in_private_needs_no_noise_to_be_better_than_the_public_network(monkeypatch):
    monkeypatch.setattr(privacy, "SPIN_UP", 200)
    monkeypatch.setattr(privacy, "BATCH", 64)
    found = privacy.seeds_of(0, 512, (np.inf,))
    assert found["fine-tuned, epsilon inf"] < found["public alone"] and privacy.noise_for(np.inf, 512, 512, 20) == 0


@pytest.mark.slow
def test_the_learned_solver_beside_pytorch_is_a_solver(monkeypatch):
    monkeypatch.setattr(peers_learned, "SAMPLES", 8)
    train, (truth, y), solver = peers_learned.training(2, 4, 2, part=2)
    assert solver.prior.first.kernel.shape == (5, 3, 2) and np.isnan(y[:, 0]).all() and truth.dtype == np.float32
    assert float(jnp.abs(train().cell.out - solver.cell.out).max()) > 0
    monkeypatch.setattr(peers_learned, "torch", None)
    with pytest.raises(SystemExit, match="pip install torch"):
        peers_learned.main()


@pytest.mark.ci
@pytest.mark.slow
def test_one_window_without_peers(monkeypatch):
    monkeypatch.setattr(peers_variational, "installed", lambda name: False)
    *ours, row = peers_variational.one_window(times=2, seed=0, rounds=1)
    assert row.what == "adao: not installed"
    assert all(found.more["within 1e-5"] for found in ours)


@pytest.mark.ci
@pytest.mark.slow
def test_diffusion(capsys, tmp_path):
    found = rows(capsys, diffusion.main, tmp_path, n=16, lengths=(1.0,), budget=0.1)
    assert found["explicit diffusion, order 4"]["reference"] == "implicit diffusion, order 10"


@pytest.mark.ci
@pytest.mark.slow
def test_quasi_geostrophic_models(capsys, tmp_path):
    found = rows(capsys, qg.main, tmp_path, n=16, steps=3, basin=9, members=2, budget=0.1)
    assert found["two layers, step, Adams-Bashforth"]["target"] == qg.STEP
    assert found["closed basin, run of one member"]["ratio"] == 1.0


def test_tracks_move_along_the_rows_of_the_grid():
    where = published_qg.tracks(published_qg.Setup())
    numbers = where[..., 0] * published_qg.POINTS + where[..., 1]
    assert where.shape == (300, 300, 2) and numbers.min() >= 0 and numbers.max() < published_qg.POINTS**2
    gaps = np.diff(numbers, axis=1)
    assert set(np.unique(gaps)) == {55, 56} and np.unique(numbers[:, 0]).size > 40


@pytest.mark.ci
@pytest.mark.slow
def test_published_quasi_geostrophic_scores(capsys, tmp_path):
    sizes = {"points": 17, "values": 20, "cycles": 3, "burn_in": 1, "states": 4, "spin_up": 2}
    found = rows(capsys, published_qg.main, tmp_path, cases=("letkf-25", "eakf-25-1.03"), seeds=1, **sizes)
    assert all(np.isfinite(found[case]["more"]["error"]) for case in ("letkf-25", "eakf-25-1.03"))


@pytest.mark.slow
@pytest.mark.long
def test_writing(capsys, tmp_path):
    found = rows(capsys, writing.main, tmp_path, scale=1e-3, cycles=10)
    assert set(found) == {"lorenz96-ensemble, all members", "large-state"}
    assert all(0 < row["more"]["writing"] < row["seconds"] and row["more"]["megabytes"] > 0 for row in found.values())


@pytest.mark.slow
@pytest.mark.long
def test_loading(capsys, tmp_path):
    options = {"kinds": ("nc",), "megabytes": 1, "size": 8, "width": 1, "updates": 2, "rounds": 3}
    found = rows(capsys, loading.main, tmp_path, **options)
    assert set(found) - {"nc files through grain", "nc files through grain, bare loop"} == {
        "arrays at the device", "arrays of the host", "nc files", "nc files, bare loop", "nc files, reading alone",
        "nc files, memory of an epoch above that of one chunk",
    }  # fmt: skip
    assert found["nc files"]["reference"] == "nc files, bare loop, processor time"
    assert found["nc files, memory of an epoch above that of one chunk"]["size"] == "64 updates of 16"
    assert all(row["seconds"] > 0 for row in found.values())


@pytest.mark.ci
@pytest.mark.slow
def test_training(capsys, tmp_path):
    found = rows(capsys, training.main, tmp_path, widths=(8,), updates=20, rounds=3)
    assert {"fit", "bare loop of jitted updates", "bare scan"} < set(found) and found["fit"]["target"] == 1.05
    extras = {name for name in found if name.startswith("fit, ")}
    assert len(extras) == 5 and all("ms of a chunk beyond fit" in found[name]["more"] for name in extras)
    assert all(row["seconds"] > 0 for row in found.values())


@pytest.mark.slow
@pytest.mark.long
def test_scaling_counts_messages_and_predicts(capsys, tmp_path):
    options = {"case": ["experiments", "ETKF"], "size": 4096, "measured": (1, 2), "counted": (4,)}
    found = rows(capsys, scaling.main, tmp_path, **options)
    assert found["experiments, strong, counted"]["more"] == {"sent": 0, "messages": 0}
    assert found["ETKF, weak"]["more"]["sent"] > 0
    kept = json.loads((tmp_path / "records.counts.json").read_text())
    assert kept["strong"]["2"]["ETKF"]["bytes"] > kept["strong"]["4"]["ETKF"]["bytes"] > 0  # of fewer members
    assert kept["strong"]["1"]["ETKF"]["bytes"] == 0
    counted = 2 * kept["processes"][0]["ETKF"]["bytes"]
    assert kept["processes"][0]["ETKF"]["loopback"] > 0.9 * counted  # others of the machine may send as well
    assert kept["link"]["bandwidth"] > 0 < kept["link"]["latency"]
    assert kept["conditions"]["jax"]
    assert scaling.predicted(1.0, 4, scaling.BANDWIDTH, 0) == 1.25


@pytest.mark.parametrize(("steps", "every"), [(12, 3), (8, 8), (20, 1)])
def test_a_time_parallel_window_is_as_long_as_a_sub_window(steps, every):
    assert scaling_cases.measure_critical_path(steps, every) == {"strong": steps, "weak": every}


@pytest.mark.slow
@pytest.mark.long
def test_the_accelerator_table_fills_at_a_tiny_size(capsys, tmp_path):
    found = rows(capsys, accelerator.main, tmp_path, scale=0)
    assert {"the default", "ETKF analysis", "LETKF analysis", "4D-Var, J and gradient"} <= found.keys()
    assert found["the default"]["more"]["residual"] < 1e-3
    late = rows(capsys, accelerator.main, tmp_path, scale=0, budget=-1.0)
    assert set(late) == {"left out: the budget is used up"}


@pytest.mark.slow
@pytest.mark.long
def test_a_network_in_parts_needs_less_of_each_device(capsys, tmp_path):
    options = {"width": 64, "levels": 2, "steps": 2, "single": True, "devices": 4}
    found = rows(capsys, large_network.main, tmp_path, **options)
    alone, each = found["memory of each of 1 device(s)"], found["memory of each of 4 device(s)"]
    assert each["more"]["arguments"] < 0.3 * alone["more"]["arguments"]
