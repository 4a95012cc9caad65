"""What a run of a catchment would work on, as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from diffassim.experiments.rivers.discharge_record import Record

__all__ = ["summarized"]

YEAR = 365.25


def summarized(config: Any, record: Record) -> str:
    """Return what was read, periods, gaps, ranges, the water balance, thresholds, and the first rows as they are used.

    Args:
        config: settings of a catchment.
        record: its record.
    """
    table = record.table
    flow = table.cubic_meters_per_second(table.discharge)
    periods = [
        f"  {name}: {table.dates[first].date()} to {table.dates[last - 1].date()}, {last - first} days, "
        f"discharge missing on {int(np.isnan(flow[first:last]).sum())} ({_gaps(np.isnan(flow[first:last]))})"
        for name, (first, last) in (("calibration", record.calibration), ("verification", record.verification))
    ]
    thresholds = ", ".join(f"{each:g}" for each in record.thresholds)
    chosen = "as set" if config.flood_thresholds else "exceeded on 10 and 5 % of the calibration days"
    columns = {
        "precipitation, mm": table.precipitation, "temperature, degC": table.temperature,
        "potential evaporation, mm": table.evaporation, "discharge, m3/s": flow, "discharge, mm": table.discharge,
    }  # fmt: skip
    ranges = [
        f"  {name:<26}{np.nanmin(values):10.4g} to {np.nanmax(values):10.4g}, mean {np.nanmean(values):.4g}"
        for name, values in columns.items()
    ]
    head = pd.DataFrame({name: values[:3] for name, values in columns.items()}, table.dates[:3].strftime("%Y-%m-%d"))
    return "\n".join(
        [
            record.source.describe(),
            *(f"  {note}" for note in record.notes if note not in record.source.notes),  # describe() has said these
            "",
            f"{len(table.dates)} days, {table.dates[0].date()} to {table.dates[-1].date()}, of {table.area:g} km2; the "
            f"{record.calibration[0]} days before the calibration warm the model up",
            *periods,
            f"  leads: {', '.join(map(str, config.leads))} days; warnings above {thresholds} m3/s ({chosen})",
            *ranges,
            *_balance(record),
            "First rows:",
            head.to_string(float_format="{:.4g}".format),
        ]
    )


def _gaps(missing: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
    lengths = edges[1::2] - edges[::2]
    return "no gap" if not lengths.size else f"{len(lengths)} gap(s), the longest of {int(lengths.max())} days"


def _balance(record: Record) -> list[str]:
    """Return the water balance of a year; a wrong area or unit shows here first."""
    table = record.table
    known = np.isfinite(table.discharge)
    rain, evaporation, runoff = (
        YEAR * float(np.mean(values[known])) for values in (table.precipitation, table.evaporation, table.discharge)
    )
    lines = [
        f"  a year, on days with discharge: precipitation {rain:.0f} mm, potential evaporation {evaporation:.0f} mm, "
        f"runoff {runoff:.0f} mm ({100 * runoff / rain:.0f} % of precipitation)"
        if rain > 0
        else "  there is no precipitation"
    ]
    if runoff > rain:
        lines.append("  NOTE: more water runs off than falls: look at the area, the units and the gauge's basin")
    elif runoff < 0.02 * rain:
        lines.append("  NOTE: hardly any water runs off: look at the area and the units")
    return lines
