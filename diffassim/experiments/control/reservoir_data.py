"""Years of a reservoir: those of a table, or of the Fulda with a demand of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffassim.decisions import Basin
from diffassim.io.catchment import CatchmentRecord, fulda_file, read_catchment
from diffassim.io.lake_years import LakeYears, read_lake_years

__all__ = ["FULDA_SHARE", "fulda_years", "read_years"]

FULDA_AREA, FULDA_LATITUDE = 2976.41, 50.6  # catchment, km2; degrees north
FULDA_SHARE = 0.3  # flows of the outlet, and the surface, as a part of those of Lake Como
DEMANDED = 0.8  # mean demand as a part of the mean inflow
SUMMER = 0.4  # amplitude of its season
WET = 0.3  # power with which demand follows the inflow of the days before
MEMORY_OF_INFLOW = 0.95  # of those days


def read_years(table: Path | None, days: int) -> tuple[LakeYears, Basin]:
    """Return the years of a table with Lake Como, or those of the Fulda with a reservoir of its own size.

    Args:
        table: with the columns year, day, inflow and demand; None: the Fulda.
        days: of a year.
    """
    if table is not None:
        return read_lake_years(table, days), Basin()
    record = read_catchment(fulda_file(), area=FULDA_AREA, latitude=FULDA_LATITUDE)
    return fulda_years(record, days), Basin().scaled(FULDA_SHARE)


def fulda_years(record: CatchmentRecord, days: int) -> LakeYears:
    r"""Return the calendar years of a catchment's discharge as inflow, with a demand that follows season and wetness.

    .. math:: d = .8\,\bar q\,\bigl(1 - .4 \cos(2\pi\,\mathrm{day}/365)\bigr)\,(e / \bar q)^{.3}

    with the mean inflow and the exponential average e of the days before: more in summer, and more where there is more,
    as farmers and power stations ask for it. The first year, from which the average starts, is left out; so is the last
    day of leap years. A day whose discharge is missing has that of the day before.

    Args:
        record: daily, without gaps in its dates.
        days: of a year that are used.
    """
    flow = record.cubic_meters_per_second(record.discharge)
    known = np.maximum.accumulate(np.where(np.isfinite(flow), np.arange(len(flow)), 0))
    flow = flow[known]
    mean = float(np.nanmean(flow))
    average = np.empty_like(flow)
    level = mean
    for k, value in enumerate(flow):
        average[k] = level
        level = MEMORY_OF_INFLOW * level + (1 - MEMORY_OF_INFLOW) * value
    day = record.dates.day_of_year.to_numpy()
    season = 1 - SUMMER * np.cos(2 * np.pi * day / 365)
    demand = DEMANDED * mean * season * (average / mean) ** WET
    year = record.dates.year.to_numpy()
    whole = [each for each in np.unique(year)[1:] if (year == each).sum() >= days]
    rows = [np.flatnonzero(year == each)[:days] for each in whole]
    return LakeYears("the Fulda", np.asarray(whole), flow[np.stack(rows)], demand[np.stack(rows)])
