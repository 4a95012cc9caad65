"""Tables of earthquake ground motion: one row for each event and station."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.io.columns import TextFormat
from diffassim.io.packaged import packaged_file
from diffassim.io.table_source import open_table

__all__ = ["GroundMotion", "local_kilometers", "read_ground_motion", "ridgecrest_file"]

KILOMETERS_PER_DEGREE = 111.195
# Name in the file, and whether a record without it is of no use.
_COLUMNS = {
    "event": ("EarthquakeId", True),
    "time": ("EarthquakeTime", True),
    "event_latitude": ("EarthquakeLatitude", True),
    "event_longitude": ("EarthquakeLongitude", True),
    "depth": ("EarthquakeDepth", True),
    "magnitude": ("EarthquakeMagnitude", True),
    "station": ("StationID", True),
    "station_latitude": ("StationLatitude", True),
    "station_longitude": ("StationLongitude", True),
    "elevation": ("StationElevation", True),
    "distance": ("RuptureDistance", True),
    "pga": ("PGA", True),
    "vs30": ("Vs30_mps_CA_map", False),
    "vs30_slope": ("Vs30_mps_slope", False),
}
ROWS = 250_000  # read at a time
_TEXT = ("event", "time", "station")
GRAVITY = 100.0  # the file gives percent of it


class GroundMotion(NamedTuple):
    """Records in the order of events (by origin time) and stations (by name).

    Args:
        event: number of each record's event, shape (records,).
        station: number of its station.
        log_pga: log10 of the peak ground acceleration in g.
        distance: to the rupture, km.
        times: origin time of each event, shape (events,).
        magnitude: of each event.
        event_place: east, north and depth of each event, km, shape (events, 3); the origin is the first event.
        station_place: east and north of each station, km, shape (stations, 2).
        elevation: of each station, m.
        vs30: mean shear velocity of its upper 30 m, m/s; NaN where it is not known.
        events: their names.
        stations: their names.
    """

    event: np.ndarray
    station: np.ndarray
    log_pga: np.ndarray
    distance: np.ndarray
    times: pd.DatetimeIndex
    magnitude: np.ndarray
    event_place: np.ndarray
    station_place: np.ndarray
    elevation: np.ndarray
    vs30: np.ndarray
    events: list[str]
    stations: list[str]


def ridgecrest_file() -> Path:
    """Return the path of the records of the 2019 Ridgecrest earthquakes that the package gmprocess carries.

    The package is in the public domain; it is not imported, and its dependencies are not needed.

    Raises:
        DataError: if gmprocess is not installed or does not carry the file.
    """
    return packaged_file("gmprocess", "lme/SA_rotd50*", "pip install --no-deps gmprocess")


def read_ground_motion(path: str | Path) -> GroundMotion:
    """Read and check a table of ground motion in the layout of gmprocess.

    Args:
        path: CSV file, one row for each event and station, peak ground acceleration in percent of gravity.

    Returns:
        `GroundMotion`. Records without a needed number are left out.

    Raises:
        DataError: if a column is missing, a cell is no number, a number is impossible, an event has two places or
            magnitudes, or no record is left.
    """
    source, name = open_table(Path(path), TextFormat()), Path(path).name
    wanted = [column for column, _ in _COLUMNS.values()]
    missing = [column for column in wanted if column not in source.names]
    if missing:
        raise DataError(f"{name}: there is no column {missing[0]!r}; it should look like the tables of gmprocess")
    chunks = [chunk.frame for chunk in source.chunks(wanted, [], [], ROWS)]
    if not chunks:
        raise DataError(f"{name}: holds no records")
    table = pd.concat(chunks, ignore_index=True).astype(object)
    columns = {
        key: table[column].to_numpy() if key in _TEXT else _numbers(name, table[column])
        for key, (column, _) in _COLUMNS.items()
    }
    known = np.ones(len(table), bool)
    for key, (_, needed) in _COLUMNS.items():
        if needed:
            known &= pd.notna(columns[key]) & (np.asarray(columns[key]) != "")
    if not known.any():
        raise DataError(f"{name}: no record has event, station, distance and PGA")
    columns = {key: values[known] for key, values in columns.items()}
    for key in ("pga", "distance"):
        if not (columns[key] > 0).all():
            raise DataError(f"{name}: {_COLUMNS[key][0]} holds {columns[key].min():g}; it must be positive")
    return _collected(name, columns)


def local_kilometers(latitude: np.ndarray, longitude: np.ndarray, origin: tuple[float, float]) -> np.ndarray:
    """Return east and north of an origin in km, on a sphere whose meridians are parallel: within a few hundred km.

    Args:
        latitude: degrees north.
        longitude: degrees east.
        origin: latitude and longitude.

    Returns:
        Shape (..., 2).

    Example:
        >>> local_kilometers(np.array([36.0]), np.array([-117.0]), (35.0, -117.0)).round(1).tolist()
        [[0.0, 111.2]]
    """
    east = (np.asarray(longitude) - origin[1]) * np.cos(np.radians(origin[0])) * KILOMETERS_PER_DEGREE
    return np.stack([east, (np.asarray(latitude) - origin[0]) * KILOMETERS_PER_DEGREE], axis=-1)


def _numbers(name: str, column: pd.Series) -> np.ndarray:
    text = column.fillna("").str.strip()
    values = pd.to_numeric(text.where(text != "", None), errors="coerce")
    wrong = values.isna() & ~text.str.lower().isin(["", "nan", "na", "none", "null"])
    if wrong.any():
        raise DataError(f"{name}: {column.name} holds {text[wrong].iloc[0]!r}, which is no number")
    return values.to_numpy(float)


def _collected(name: str, columns: dict[str, np.ndarray]) -> GroundMotion:
    try:
        time = pd.to_datetime(pd.Series(columns["time"]), utc=True, format="ISO8601").dt.tz_localize(None)
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: EarthquakeTime is no time ({error})") from None
    frame = pd.DataFrame(columns).assign(time=time.to_numpy())
    about_events = ["time", "event_latitude", "event_longitude", "depth", "magnitude"]
    events = frame.drop_duplicates(["event", *about_events]).sort_values(["time", "event"])
    if events["event"].duplicated().any():
        twice = events["event"][events["event"].duplicated()].iloc[0]
        raise DataError(f"{name}: the records of event {twice!r} differ in its time, place or magnitude")
    if frame.duplicated(["event", "station"]).any():
        raise DataError(f"{name}: a station appears twice in one event; keep one record of it")
    stations = frame.groupby("station")[["station_latitude", "station_longitude", "elevation", "vs30", "vs30_slope"]]
    about = stations.median()
    origin = (float(events["event_latitude"].iloc[0]), float(events["event_longitude"].iloc[0]))
    place = local_kilometers(events["event_latitude"].to_numpy(), events["event_longitude"].to_numpy(), origin)
    frame = frame.assign(
        event=pd.Index(events["event"]).get_indexer(pd.Index(frame["event"])),
        station=about.index.get_indexer(pd.Index(frame["station"])),
    ).sort_values(["event", "station"])
    return GroundMotion(
        frame["event"].to_numpy(), frame["station"].to_numpy(), np.log10(frame["pga"].to_numpy() / GRAVITY),
        frame["distance"].to_numpy(), pd.DatetimeIndex(events["time"]), events["magnitude"].to_numpy(),
        np.column_stack([place, events["depth"].to_numpy()]),
        local_kilometers(about["station_latitude"].to_numpy(), about["station_longitude"].to_numpy(), origin),
        about["elevation"].to_numpy(), about["vs30"].fillna(about["vs30_slope"]).to_numpy(),
        [str(e) for e in events["event"]], [str(s) for s in about.index],
    )  # fmt: skip
