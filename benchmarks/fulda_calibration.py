"""Cross-validation of the discharge forecasts on the calibration years: no verification year is read.

Every calibration year is forecast with model and AR(1) coefficient from the others, and combined with weights from the
others' forecasts. This is how the error statistics' first guess and the rule of the combination were chosen.
A catchment of your own: --file FILE --area KM2 --latitude DEGREES --start DATE --end DATE.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
from scores.continuous import kge, nse
from xarray import DataArray

from diffassim.experiments.applications.fulda import FuldaConfiguration
from diffassim.experiments.rivers.discharge_analysis import ErrorStatistics
from diffassim.experiments.rivers.discharge_combination import Combination, fit_persistence
from diffassim.experiments.rivers.discharge_folds import BlockForecasts, forecast_block
from diffassim.experiments.rivers.discharge_record import Record, blocks_of_days

DEFAULT = FuldaConfiguration()


def cross_validate(config: FuldaConfiguration, statistics: ErrorStatistics) -> dict[str, np.ndarray]:
    """Return forecasts of all calibration days by method, and `observed`, each of shape (days, leads)."""
    record = Record(config)
    first, last = record.calibration
    blocks = blocks_of_days(first, last)
    parts = [forecast_block(record, statistics, b, window=config.window, leads=config.leads) for b in blocks]
    found = BlockForecasts(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    observed = np.repeat(record.discharge[first:last, None], len(config.leads), axis=1)
    analyzed, combined = np.empty_like(observed), np.empty_like(observed)
    for start, end in blocks:
        inside = np.zeros(last - first, bool)
        inside[start - first : end - first] = True
        others = BlockForecasts(*(rows[~inside] for rows in found))
        slopes = fit_persistence(others.forecast, others.unexplained, observed[~inside])
        every = np.maximum(found.forecast + slopes * found.unexplained, 0)
        combination = Combination.fit(every[~inside], others.reference, observed[~inside])
        analyzed[inside] = every[inside]
        combined[inside] = combination(every[inside], found.reference[inside])
    names = ("open loop", "open loop + AR(1)", "analyses alone", "combination")
    shown = (found.open_loop, found.reference, analyzed, combined)
    return dict(zip(names, shown, strict=True)) | {"observed": observed}


def main(
    *,
    file: Path | None = None,
    area: float = DEFAULT.area,
    latitude: float = DEFAULT.latitude,
    start: datetime.date = DEFAULT.calibration_start,
    end: datetime.date = DEFAULT.calibration_end,
    window: int = DEFAULT.window,
    statistics: dict[str, float] | None = None,
) -> None:
    """Print both efficiencies by method and lead.

    Args:
        file: record of another catchment.
        area: its area, km2.
        latitude: degrees north.
        start: first day of the calibration.
        end: last day.
        window: days in a window.
        statistics: changed error statistics, for example --statistics.timing 0.2.
    """
    jax.config.update("jax_enable_x64", True)
    after = {"verification_start": end + datetime.timedelta(1), "verification_end": end + datetime.timedelta(60)}
    config = FuldaConfiguration(
        file=file, area=area, latitude=latitude, calibration_start=start, calibration_end=end, window=window, **after
    )
    changed = ErrorStatistics().replace(**(statistics or {}))
    found = cross_validate(config, jax.tree.map(jnp.asarray, changed))
    observed = found.pop("observed")
    for title, score in (("Nash-Sutcliffe efficiency", nse), ("Kling-Gupta efficiency", kge)):
        print(f"{title:<28}" + "".join(f"{f'+{lead} d':>9}" for lead in config.leads))
        for name, forecast in found.items():
            values = []
            for f, y in zip(forecast.T, observed.T, strict=True):
                known = np.isfinite(f) & np.isfinite(y)
                values.append(float(score(DataArray(f[known]), DataArray(y[known]))))
            print(f"  {name:<26}" + "".join(f"{value:9.4f}" for value in values))


if __name__ == "__main__":
    cyclopts.run(main)
