"""Reading tables of observations, in chunks, with every flaw flagged or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffassim.io.layout import Layout
from diffassim.io.observation_table import ObservationTable

__all__ = ["read_table"]


def read_table(source: str | Path | Any, layout: Layout | None = None) -> ObservationTable:
    """Read, convert and check observations.

    Args:
        source: path of a CSV file (.csv, .txt, compressed or not), parquet file (.parquet) or netCDF file in the layout
            of IODA (.nc, .nc4); an open file or buffer with CSV; or a DataFrame.
        layout: `LongLayout` or `WideLayout`; not needed for IODA.

    Raises:
        ConfigurationError: if the layout does not fit the file, or a unit is unknown.
        DataError: if the file is missing, empty or damaged; with file, column and row, if a number, date or place
            cannot be read, or reports are doubled.
    """
    raise NotImplementedError
