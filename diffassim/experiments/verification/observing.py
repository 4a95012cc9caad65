"""Model equivalents of a table of observations along a run, without assimilating them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.errors import DataError
from diffassim.experiments.verification.sources import ANALYSIS, Predicted, find_predictions
from diffassim.io.equivalents import equivalents_at, status_of
from diffassim.io.observation_table import ObservationTable
from diffassim.io.units import converted
from diffassim.observations.flags import QCFlag

__all__ = ["observe_run", "require_overlap"]

MEMBER = "member"


def observe_run(
    dataset: xr.Dataset, table: ObservationTable, file: str, names: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, str]:
    """Return the table with what the run has at its times and places, and what came of it, as text.

    Columns are added: `NAME_equivalent` (in the table's unit), `NAME_departure` (observed less equivalent),
    `NAME_equivalent_spread` where the run has one or members, `NAME_effective_flag` and, in words, `NAME_status`.

    Args:
        dataset: output of a run, or fields.
        table: the observations.
        file: name of the run, for messages.
        names: in the run, by variable of the table, where they are others.

    Raises:
        ConfigurationError: if the run has nothing of the table.
        DataError: if no report lies within the run's time and domain.

    Example:
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.read_table import read_table
        >>> frame = pd.DataFrame({"time": ["2021-01-01T12"], "station": "A", "t": [1.0]})
        >>> table = read_table(frame, LongLayout(variables=(TableVariable("t", unit="degC"),)))
        >>> days = np.array(["2021-01-01", "2021-01-02"], "M8[ns]")
        >>> run = xr.Dataset({"t": (("time", "station"), [[274.15], [276.15]], {"units": "K"})}, {"time": days})
        >>> found, _ = observe_run(run.assign_coords(station=["A"]), table, "run")
        >>> found["t_equivalent"].round(6).tolist(), found["t_departure"].round(6).tolist(), found["t_status"].tolist()
        ([2.0], [-1.0], ['used'])
    """
    predictions = find_predictions(dataset, table, file, names or {}, (ANALYSIS,))
    equivalents: dict[str, Any] = {}
    flags, lines = {}, []
    for one in predictions:
        value, spread, own = _at_reports(one, table, file)
        passed = table.final(one.variable) == QCFlag.PASS
        flags[one.variable] = np.where(passed, own, -1)
        equivalents[one.variable] = (value, spread)
        departure = np.where(passed & (own == QCFlag.PASS), table.values[one.variable] - value, np.nan)
        lines.append(_line(one, table, np.where(passed, own, table.final(one.variable)), departure, spread))
    require_overlap(dataset, table, file, list(flags.values()))
    frame = table.with_flags(flags).to_frame()
    units = dict(frame.attrs["units"])
    for name, (value, spread) in equivalents.items():
        unit = table.variable(name).units
        added = {"equivalent": value, "departure": table.values[name] - value}
        added |= {} if spread is None else {"equivalent_spread": spread}
        for what, array in added.items():
            frame[f"{name}_{what}"], units[f"{name}_{what}"] = array, unit
        frame[f"{name}_status"] = status_of(frame[f"{name}_effective_flag"])
    frame.attrs["units"] = units
    return frame, "\n".join(lines)


def _at_reports(one: Predicted, table: ObservationTable, file: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return equivalents, their spread or None, and flags, in the unit of the table."""
    found = equivalents_at(one.values, table, file)
    others = [dim for dim in found.dims if dim != MEMBER]
    if others:
        raise DataError(
            f"{file}: {one.name} has an axis {others[0]!r} beside those of time, place and members; choose one entry "
            "of it and write it to a file of its own"
        )
    unit = table.variable(one.variable).units
    name = f"{file}: {one.name}"
    values, spread = found.values, None
    if found.dims:
        spread = converted(name, np.std(values, axis=1, ddof=1), one.units, unit, difference=True)
        values = np.mean(values, axis=1)
    elif one.spread is not None:
        spread = converted(name, equivalents_at(one.spread, table, file).values, one.units, unit, difference=True)
    return converted(name, values, one.units, unit), spread, found.flags


def _line(one: Predicted, table: ObservationTable, flags: Any, departure: Any, spread: Any) -> str:
    counts = pd.Series(status_of(flags)).value_counts()
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    known = departure[np.isfinite(departure)]
    text = f"{one.variable} [{table.variable(one.variable).units}] beside {one.name}: {told}"
    if known.size:
        text += f"; departures: mean {known.mean():.4g}, root of mean square {np.sqrt(np.mean(known**2)):.4g}"
    if spread is not None and np.isfinite(spread).any():
        text += f"; mean spread {np.nanmean(spread):.4g}"
    return text


def require_overlap(dataset: xr.Dataset, table: ObservationTable, file: str, flags: list[Any]) -> None:
    """Raise `DataError` unless some report lies within time and domain of a run.

    Args:
        dataset: of the run.
        table: the reports.
        file: name of the run.
        flags: of the equivalents of each variable, -1 where a report was not used anyway.
    """
    known = [np.asarray(flag)[np.asarray(flag) >= 0] for flag in flags]
    if any((flag == QCFlag.PASS).any() for flag in known):
        return
    ever = np.concatenate(known) if known else np.zeros(0, int)
    if not ever.size:
        raise DataError(f"{table.file}: no value of it may be used; `diffassim check` of its settings says why")
    if (ever == QCFlag.EXCLUDED).all() and "time" in dataset:
        times = pd.DatetimeIndex(dataset["time"].values)
        raise DataError(
            f"{table.file}: no report lies within the time of {file}, {times[0]} to {times[-1]} UTC; the table goes "
            f"from {pd.Timestamp(table.time[0])} to {pd.Timestamp(table.time[-1])} UTC"
        )
    worst = status_of([np.bincount(ever).argmax()])[0]
    raise DataError(
        f"{table.file}: no report has an equivalent in {file}: most are {worst}; compare names and places of the "
        "stations"
    )
