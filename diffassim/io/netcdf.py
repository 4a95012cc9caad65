"""Model states as xarray datasets with CF attributes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.models.base import Variable

__all__ = ["from_dataset", "to_dataset"]

_COORDINATES = {
    "time": {"standard_name": "time", "long_name": "time", "axis": "T"},
    "member": {"standard_name": "realization", "long_name": "ensemble member", "units": "1"},
}


def to_dataset(states: Any, variables: Any, leading: Mapping[str, Any], *, time_units: str = "1") -> xr.Dataset:
    """Return states as a dataset that knows its dimensions, names and units.

    Args:
        states: pytree of arrays with the axes `leading` in front of those of one state.
        variables: pytree of `Variable`s of the same structure, as `Model.variables()` returns it.
        leading: name and coordinate values of each leading axis, in order; for example {"time": dates} or
            {"member": range(20), "time": hours}. None as values: no coordinate.
        time_units: CF unit of a numeric time coordinate (the model's `time_units`, or "days since 1979-01-01").

    Returns:
        Dataset with one variable for each leaf.

    Raises:
        ShapeError: if structures, axes or lengths do not fit.
        ConfigurationError: if two variables have the same name.

    Example:
        >>> from diffassim.models import Lorenz96
        >>> dataset = to_dataset(np.zeros((3, 40)), Lorenz96().variables(), {"time": [0.0, 0.05, 0.1]})
        >>> dataset["x"].dims, dataset["x"].attrs["long_name"]
        (('time', 'site'), 'Lorenz-96 state')
    """
    dataset = xr.Dataset(
        coords={name: _coordinate(name, c, time_units) for name, c in leading.items() if c is not None}
    )
    for variable, leaf in _pairs(variables, states):
        dims, values = (*leading, *variable.dims), np.asarray(leaf)
        if values.ndim != len(dims):
            raise ShapeError(f"to_dataset: {variable.name} has shape {values.shape}, but the dimensions {dims}")
        if variable.name in dataset:
            raise ConfigurationError(f"to_dataset: two variables have the name {variable.name!r}")
        try:
            dataset[variable.name] = (dims, values, _attributes(variable))
        except ValueError as error:
            raise ShapeError(f"to_dataset: {variable.name} of shape {values.shape} does not fit: {error}") from None
    return dataset


def from_dataset(dataset: xr.Dataset, variables: Any) -> Any:
    """Return states from a dataset: the inverse of `to_dataset`.

    Args:
        dataset: dataset that holds all variables, with their units.
        variables: pytree of `Variable`s.

    Returns:
        Pytree of NumPy arrays; dimensions that a variable does not name come first, in the dataset's order.

    Raises:
        DataError: if a variable or one of its dimensions is missing, or it has another unit.

    Example:
        >>> variable = Variable("level", ("gauge",), "m")
        >>> from_dataset(to_dataset(np.ones((1, 2)), variable, {"time": [0.0]}), variable).tolist()
        [[1.0, 1.0]]
    """

    def read(variable: Variable) -> np.ndarray:
        if variable.name not in dataset:
            raise DataError(
                f"from_dataset: no variable {variable.name!r}; there are {sorted(map(str, dataset.data_vars))}"
            )
        found = dataset[variable.name]
        if found.attrs.get("units", variable.units) != variable.units:
            units = found.attrs["units"]
            raise DataError(f"from_dataset: {variable.name} is in {units!r}, expected {variable.units!r}; convert it")
        missing = [dim for dim in variable.dims if dim not in found.dims]
        if missing:
            raise DataError(f"from_dataset: {variable.name} lacks the dimension {missing[0]!r}; it has {found.dims}")
        return found.transpose(..., *variable.dims).values

    return jax.tree.map(read, variables, is_leaf=_is_variable)


def _pairs(variables: Any, states: Any) -> list[tuple[Variable, Any]]:
    names, structure = jax.tree.flatten(variables, is_leaf=_is_variable)
    try:
        return list(zip(names, structure.flatten_up_to(states), strict=True))
    except ValueError as error:
        raise ShapeError(f"to_dataset: the states have not the structure of the variables: {error}") from None


def _is_variable(node: Any) -> bool:
    return isinstance(node, Variable)


def _attributes(variable: Variable) -> dict[str, str]:
    return {"units": variable.units, "long_name": variable.long_name or variable.name}


def _coordinate(name: str, values: Any, time_units: str) -> tuple[str, np.ndarray, dict[str, str]]:
    values, attributes = np.asarray(values), dict(_COORDINATES.get(name, {}))
    if name == "time" and values.dtype.kind in "iuf":  # xarray writes the unit of dates itself
        attributes["units"] = time_units
    return name, values, attributes
