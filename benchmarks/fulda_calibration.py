"""Leave-one-year-out cross-validation of the discharge analysis on the calibration years of the Fulda.

Every calibration year is forecast with parameters and persistence fitted to the other years; the verification years of
the experiment are not read. This is how the first guess of the error statistics was chosen: the least error of the
worst lead, relative to the open loop with AR(1) correction.
"""

from __future__ import annotations

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

from diffassim.experiments.applications.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    analyze_days,
    issue_days,
)
from diffassim.experiments.applications.discharge_calibration import calibrate, fit_persistence, open_loop
from diffassim.experiments.applications.discharge_references import autoregression, fit_autoregression
from diffassim.experiments.applications.fulda import FuldaConfiguration, Record


def cross_validate(statistics: ErrorStatistics, config: FuldaConfiguration) -> dict[int, np.ndarray]:
    """Return squared errors (assimilation, open loop with AR(1)) by year, each of shape (2, days, leads)."""
    record, leads = Record(config), config.leads
    first, last = record.calibration
    issued = np.arange(first, last - max(leads))
    years = record.table.dates.year.to_numpy()
    targets = np.stack([record.discharge[issued + lead] for lead in leads], axis=1)
    errors = {}
    for year in np.unique(years[first:last]):
        known = np.where(years == year, np.nan, record.discharge)
        model = calibrate(record.forcing, known, first, last)
        free = open_loop(model)
        days = issue_days(
            free, jnp.asarray(record.discharge), record.forcing, jnp.asarray(issued), config.window, max(leads)
        )
        inside, outside = (np.flatnonzero(chosen) for chosen in (years[issued] == year, years[issued] != year))
        analysis = DischargeAnalysis(model, statistics, jnp.zeros(len(leads)), leads)
        fitted_to = jax.tree.map(lambda leaf, rows=outside: leaf[rows], days)
        analysis = fit_persistence(analysis, fitted_to, targets[outside])
        forecasts = np.asarray(analyze_days(analysis, days)[1])
        simulated = np.asarray(free.discharge[1:])
        rho = fit_autoregression((record.discharge - simulated)[issued[outside]])
        references = [autoregression(simulated, record.discharge, issued, lead, rho) for lead in leads]
        both = np.stack([forecasts, np.stack(references, axis=1)])
        errors[int(year)] = (both - targets)[:, inside] ** 2
    return errors


def main(*, window: int = FuldaConfiguration().window, statistics: dict[str, float] | None = None) -> None:
    """Print the ratios of mean squared errors by lead, for all years together and for each.

    Args:
        window: days in a window.
        statistics: changed error statistics, for example --statistics.timing 0.2.
    """
    jax.config.update("jax_enable_x64", True)
    config = FuldaConfiguration(window=window)
    changed = ErrorStatistics().replace(**(statistics or {}))
    errors = cross_validate(jax.tree.map(jnp.asarray, changed), config)
    print("mean squared error of the assimilation over that of the open loop with AR(1) correction")
    print("year  " + "".join(f"{f'+{lead} d':>8}" for lead in config.leads))
    for name, e in [("all", np.concatenate(list(errors.values()), axis=1)), *errors.items()]:
        ratio = np.nanmean(e[0], axis=0) / np.nanmean(e[1], axis=0)
        print(f"{name!s:<6}" + "".join(f"{r:8.3f}" for r in ratio))


if __name__ == "__main__":
    cyclopts.run(main)
