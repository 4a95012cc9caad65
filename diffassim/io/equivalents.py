"""Model equivalents: what a run, or fields, have at the times and places of reports, and why they have nothing."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from diffassim.core.errors import DataError
from diffassim.io.axes import find_axes
from diffassim.io.messages import shortened
from diffassim.io.observation_table import ObservationTable
from diffassim.observations.flags import QCFlag

__all__ = ["STATUS", "Equivalents", "equivalents_at", "status_of"]

BLOCK = 20_000  # reports that are looked up at a time
GAP = 1.5  # usual steps: between times further apart nothing is interpolated
SAME_PLACE = 1e-3  # degrees
STATUS = {
    QCFlag.PASS: "used",
    QCFlag.MISSING: "missing",
    QCFlag.DOMAIN: "outside of the domain",
    QCFlag.EXCLUDED: "outside of the time",
    QCFlag.H_FAILED: "missing in the run",
    QCFlag.BOUNDS: "outside of bounds",
}
PLACES = ("station", "place")


class Equivalents(NamedTuple):
    """What belongs to reports.

    Args:
        values: shape (report, ...), NaN where there is nothing; axes behind the first are those of the array that are
            neither time nor place, in their order.
        flags: `QCFlag`s, shape (report,): `PASS`, `EXCLUDED` (outside of the time), `DOMAIN` (outside of the domain, a
            station that is not there), `H_FAILED` (missing there).
        dims: names of the axes of `values` behind the first.
    """

    values: np.ndarray
    flags: np.ndarray
    dims: tuple[str, ...]


class _Axis(NamedTuple):
    """For each report the entries before and after it, the weight of the later one, and whether it lies inside."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    inside: np.ndarray


def equivalents_at(array: xr.DataArray, table: ObservationTable, file: str = "run") -> Equivalents:
    """Interpolate an array linearly to the times and places of all reports of a table.

    Places are those of its latitude and longitude, or its stations (by name, else by place); where it has neither,
    the only one. Between times that are further apart than one and a half of the usual step, nothing is
    interpolated. A value that is missing in the array counts where its weight is zero.

    Args:
        array: with an axis `time` (datetime64, UTC) or none, axes of place, and any others.
        table: the reports.
        file: of the array, for messages.

    Raises:
        DataError: if times are no dates, places of stations are not known, or there is one place for several stations.

    Example:
        >>> import pandas as pd
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.read_table import read_table
        >>> frame = pd.DataFrame({"time": ["2021-01-01T12", "2021-01-09"], "station": "A", "t": [1.0, 2.0]})
        >>> table = read_table(frame, LongLayout(variables=(TableVariable("t", unit="K"),)))
        >>> days = np.array(["2021-01-01", "2021-01-02"], "M8[ns]")
        >>> run = xr.DataArray([[3.0], [5.0]], dims=("time", "station"), coords={"time": days, "station": ["A"]})
        >>> found = equivalents_at(run, table)
        >>> found.values.tolist(), [QCFlag(flag).name for flag in found.flags]
        ([4.0, nan], ['PASS', 'EXCLUDED'])
    """
    axes, dims, in_time = [], [], np.ones(len(table), bool)
    if "time" in array.dims:
        axes.append(_in_time(array["time"].values, table.time, file))
        dims.append("time")
        in_time = axes[0].inside
    found = _in_space(array, table, file)
    others = tuple(str(dim) for dim in array.dims if dim not in dims and dim not in found)
    axes, dims = [*axes, *found.values()], [*dims, *found]
    values = array.transpose(*dims, *others).values.astype(float)
    inside = np.all([axis.inside for axis in axes], axis=0) if axes else np.ones(len(table), bool)
    out = np.full((len(table), *values.shape[len(dims) :]), np.nan)
    reports = np.flatnonzero(inside)
    for first in range(0, len(reports), BLOCK):
        some = reports[first : first + BLOCK]
        out[some] = _interpolated(values, [_Axis(*(part[some] for part in axis)) for axis in axes])
    failed = np.isnan(out).reshape(len(out), -1).all(axis=1)
    flags = np.select(
        [~in_time, ~inside, failed], [int(QCFlag.EXCLUDED), int(QCFlag.DOMAIN), int(QCFlag.H_FAILED)], int(QCFlag.PASS)
    )
    return Equivalents(out, flags.astype(np.int32), others)


def status_of(flags: Any) -> np.ndarray:
    """Return flags in words.

    Example:
        >>> status_of([0, 14]).tolist()
        ['used', 'outside of the time']
    """
    numbers, index = np.unique(np.asarray(flags, int), return_inverse=True)
    words = {int(flag): text for flag, text in STATUS.items()}
    names = [words.get(number, _name(number)) for number in numbers.tolist()]
    return np.asarray(names, dtype=object)[index]


def _name(number: int) -> str:
    return QCFlag(number).name.lower().replace("_", " ") if number in list(QCFlag) else f"flag {number}"


def _interpolated(values: np.ndarray, axes: list[_Axis]) -> np.ndarray:
    """Return multilinear interpolations; what has no weight may be missing."""
    total: Any = 0.0
    for corner in itertools.product((0, 1), repeat=len(axes)):
        index = tuple(axis.upper if c else axis.lower for c, axis in zip(corner, axes, strict=True))
        weight = np.prod([axis.weight if c else 1 - axis.weight for c, axis in zip(corner, axes, strict=True)], axis=0)
        taken = values[index]
        weight = np.reshape(weight, np.shape(weight) + (1,) * (taken.ndim - np.ndim(weight)))
        total = total + np.where(weight == 0, 0.0, weight * taken)
    return np.asarray(total)


def _along(points: np.ndarray, wanted: np.ndarray) -> _Axis:
    """Return where places lie along ascending points."""
    last = len(points) - 1
    lower = np.clip(np.searchsorted(points, wanted, "right") - 1, 0, last)
    upper = np.minimum(lower + 1, last)
    width = points[upper] - points[lower]
    inside = (wanted >= points[0]) & (wanted <= points[-1])
    weight = np.where(inside & (width > 0), (wanted - points[lower]) / np.where(width > 0, width, 1), 0.0)
    return _Axis(lower, upper, weight, inside)


def _in_time(times: np.ndarray, wanted: np.ndarray, file: str) -> _Axis:
    if np.asarray(times).dtype.kind != "M":
        raise DataError(
            f"{shortened(file)}: its times are no dates of the usual calendar ({np.asarray(times).dtype}), so nothing "
            "can be said of reports at dates"
        )
    points = np.asarray(times, "datetime64[us]").astype(np.int64)
    if len(points) > 1 and not (np.diff(points) > 0).all():
        raise DataError(f"{shortened(file)}: its times do not increase")
    found = _along(points.astype(float), wanted.astype("datetime64[us]").astype(np.int64).astype(float))
    usual = float(np.median(np.diff(points))) if len(points) > 1 else 0.0
    gap = (points[found.upper] - points[found.lower] > GAP * usual) & (found.weight > 0)
    return found._replace(inside=found.inside & ~gap)


def _in_space(array: xr.DataArray, table: ObservationTable, file: str) -> dict[str, _Axis]:
    """Return the axes of place, by the dimension's name."""
    for dim in PLACES:
        if dim in array.dims:
            return {dim: _at_stations(array, dim, table)}
    try:
        axes = find_axes(file, array.to_dataset(name="_"))
    except DataError:
        axes = None
    if axes is None or axes.latitude not in array.dims or axes.longitude not in array.dims:
        count = len(np.unique(table.station))
        if count > 1:
            raise DataError(
                f"{file}: is of one place, but {table.file} has reports of {count} stations; leave only those of that "
                "place in it"
            )
        return {}
    longitude, latitude, _ = table.places().T
    if np.isnan(longitude).all() and len(table):
        raise DataError(
            f"{table.file}: the places of its stations are not known, which fields need; say which columns longitude "
            "and latitude are, or give a table of the stations"
        )
    return {
        axes.latitude: _of_latitude(array[axes.latitude].values.astype(float), latitude),
        axes.longitude: _of_longitude(array[axes.longitude].values.astype(float), longitude),
    }


def _of_latitude(points: np.ndarray, wanted: np.ndarray) -> _Axis:
    order = np.argsort(points)
    found = _along(points[order], wanted)
    return found._replace(lower=order[found.lower], upper=order[found.upper])


def _of_longitude(points: np.ndarray, wanted: np.ndarray) -> _Axis:
    """Return where longitudes lie, in whatever turn, and across the seam of a grid that goes around."""
    turned = np.mod(points - points.min(), 360.0)
    order = np.argsort(turned)
    along = turned[order]
    step = float(np.median(np.diff(along))) if len(along) > 1 else 0.0
    if len(along) > 1 and 360.0 - along[-1] < GAP * step:
        order, along = np.append(order, order[0]), np.append(along, 360.0)
    found = _along(along, np.mod(np.where(np.isnan(wanted), -1e9, wanted) - points.min(), 360.0))
    inside = found.inside & ~np.isnan(wanted)
    return found._replace(lower=order[found.lower], upper=order[found.upper], inside=inside)


def _at_stations(array: xr.DataArray, dim: str, table: ObservationTable) -> _Axis:
    """Return the station of each report: of its name, else within a thousandth of a degree."""
    names = {str(name): k for k, name in enumerate(array[dim].values)} if dim in array.coords else {}
    mine = [names.get(str(name), -1) for name in table.stations.names]
    prefix = "" if dim == "station" else f"{dim}_"
    if f"{prefix}longitude" in array.coords and f"{prefix}latitude" in array.coords and max(mine, default=-1) < 0:
        there = np.stack([array[f"{prefix}{axis}"].values.astype(float) for axis in ("longitude", "latitude")])
        for k, place in enumerate(zip(table.stations.longitude, table.stations.latitude, strict=True)):
            away = np.abs(there - np.asarray(place, float)[:, None])
            away[0] = np.minimum(away[0], 360 - away[0])
            distance = np.where(np.isnan(away).any(axis=0), np.inf, away.max(axis=0))
            mine[k] = int(np.argmin(distance)) if distance.size and distance.min() < SAME_PLACE else -1
    index = np.asarray(mine, int)[table.station]
    known = index >= 0
    index = np.where(known, index, 0)
    return _Axis(index, index, np.zeros(len(index)), known)
