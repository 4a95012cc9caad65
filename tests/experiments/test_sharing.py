"""Which experiments several processes share, and what is compared between them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from diffassim.cli.launching import _accelerators, count_of
from diffassim.core.errors import ConfigurationError
from diffassim.experiments import EXPERIMENTS, find_experiment
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework import sharing
from diffassim.experiments.framework.base import Configuration
from diffassim.experiments.twins.large_state import LargeState, LargeStateConfiguration
from diffassim.experiments.twins.lorenz96 import Lorenz96Configuration
from diffassim.experiments.twins.twin import Twin
from diffassim.experiments.twins.twin_settings import TwinConfiguration
from tests.experiments.countdown import CountdownConfiguration


def test_the_runs_of_a_sweep_are_chains_that_cover_all_parts():
    config = TwinConfiguration(cycles=3000, sweep={"model.forcing": [8.0, 10.0]})
    chains = Twin().chains(config)
    assert [list(chain) for chain in chains] == [[0, 1, 2], [3, 4, 5]]
    assert sum(map(len, chains)) == Twin().chunks(config)


def test_an_experiment_in_one_chain_is_refused_with_those_that_can():
    lorenz96 = find_experiment("lorenz96")
    sharing.require_shareable(lorenz96, Lorenz96Configuration(), 1)
    with pytest.raises(ConfigurationError, match=r"Those that can: .*large-state, lorenz96-ensemble, twin"):
        sharing.require_shareable(lorenz96, Lorenz96Configuration(), 2)
    with pytest.raises(ConfigurationError, match="a single part, which 2 processes cannot share"):
        sharing.require_shareable(Twin(), TwinConfiguration(), 2)


def test_all_experiments_say_how_they_are_shared():
    own = {name for name, place in EXPERIMENTS.items() if place.startswith("diffassim.")}
    shared = {name for name in own if sharing._may_share(find_experiment(name))}
    assert shared == {"twin", "lorenz96-ensemble", "large-state", "water-reservoir", "air-quality", "utah"}


def test_checksums_of_files_and_directories(tmp_path, monkeypatch):
    file, store = tmp_path / "table.csv", tmp_path / "x.zarr"
    file.write_bytes(bytes(1000))
    (store / "c").mkdir(parents=True)
    (store / "c" / "0").write_bytes(b"a")
    before = sharing.digest_of(file), sharing.digest_of(store)
    (store / "c" / "0").write_bytes(b"b")
    assert sharing.digest_of(store) != before[1]
    assert sharing.digest_of(tmp_path / "none") == "missing"
    monkeypatch.setattr(sharing, "WHOLE", 10)
    monkeypatch.setattr(sharing, "SAMPLE", 20)
    large = sharing.digest_of(file)
    assert large != before[0] and len(large) == 64
    content = bytearray(1000)
    content[-1] = 1  # the last block ends with the last byte
    file.write_bytes(content)
    assert sharing.digest_of(file) != large


def test_files_in_tables_of_settings_are_found(tmp_path):
    class Outer(Configuration):
        table: CountdownConfiguration

    inner = CountdownConfiguration(file=tmp_path / "x.csv")
    assert list(sharing.input_files(Outer(table=inner))) == [tmp_path / "x.csv"]
    assert list(sharing.input_files(CountdownConfiguration())) == []


def test_numbers_of_processes_are_checked(monkeypatch):
    assert count_of("3") == 3
    for word in ("0", "-1", "2000", "many", "1.5", ""):
        with pytest.raises(ConfigurationError, match="must be 1 to 1024, or the word cluster"):
            count_of(word)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert _accelerators() == 2
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert _accelerators() == 0


@pytest.mark.slow
@pytest.mark.long
def test_a_large_state_starts_from_the_store_of_another_run(tmp_path):
    """The second run goes on where the first one has ended."""
    settings = {"n": 80, "members": 8, "discarded_cycles": 0}
    runs.run(LargeState(), LargeStateConfiguration(cycles=5, **settings), tmp_path / "first")
    store = tmp_path / "first" / "fields.zarr"
    config = LargeStateConfiguration(cycles=5, members_from=store, **settings)
    results = runs.run(LargeState(), config, tmp_path / "second")
    first, second = (xr.load_dataset(tmp_path / name / "analysis.nc") for name in ("first", "second"))
    assert results.counted == 5 and "LETKF, 8 members of 80 numbers" in results.table
    assert float(second["background_spread"][0]) < float(first["background_spread"][0])
    assert float(second["analysis_rmse"].mean()) < float(first["analysis_rmse"].mean())
    again = runs.run(LargeState(), config, tmp_path / "again")
    np.testing.assert_array_equal(again.scores["value"], results.scores["value"])
    with pytest.raises(ConfigurationError, match=r"holds 8 members of 80 numbers \(float64\), but the settings say"):
        runs.run(LargeState(), config.model_copy(update={"members": 4}), tmp_path / "third")
