"""From a table of reports to observations, and their flags back to the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.cycling.reports import observations_from_reports
from diffassim.io.observation_table import ObservationTable
from diffassim.io.regular import duration, shown, utc

__all__ = ["TableObservations", "observations_from_table"]


class TableObservations(NamedTuple):
    """Observations, and which report of the table is in each of their entries.

    observations, one stream (a tuple of streams for several variables); variables, the name of each stream's; report,
    for each stream the number of the report by entry, shape (row, column), -1 for padding; size, number of the table's
    reports.
    """

    observations: Any
    variables: tuple[str, ...]
    report: tuple[np.ndarray, ...]
    size: int

    def to_reports(self, entries: Any, fill: Any = -1) -> dict[str, np.ndarray]:
        """Return what belongs to entries of the streams by variable and report.

        Args:
            entries: an array of shape (row, column), such as flags, departures or analyzed values; a tuple of arrays
                for several streams. A `Screening` stands for its flags.
            fill: for reports that are in no entry.

        Raises:
            ShapeError: if an array is not shaped like the observed values.
        """
        arrays = getattr(entries, "flags", entries)
        arrays = arrays if isinstance(arrays, tuple | list) else (arrays,)
        found = {}
        if len(arrays) != len(self.report):
            raise ShapeError(f"to_reports: {len(arrays)} arrays for {len(self.report)} streams")
        for name, report, array in zip(self.variables, self.report, arrays, strict=True):
            array = np.asarray(array)
            if array.shape != report.shape:
                raise ShapeError(f"to_reports: {name} has shape {array.shape}, but the observations {report.shape}")
            out = np.full(self.size, fill, dtype=np.result_type(array.dtype, type(fill)))
            out[report[report >= 0]] = array[report >= 0]
            found[name] = out
        return found


def observations_from_table(
    table: ObservationTable,
    variables: str | tuple[str, ...] | None = None,
    *,
    operator: Any,
    origin: Any,
    dt: Any,
    places: Any = None,
    std: Any = None,
    start: Any = None,
    end: Any = None,
    **fields: Any,
) -> TableObservations:
    """Return the used values of a table as padded `Observations`, each report at its own time and place.

    Args:
        table: the reports.
        variables: name, or names of several, which are a stream each; None: all.
        operator: H(x, where) that takes many places at once (`Interpolate`); or one by variable, as a mapping.
        origin: time of step 0, UTC (text, datetime or datetime64).
        dt: length of a model step: timedelta64, timedelta, or text such as "6h".
        places: function (longitude, latitude, elevation) -> `where`, of arrays (report,) to an array (report, D) or
            pytree, in the coordinates of the model's grid; or an array or pytree with a leading axis of stations;
            default: (latitude, longitude) in degrees, as on a `Sphere`. A place that is not finite is missing.
        std: standard deviation of the error in the unit of the table, a number, or numbers by variable; default: what
            the table holds.
        start: first time that counts, UTC; default: the origin.
        end: time from which on reports do not count; default: none.
        **fields: as in `observations_from_reports` (`rows`, `columns`, `loss`).

    Returns:
        The observations, and which report is where.

    Raises:
        ConfigurationError: if a variable, its operator or its error is not known, or dt is no length of time.
        DataError: if no report is left.

    Example:
        >>> import pandas as pd
        >>> import diffassim as da
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.read_table import read_table
        >>> frame = pd.DataFrame(
        ...     {"time": ["2021-01-01T00:00", "2021-01-01T09:00"], "lon": [1.0, 2.5], "lat": 50.0, "t": [280.0, 281.0]}
        ... )
        >>> layout = LongLayout(
        ...     variables=(TableVariable("t", unit="K", std=0.5),), station=None, longitude="lon", latitude="lat"
        ... )
        >>> found = observations_from_table(
        ...     read_table(frame, layout), operator=da.observations.Interpolate(spacing=(1.0,)), origin="2021-01-01",
        ...     dt="6h", places=lambda longitude, latitude, elevation: longitude[:, None],
        ... )
        >>> found.observations.steps[:2].tolist(), found.observations.fraction[:2, 0].tolist()
        ([0, 1], [0.0, 0.5])
        >>> found.report[0][:2, 0].tolist(), found.to_reports(found.observations.values)["t"].tolist()
        ([0, 1], [280.0, 281.0])
    """
    names = table.names if variables is None else (variables,) if isinstance(variables, str) else tuple(variables)
    first = utc("origin", origin)
    since, until = first if start is None else utc("start", start), None if end is None else utc("end", end)
    step = duration("observations_from_table: dt", dt)
    found = []
    for name in names:
        report = _reports(table, name, since, until)
        observations, entry = observations_from_reports(
            table.values[name][report], table.time[report], step, origin=first,
            operator=_of(operator, name, "operator"), where=_where(table, places, report),
            std=_error(table, std, name)[report], **fields,
        )  # fmt: skip
        found.append((observations, np.where(entry >= 0, report[entry], -1)))
    streams, reports = zip(*found, strict=True)
    return TableObservations(streams if len(streams) > 1 else streams[0], names, reports, len(table))


def _reports(table: ObservationTable, name: str, since: np.datetime64, until: np.datetime64 | None) -> np.ndarray:
    """Return the numbers of the reports that are used; raise `DataError` if there are none."""
    inside = table.time >= since if until is None else (table.time >= since) & (table.time < until)
    report = np.flatnonzero(inside & table.used(name))
    if not len(report):
        last = "" if until is None else f" to before {shown(until)}"
        held = f"{shown(table.time[0])} to {shown(table.time[-1])}" if len(table) else "none at all"
        raise DataError(
            f"{table.file}: no usable value of {name} from {shown(since)}{last} UTC; the table has "
            f"{int(table.used(name).sum())}, {held}"
        )
    return report


def _where(table: ObservationTable, places: Callable[..., Any] | Any, report: np.ndarray) -> Any:
    if places is None or callable(places):
        longitude, latitude, elevation = table.places()[report].T
        return np.stack([latitude, longitude], axis=-1) if places is None else places(longitude, latitude, elevation)
    count = len(table.stations.names)
    for leaf in jax.tree.leaves(places):
        if np.shape(leaf)[:1] != (count,):
            raise ShapeError(
                f"observations_from_table: places has shape {np.shape(leaf)}, but the table has {count} stations"
            )
    return jax.tree.map(lambda leaf: np.asarray(leaf)[table.station[report]], places)


def _error(table: ObservationTable, std: Any, name: str) -> np.ndarray:
    if std is not None:
        return np.full(len(table), float(_of(std, name, "std")))
    if name not in table.std:
        raise ConfigurationError(
            f"observations_from_table: the error of {name} is not known; give std=... in {table.variable(name).units}, "
            "or let the table hold it (TableVariable(std=...))"
        )
    return table.std[name]


def _of(given: Any, name: str, what: str) -> Any:
    if not isinstance(given, Mapping):
        return given
    if name not in given:
        raise ConfigurationError(
            f"observations_from_table: {what} is given for {', '.join(map(str, given))}, but not for {name}"
        )
    return given[name]
