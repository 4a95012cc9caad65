"""From a table of reports to observations, and from an analysis back to tables and datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.io.observation_table import ObservationTable

__all__ = ["TableObservations", "analysis_to_table", "observations_from_table"]


class TableObservations(NamedTuple):
    """Observations, and which report of the table is in each of their entries.

    observations, one stream (a tuple of streams for several variables); variables, the name of each stream's; report,
    for each stream the number of the report by entry, -1 for padding.
    """

    observations: Any
    variables: tuple[str, ...]
    report: tuple[np.ndarray, ...]
    size: int

    def flags(self, screening: Any) -> dict[str, np.ndarray]:
        """Return the flags of a `Screening` by variable and report, as `ObservationTable.with_flags` takes them."""
        raise NotImplementedError


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
        variables: name, or names of several: a stream each; None: all.
        operator: H(x, where) that takes many places at once (`Interpolate`); or one by variable, as a mapping.
        origin: time of step 0, UTC (text, datetime or datetime64).
        dt: length of a model step: timedelta64, timedelta, or text such as "6h".
        places: function (longitude, latitude, elevation) -> `where`, of arrays (report,) to an array (report, D) or
            pytree, in the coordinates of the model's grid; or an array or pytree with a leading axis of stations;
            default: (latitude, longitude), as on a `Sphere`.
        std: standard deviation of the error, a number or by variable; default: what the table holds.
        start: first time that counts; default: the origin.
        end: time from which on reports do not count; default: none.
        **fields: as in `observations_from_reports` (`rows`, `columns`, `loss`).
    """
    raise NotImplementedError


def analysis_to_table(
    analysis: Mapping[str, Any], times: Any, table: ObservationTable, *, spread: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Return an analysis at the stations of a table, a row for each time and station, beside what was observed.

    Args:
        analysis: by variable, in the unit of the table, shape (time, station).
        times: UTC, shape (time,).
        table: the reports that went in: stations, units, zone, flags.
        spread: standard deviation of the analysis, likewise.
    """
    raise NotImplementedError
