"""Model states as CF datasets, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.io.netcdf import from_dataset, to_dataset
from diffassim.models import Lorenz96, Variable
from tests.models.zoo import MODELS

TIMES = [0.0, 0.5, 1.0]


def stacked(entry, dtype=jnp.float64):
    """Three states in a row, as a rollout returns them."""
    states = [entry.example_state(dtype, jax.random.key(seed)) for seed in range(3)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


@pytest.mark.parametrize("entry", MODELS, ids=[entry.name for entry in MODELS])
def test_states_of_every_model_come_back_from_a_file(entry, tmp_path):
    states, variables = stacked(entry), entry.model.variables()
    dataset = to_dataset(states, variables, {"time": TIMES}, time_units=entry.model.time_units)
    dataset.to_netcdf(tmp_path / "states.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "states.nc", engine="netcdf4", decode_times=False) as opened:
        back = from_dataset(opened, variables)
        assert opened["time"].attrs["units"] == entry.model.time_units
        for variable in jax.tree.leaves(variables, is_leaf=lambda node: isinstance(node, Variable)):
            found = opened[variable.name]
            assert found.dims == ("time", *variable.dims)
            assert found.attrs == {"units": variable.units, "long_name": variable.long_name}
    assert jax.tree.structure(back) == jax.tree.structure(states)
    jax.tree.map(np.testing.assert_array_equal, back, states)


def test_single_precision_is_kept():
    dataset = to_dataset(stacked(MODELS[1], jnp.float32), Lorenz96().variables(), {"time": TIMES})
    assert dataset["x"].dtype == np.float32


def test_coordinates_have_cf_attributes():
    dataset = to_dataset(
        np.zeros((2, 3, 40)), Lorenz96().variables(), {"member": range(2), "time": TIMES}, time_units="days"
    )
    assert dataset["x"].dims == ("member", "time", "site")
    assert dataset["member"].attrs["standard_name"] == "realization"
    assert dataset["time"].attrs == {"standard_name": "time", "long_name": "time", "axis": "T", "units": "days"}


def test_dates_are_written_as_dates(tmp_path):
    dates = pd.date_range("1979-01-01", periods=3)
    dataset = to_dataset(np.zeros((3, 40)), Lorenz96().variables(), {"time": dates})
    dataset.to_netcdf(tmp_path / "dates.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "dates.nc", engine="netcdf4") as opened:
        np.testing.assert_array_equal(opened["time"].values, dates.values)


def test_an_axis_without_values_has_no_coordinate():
    dataset = to_dataset(np.zeros((3, 40)), Lorenz96().variables(), {"time": None})
    assert dataset["x"].dims == ("time", "site") and "time" not in dataset.coords


def test_other_orders_of_dimensions_are_read():
    dataset = to_dataset(np.arange(120.0).reshape(3, 40), Lorenz96().variables(), {"time": TIMES})
    turned = dataset.transpose("site", "time")
    np.testing.assert_array_equal(from_dataset(turned, Lorenz96().variables()), dataset["x"].values)


LEVEL = Variable("level", ("gauge",), "m", "water level")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: to_dataset(np.zeros((3, 4, 5)), LEVEL, {"time": TIMES}), ShapeError, r"level has shape \(3, 4, 5\)"),
        (lambda: to_dataset(np.zeros((2, 4)), LEVEL, {"time": TIMES}), ShapeError, r"level of shape \(2, 4\)"),
        (lambda: to_dataset({"a": np.zeros((3, 4))}, {"b": LEVEL}, {"time": TIMES}), ShapeError, "not the structure"),
        (
            lambda: to_dataset((np.zeros((3, 4)),) * 2, (LEVEL, LEVEL), {"time": TIMES}),
            ConfigurationError,
            "two variables have the name 'level'",
        ),
        (
            lambda: to_dataset((np.zeros((3, 4)), np.zeros((3, 5))), (LEVEL, LEVEL._replace(name="b")), {"time": None}),
            ShapeError,
            "b of shape",
        ),
        (lambda: from_dataset(xr.Dataset({"x": 1.0}), LEVEL), DataError, r"no variable 'level'; there are \['x'\]"),
        (
            lambda: from_dataset(xr.Dataset({"level": ("gauge", [1.0], {"units": "cm"})}), LEVEL),
            DataError,
            "level is in 'cm', expected 'm'; convert it",
        ),
        (lambda: from_dataset(xr.Dataset({"level": ("time", [1.0])}), LEVEL), DataError, "lacks the dimension 'gauge'"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
