"""Tables of observations and analyses as CSV, parquet or netCDF, to be read back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from diffassim.core.errors import ConfigurationError
from diffassim.io.analysis import stations_to_dataset
from diffassim.io.columns import TableVariable, TextFormat, TimeColumns
from diffassim.io.ioda import IODA_SUFFIXES, write_ioda
from diffassim.io.layout import LongLayout
from diffassim.io.messages import shortened
from diffassim.io.observation_table import ObservationTable

__all__ = ["write_table"]

CSV = (".csv", ".txt")
PARQUET = (".parquet", ".pq")


def write_table(table: ObservationTable | pd.DataFrame, path: str | Path) -> LongLayout | None:
    """Write a table, a row for each report, in the format that the name of the file ends with.

    Units stand behind the names of the columns in CSV, as in "ozone [ppb]", and in the metadata of the columns in
    parquet. Times keep the zone of the file they came from, with the offset written out.

    Args:
        table: reports, or the frame of an analysis (`analysis_to_table`), whose units are in `attrs["units"]`.
        path: ends with .csv (or .csv.gz), .parquet, or .nc: reports in the layout of IODA, an analysis as arrays of
            time and station.

    Returns:
        The layout with which `read_table` reads the file back; None for netCDF, which needs none, and for an analysis.

    Raises:
        ConfigurationError: if the ending is another, or parquet is to be written without pyarrow.

    Example:
        >>> from diffassim.io.read_table import read_table
        >>> frame = pd.DataFrame({"time": ["2021-01-01"], "station": ["A"], "t": [280.0]})
        >>> table = read_table(frame, LongLayout(variables=(TableVariable("t", unit="K"),)))
        >>> layout = write_table(table, "t.csv")
        >>> read_table("t.csv", layout).equals(table)
        True
    """
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-1] if suffixes else ""
    if suffix in IODA_SUFFIXES:
        if isinstance(table, ObservationTable):
            write_ioda(table, path)
        else:
            stations_to_dataset(table).to_netcdf(path, engine="netcdf4")
        return None
    if suffix in PARQUET:
        _require_pyarrow(path)
    frame = table.to_frame() if isinstance(table, ObservationTable) else table
    units = {str(name): str(unit) for name, unit in dict(frame.attrs.get("units", {})).items()}
    if suffix in PARQUET:
        _write_parquet(frame, units, path)
        names = {str(name): str(name) for name in frame.columns}
    elif suffix in CSV or (len(suffixes) > 1 and suffixes[-2] in CSV):
        names = {str(name): f"{name} [{units[name]}]" if name in units else str(name) for name in frame.columns}
        texts = {name: _iso(frame[name]) for name in frame.columns if isinstance(frame[name].dtype, pd.DatetimeTZDtype)}
        frame.assign(**texts).rename(columns=names).to_csv(path, index=False)
    else:
        raise ConfigurationError(f"write_table: {shortened(path.name)} must end with .csv, .csv.gz, .parquet or .nc")
    return _layout(table, names) if isinstance(table, ObservationTable) else None


def _layout(table: ObservationTable, names: dict[str, str]) -> LongLayout:
    flagged = "" if table.effective is None else "_effective"
    variables = tuple(
        TableVariable(
            v.name, names[v.name], v.units, std=names[f"{v.name}_std"] if v.name in table.std else None,
            flag=names[f"{v.name}{flagged}_flag"], long_name=v.long_name,
        )
        for v in table.variables
    )  # fmt: skip
    return LongLayout(
        variables=variables, time=TimeColumns(zone=table.zone), station="station", longitude=names["longitude"],
        latitude=names["latitude"], elevation=names["elevation"], moving=table.track is not None,
        duplicates="first", text=TextFormat(separator=","),
    )  # fmt: skip


def _iso(times: pd.Series) -> pd.Series:
    """Return times as ISO 8601 with offset; whole seconds where all are."""
    whole = bool((times.dt.microsecond == 0).all())
    codes, unique = pd.factorize(times)
    texts = pd.Series(pd.DatetimeIndex(unique).strftime("%Y-%m-%dT%H:%M:%S%z" if whole else "%Y-%m-%dT%H:%M:%S.%f%z"))
    return texts.take(codes).set_axis(times.index)


def _require_pyarrow(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            f"write_table: {shortened(path.name)}: parquet needs pyarrow: pip install 'diffassim[files]'"
        ) from None


def _write_parquet(frame: pd.DataFrame, units: dict[str, str], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    content = pyarrow.Table.from_pandas(frame, preserve_index=False)
    fields: list[Any] = [
        field.with_metadata({"units": units[field.name]}) if field.name in units else field for field in content.schema
    ]
    parquet.write_table(content.cast(pyarrow.schema(fields, metadata=content.schema.metadata)), path)
