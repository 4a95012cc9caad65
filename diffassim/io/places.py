"""Places of stations: from numbers or degrees and minutes, checked for exchanged columns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.io.cells import missing_markers, numbers, texts
from diffassim.io.columns import Region, StationTable, TextFormat
from diffassim.io.messages import shortened
from diffassim.io.stations import Stations
from diffassim.io.table_source import open_table

__all__ = ["check_places", "degrees", "places_as_names", "read_stations"]

FULL_TURN = 360.0
# 51d56'N, 6d21'25.056"W, 51 56 16 N, 51.93N: degrees, then minutes and seconds if any, and the side of the sky
NUMBER = r"\d+(?:\.\d+)?"
SEXAGESIMAL = (
    rf"^(?P<sign>[+-]?)(?P<d>{NUMBER})(?:\s*(?:deg|d|\u00b0|\u00ba|:|\s)\s*"
    rf"(?:(?P<m>{NUMBER})(?:\s*(?:'|\u2032|\u2019|:|\s)\s*(?:(?P<s>{NUMBER})\s*(?:\"|\u2033|\u201d|'')?)?)?)?)?"
    r"\s*(?P<side>[NSEWnsew]?)$"
)
NONE = missing_markers(("", "NA", "NaN", "nan", "-", "null", "None"))


def degrees(file: str, column: pd.Series, first_row: int, text: TextFormat) -> np.ndarray:
    r"""Return a column of longitudes or latitudes in degrees east or north, NaN where there is none.

    Args:
        file: name for messages.
        column: numbers, or text such as 51d56'N.
        first_row: number of the first row in the file.
        text: how numbers are written.

    Raises:
        DataError: for the first cell that is neither, with its row.

    Example:
        >>> cells = pd.Series(["51d56'N", "10d15'W", "-3.5", "6d21'36''W"], name="place")
        >>> degrees("a.csv", cells, 2, TextFormat()).round(4).tolist()
        [51.9333, -10.25, -3.5, -6.36]
    """
    if pd.api.types.is_numeric_dtype(column.dtype):
        return numbers(file, column, first_row, NONE, text)
    cells = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    plain = cells.str.replace(text.decimal, ".", regex=False) if text.decimal != "." else cells
    parts = plain.str.extract(SEXAGESIMAL)
    values = pd.to_numeric(parts["d"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    rest = [pd.to_numeric(parts[part], errors="coerce").to_numpy(dtype=float, na_value=np.nan) for part in ("m", "s")]
    too_many = (np.nan_to_num(rest[0]) >= 60) | (np.nan_to_num(rest[1]) >= 60)
    values = values + np.nan_to_num(rest[0]) / 60 + np.nan_to_num(rest[1]) / 3600
    negative = (parts["sign"] == "-").to_numpy() ^ parts["side"].str.upper().isin(["S", "W"]).to_numpy()
    values = np.where(negative, -values, values)
    bad = (np.isnan(values) | too_many) & ~cells.isin(NONE.texts).to_numpy()
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(
            f"{file}: column {shortened(column.name)}, row {first_row + at}: {shortened(repr(cells.iloc[at]))} is "
            "neither a number of degrees nor degrees and minutes such as 51d56'N"
        )
    return np.where(cells.isin(NONE.texts).to_numpy(), np.nan, values)


def places_as_names(longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each place into names of the different ones, -1 where a place is not known, and the names.

    Example:
        >>> [part.tolist() for part in places_as_names(np.array([8.5, np.nan, 8.5]), np.array([50.0, 1.0, 50.0]))]
        [[0, -1, 0], ['50 8.5']]
    """
    both = np.empty(len(longitude), complex)  # a sum would make NaN of infinity
    both.real, both.imag = longitude, latitude
    codes, pairs = pd.factorize(both)
    return codes, np.array([f"{pair.imag:.10g} {pair.real:.10g}" for pair in pairs], dtype=object)


def read_stations(table: StationTable, region: Region | None) -> Stations:
    """Read and check the places of stations, in the order of their table.

    Raises:
        ConfigurationError: if a column is not there.
        DataError: if a name is missing or given twice, or a place impossible, with file and row.

    Example:
        >>> source = pd.DataFrame({"id": ["A"], "lon": [8.0], "lat": [50.0]})
        >>> read_stations(StationTable(source, station="id"), None).longitude.tolist()
        [8.0]
    """
    source = open_table(table.source, table.text)
    file = "the table of stations" if isinstance(table.source, pd.DataFrame) else source.name
    labels = [table.station, table.longitude, table.latitude]
    heights = [] if table.elevation is None else [table.elevation]
    chunks = list(source.chunks(labels, heights, NONE.texts, 1_000_000))
    if not chunks:
        raise DataError(f"{file}: holds no stations")
    row = chunks[0].first_row
    frame = pd.concat([chunk.frame for chunk in chunks], ignore_index=True)
    codes, names = texts(frame[table.station])
    longitude, latitude = (degrees(file, frame[c], row, table.text) for c in (table.longitude, table.latitude))
    elevation = numbers(file, frame[heights[0]], row, NONE, table.text) if heights else np.full(len(codes), np.nan)
    blank = (codes < 0) & np.isnan(longitude) & np.isnan(latitude)
    again = (codes >= 0) & pd.Series(codes).duplicated().to_numpy()
    for bad, problem in (((codes < 0) & ~blank, "has no name"), (again, "is there already")):
        if bad.any():
            at = int(np.argmax(bad))
            name = "a station" if codes[at] < 0 else f"the station {shortened(repr(names[codes[at]]))}"
            raise DataError(f"{file}: row {row + at}: {name} {problem}; keep one row for each")
    kept = np.flatnonzero(~blank)
    found = Stations(names[codes[kept]].astype(object), longitude[kept], latitude[kept], elevation[kept])
    check_places(file, found.names, found.longitude, found.latitude, row + kept, region)
    return found


def check_places(
    file: str, names: np.ndarray, longitude: np.ndarray, latitude: np.ndarray, row: np.ndarray, region: Region | None
) -> None:
    """Raise `DataError`, naming file, row and station, for the first place that is none, or outside of the region.

    Args:
        file: name for messages.
        names: of the stations, for each place.
        longitude: degrees east, NaN where unknown.
        latitude: degrees north.
        row: of each in the file.
        region: where they should lie.

    Example:
        >>> check_places("a.csv", np.array(["A"]), np.array([8.0]), np.array([50.0]), np.array([2]), None)
    """
    known = np.isfinite(longitude) & np.isfinite(latitude)
    wrong = (np.abs(latitude) > 90) | (np.abs(longitude) > FULL_TURN) | np.isinf(latitude) | np.isinf(longitude)
    problem = "is no latitude and longitude in degrees"
    if not wrong.any() and region is not None:
        wrong = known & ~region.holds(longitude, latitude)
        box = f"{region.west:g} to {region.east:g} east, {region.south:g} to {region.north:g} north"
        problem = f"lies outside of the region, {box}"
    if not wrong.any():
        return
    at = int(np.argmax(wrong))
    swapped = (np.abs(longitude[wrong]) <= 90) & (np.abs(latitude[wrong]) <= FULL_TURN)
    if region is not None and swapped.all():
        swapped = region.holds(latitude[wrong], longitude[wrong])
    advice = "; latitude and longitude seem to be exchanged" if swapped.all() else "; correct it"
    raise DataError(
        f"{file}: row {int(row[at])}: the place of {shortened(repr(str(names[at])))}, latitude {latitude[at]:g} and "
        f"longitude {longitude[at]:g}, {problem}{advice} ({int(wrong.sum())} such places)"
    )
