"""What a command is pointed at: a run or fields, a table, and which variable of one belongs to which of the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments import find_experiment
from diffassim.experiments.framework.configuration import build_configuration, read_toml
from diffassim.experiments.framework.table_settings import TableConfiguration
from diffassim.io.fields import require_zarr
from diffassim.io.ioda import IODA_SUFFIXES
from diffassim.io.messages import shortened, single_line, suggested
from diffassim.io.observation_table import ObservationTable
from diffassim.io.read_table import read_table
from diffassim.io.units import require_convertible

__all__ = ["Predicted", "find_predictions", "open_run", "read_observations"]

ANALYSIS, FORECAST = "analysis", "forecast"
SPREADS = ("_std", "_spread")
MAP = "_of_map"  # ends the names of axes of maps beside those of stations


class Predicted(NamedTuple):
    """What a run has of one variable of a table.

    Args:
        variable: its name in the table.
        stage: "analysis" or "forecast".
        name: in the run.
        values: with axes of time and place, and maybe of methods, leads and members.
        spread: standard deviations, or None.
        lower, upper: bounds of the central 90 %, or None.
        quantiles: with an axis `probability`, or None.
        units: of the values.
    """

    variable: str
    stage: str
    name: str
    values: xr.DataArray
    spread: xr.DataArray | None
    lower: xr.DataArray | None
    upper: xr.DataArray | None
    quantiles: xr.DataArray | None
    units: str


def open_run(path: Path) -> xr.Dataset:
    """Return the output of a run's directory, or fields from netCDF or zarr; to be closed, it is read where it is used.

    Raises:
        ConfigurationError: if there is nothing of that name.
        DataError: if the run is not finished, or the file is damaged.
    """
    file = path / "analysis.nc" if path.is_dir() and path.suffix != ".zarr" else path
    if not path.exists():
        raise ConfigurationError(f"{shortened(path, 300)}: no such run or file")
    if not file.exists():
        more = f"finish it with: diffassim run --resume {path}" if (path / "config.toml").exists() else "no run is here"
        raise DataError(f"{shortened(file, 300)}: missing; {more}")
    settings: dict[str, Any] = {"engine": "netcdf4"}
    if path.suffix == ".zarr":
        require_zarr(path.name)
        settings = {"engine": "zarr", "consolidated": False}
    try:
        return xr.open_dataset(file, **settings)
    except Exception as error:  # whatever the bytes make the libraries raise
        problem = single_line(f"{type(error).__name__}: {error}", 150)
        raise DataError(f"{shortened(file, 300)}: cannot be read ({problem}); restore it from its source") from None


def read_observations(
    table: Path, layout: Path | None, settings: Mapping[str, Any], run: Path | None = None
) -> ObservationTable:  # fmt: skip
    """Return a table of observations.

    Args:
        table: CSV, parquet, or netCDF in the layout of IODA, which needs no settings.
        layout: TOML file as `diffassim new stations` writes it, of which the part about the table counts; default: the
            settings of the run, where it read a table.
        settings: single settings that are others.
        run: directory of the run.

    Raises:
        ConfigurationError: if it is not known how the table is written.
        DataError: if it cannot be read.
    """
    if table.suffix.lower() in IODA_SUFFIXES and layout is None and not settings:
        return read_table(table)
    values: dict[str, Any] = {}
    if layout is not None:
        values = _of_table(str(layout), read_toml(layout)[1], strict=True)
    elif run is not None and (run / "config.toml").exists():
        name, found = read_toml(run / "config.toml")
        if issubclass(find_experiment(name).configuration, TableConfiguration) and "variables" in found:
            values = _of_table(str(run), found, strict=False)
    values |= dict(settings) | {"file": table}
    if "variables" not in values:
        raise ConfigurationError(
            f"{shortened(table, 300)}: how it is written is not known; say it with --layout my.toml, of which the part "
            "about the table counts (diffassim new stations > my.toml)"
        )
    config: TableConfiguration = build_configuration(TableConfiguration, values, "table")
    return config.read()


def _of_table(file: str, found: dict[str, Any], strict: bool) -> dict[str, Any]:
    """Return those settings that are about a table; what no experiment with one knows is an error."""
    known = set(TableConfiguration.model_fields)
    others = set(find_experiment("stations").configuration.model_fields)
    for key in found:
        if strict and key not in known | others:
            raise ConfigurationError(f"{file}: unknown key {shortened(repr(key))}{suggested(key, known)}")
    return {key: value for key, value in found.items() if key in known}


def find_predictions(
    dataset: xr.Dataset, table: ObservationTable, file: str, names: Mapping[str, str], stages: tuple[str, ...]
) -> list[Predicted]:
    """Return what a run or fields have of the variables of a table.

    A variable is looked for under its own name, with "_analysis" or "_forecast", with "_map", and, where the table has
    only one, under "analysis" or "forecast" alone.

    Args:
        dataset: of the run.
        table: the observations.
        file: name of the run, for messages.
        names: in the run, by variable of the table, where they are others.
        stages: which of "analysis" and "forecast" are wanted.

    Raises:
        ConfigurationError: if the run has nothing of the table, or other units.
    """
    for name in names:
        table.variable(name)
    found, problems = [], []
    for variable in table.names:
        for stage in stages:
            for name in _candidates(variable, stage, names, len(table.names) == 1):
                if name not in dataset:
                    continue
                one = _predicted(dataset, variable, stage, name)
                try:
                    require_convertible(f"{file}: {name}", one.units, table.variable(variable).units)
                except ConfigurationError as error:
                    problems.append(error)
                    continue
                found.append(one)
                break
    for wanted in names.values():
        if wanted not in dataset:
            known = [str(name) for name in dataset.data_vars]
            raise ConfigurationError(
                f"{file}: there is no variable {shortened(repr(wanted))}{suggested(wanted, known)}; there are: "
                f"{shortened(', '.join(known), 300)}"
            )
    if not found and problems:
        raise problems[0]
    if not found:
        raise ConfigurationError(
            f"{file}: has nothing of {', '.join(table.names)}; it holds: "
            f"{shortened(', '.join(map(str, dataset.data_vars)), 300)}; say which is meant with --name "
            f"{table.names[0]}=NAME"
        )
    return found


def _candidates(variable: str, stage: str, names: Mapping[str, str], alone: bool) -> list[str]:
    if variable in names:
        return [names[variable]] if (stage == FORECAST) == names[variable].endswith(FORECAST) else []
    own = [f"{variable}_{stage}", *([variable, f"{variable}_map"] if stage == ANALYSIS else [])]
    return [*own, *([stage] if alone else [])]


def _predicted(dataset: xr.Dataset, variable: str, stage: str, name: str) -> Predicted:
    values = _renamed(dataset[name])
    base = name.removesuffix(f"_{FORECAST}") if name != FORECAST else ""
    bounds = [f"{base}_{end}" if base else end for end in ("lower", "upper", "quantile")]

    def beside(other: str) -> xr.DataArray | None:
        return _renamed(dataset[other]) if other in dataset else None

    spread = next((dataset[f"{name}{end}"] for end in SPREADS if f"{name}{end}" in dataset), None)
    lower, upper, quantiles = map(beside, bounds) if stage == FORECAST else (None, None, None)
    return Predicted(
        variable, stage, name, values, None if spread is None else _renamed(spread), lower, upper, quantiles,
        str(values.attrs.get("units", "1")),
    )  # fmt: skip


def _renamed(array: xr.DataArray) -> xr.DataArray:
    """Return an array whose axes of a map are called like those of fields, and whose axis of steps is one of leads."""
    new = {dim: str(dim).removesuffix(MAP) for dim in array.dims if str(dim).endswith(MAP)}
    new |= {dim: "lead" for dim in array.dims if dim == "step"}
    for axis in new.values():
        if axis in array.coords and axis not in array.dims:
            array = array.drop_vars(axis)
    return array.rename(new)


def lead_times(times: Any, lead: float, units: str) -> Any:
    """Return the times for which forecasts of a lead are valid.

    Args:
        times: at which they were issued, datetime64.
        lead: number of units.
        units: "minutes", "hours", "days", "months" and so on.

    Raises:
        DataError: if the unit is not known.

    Example:
        >>> import numpy as np
        >>> lead_times(np.array(["2021-01-31"], "M8[ns]"), 1.0, "months").astype("M8[D]").tolist()
        [datetime.date(2021, 2, 28)]
    """
    index = pd.DatetimeIndex(times)
    if units.rstrip("s") in ("month", "year"):
        months = int(lead) * (12 if units.startswith("year") else 1)
        return (index + pd.DateOffset(months=months)).to_numpy()
    try:
        unit: Any = units.rstrip("s") if len(units) > 3 else units
        return (index + pd.Timedelta(lead, unit)).to_numpy()
    except (ValueError, TypeError):
        raise DataError(f"the unit {units!r} of the leads is not known, so their times are not") from None
