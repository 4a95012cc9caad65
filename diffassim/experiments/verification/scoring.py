"""Scores of a run's analyses and forecasts against any table of observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.normal import NORMAL_90
from diffassim.diagnostics import crps, normal_crps
from diffassim.experiments.framework.base import score_rows
from diffassim.experiments.verification.observing import MEMBER, require_overlap
from diffassim.experiments.verification.sources import (
    ANALYSIS,
    FORECAST,
    Predicted,
    find_predictions,
    lead_times,
)
from diffassim.io.equivalents import equivalents_at
from diffassim.io.observation_table import ObservationTable
from diffassim.io.units import converted
from diffassim.observations.flags import QCFlag

__all__ = ["score_against", "scores_as_text"]

OWN = "assimilation"  # the method that bounds and spreads belong to
Rows = list[tuple[str, str, Any, str, float, int]]


def score_against(
    dataset: xr.Dataset, table: ObservationTable, file: str, names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return tidy scores of analyses and forecasts, all methods of a lead on the same values.

    Root-mean-square error, bias (predicted less observed) and mean absolute error; the continuous ranked probability
    score and the share of values inside of the central 90 % where the run has members, a standard deviation, quantiles
    or bounds. A standard deviation of the observations, where the table has one, is part of what is expected of them.

    Args:
        dataset: output of a run, or fields.
        table: the observations.
        file: name of the run, for messages.
        names: in the run, by variable of the table, where they are others.

    Returns:
        Columns method, variable, lead (in the unit of the run), metric, value, n.

    Raises:
        ConfigurationError: if the run has nothing of the table.
        DataError: if no report lies within the run's time and domain.

    Example:
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.read_table import read_table
        >>> frame = pd.DataFrame({"time": ["2021-01-01", "2021-01-02"], "station": "A", "t": [1.0, 3.0]})
        >>> table = read_table(frame, LongLayout(variables=(TableVariable("t", unit="K"),)))
        >>> days = np.array(["2021-01-01", "2021-01-02"], "M8[ns]")
        >>> run = xr.Dataset({"t": (("time", "station"), [[2.0], [4.0]], {"units": "K"})}, {"time": days})
        >>> scores = score_against(run.assign_coords(station=["A"]), table, "run")
        >>> scores.set_index("metric")["value"].to_dict()
        {'rmse': 1.0, 'bias': 1.0, 'mae': 1.0}
    """
    rows: Rows = []
    flags = []
    for one in find_predictions(dataset, table, file, names or {}, (ANALYSIS, FORECAST)):
        used = table.used(one.variable)
        for lead, part in _by_lead(one):
            found = equivalents_at(part.values, table, file)
            flags.append(np.where(used, found.flags, -1))
            rows += _scores(part, table, file, lead, found, used)
    require_overlap(dataset, table, file, flags)
    return score_rows(rows)


def _by_lead(one: Predicted) -> list[tuple[float, Predicted]]:
    """Return the predictions of each lead, with the times for which they are valid."""
    if "lead" not in one.values.dims:
        return [(0.0, one)]
    leads = one.values["lead"]
    units = str(leads.attrs.get("units", "hours"))
    found = []
    for k, lead in enumerate(leads.values.tolist()):

        def valid(array: xr.DataArray | None, k: int = k, lead: float = lead) -> xr.DataArray | None:
            if array is None:
                return None
            chosen = array.isel(lead=k, drop=True) if "lead" in array.dims else array
            if "time" not in chosen.dims:
                return chosen
            times = lead_times(chosen["time"].values, lead, units)
            kept = np.append(np.diff(times) > np.timedelta64(0), True)  # ends of months may fall together
            return chosen.assign_coords(time=times).isel(time=np.flatnonzero(kept))

        parts = {name: valid(getattr(one, name)) for name in ("values", "spread", "lower", "upper", "quantiles")}
        found.append((float(lead), one._replace(**parts)))  # type: ignore[arg-type]
    return found


def _scores(one: Predicted, table: ObservationTable, file: str, lead: float, found: Any, used: Any) -> Rows:
    """Return the scores of one variable and lead."""
    unit = table.variable(one.variable).units
    name = f"{file}: {one.name}"
    values = converted(name, found.values, one.units, unit)
    y = table.values[one.variable]
    methods, axis = [one.stage], None
    if "method" in found.dims:
        axis = 1 + found.dims.index("method")
        methods = [str(method) for method in one.values["method"].values]
    values = np.moveaxis(values, axis, 1) if axis is not None else values[:, None]
    members = None
    if MEMBER in found.dims:
        members = values if values.ndim == 3 else None
        values = values.mean(axis=-1)
    if values.ndim != 2:
        return []
    counted = used & (found.flags == QCFlag.PASS) & np.isfinite(values).all(axis=1) & np.isfinite(y)
    if not counted.any():
        return []
    n, y = int(counted.sum()), y[counted]
    noise = table.std[one.variable][counted] if one.variable in table.std else np.zeros(n)
    rows: Rows = []
    for m, method in enumerate(methods):
        x = values[counted, m]
        e = x - y
        scores = {"rmse": float(np.sqrt(np.mean(e**2))), "bias": float(e.mean()), "mae": float(np.abs(e).mean())}
        if method == _own(methods):
            mine = None if members is None else members[counted, m]
            scores |= _with_spread(one, table, file, counted, x, y, noise, mine)
        rows += [(method, one.variable, lead, metric, value, n) for metric, value in scores.items()]
    return rows


def _own(methods: list[str]) -> str:
    """Return the method that bounds, spreads and quantiles belong to: the assimilation, or the last one."""
    return OWN if OWN in methods else methods[-1]


def _with_spread(
    one: Predicted, table: ObservationTable, file: str, counted: Any, x: Any, y: Any, noise: Any, members: Any
) -> dict[str, float]:
    """Return scores of a distribution: of members, of a mean with a spread, of quantiles, or of bounds."""
    unit, name = table.variable(one.variable).units, f"{file}: {one.name}"

    def at(array: xr.DataArray | None, difference: bool = False) -> Any:
        if array is None:
            return None
        found = equivalents_at(array, table, file)
        values = converted(name, found.values[counted], one.units, unit, difference=difference)
        if "method" in found.dims:
            own = [str(m) for m in array["method"].values].index(_own([str(m) for m in array["method"].values]))
            values = np.take(values, own, axis=1 + found.dims.index("method"))
        return values

    scores: dict[str, float] = {}
    spread = at(one.spread, difference=True)
    if members is not None:
        spread = members.std(axis=1, ddof=1)
        scores["crps"] = float(np.nanmean(np.asarray(crps(jnp.asarray(members.T), jnp.asarray(y)))))
    if spread is not None:
        total = np.sqrt(spread**2 + noise**2)
        if members is None:
            scores["crps"] = float(np.nanmean(np.asarray(normal_crps(*map(jnp.asarray, (x, total, y))))))
        scores |= {
            "spread": float(np.nanmean(total)),
            "coverage_90": float(np.mean(np.abs(x - y) <= NORMAL_90 * total)),
        }
        return scores
    quantiles = at(one.quantiles)
    if quantiles is not None and one.quantiles is not None:
        p = one.quantiles["probability"].values.astype(float)
        off = y[:, None] - quantiles
        scores["crps"] = float(2 * np.mean(np.where(off >= 0, p * off, (p - 1) * off)))
        outer = np.isclose(p, 0.05) | np.isclose(p, 0.95)
        if outer.sum() == 2:
            low, high = quantiles[:, outer].T
            scores |= {"coverage_90": float(np.mean((y >= low) & (y <= high))), "width_90": float(np.mean(high - low))}
    low, high = at(one.lower), at(one.upper)
    if low is not None and high is not None:
        scores |= {"coverage_90": float(np.mean((y >= low) & (y <= high))), "width_90": float(np.mean(high - low))}
    return scores


def scores_as_text(scores: pd.DataFrame, table: ObservationTable) -> str:
    """Return scores as text: for each variable a row of a method and lead.

    Args:
        scores: see `score_against`.
        table: the observations, for units.
    """
    blocks = []
    for variable, some in scores.groupby("variable", sort=False):
        wide = some.pivot_table(index=["lead", "method"], columns="metric", values="value", sort=False)
        wide.insert(0, "n", some.groupby(["lead", "method"], sort=False)["n"].max())
        text = wide.reset_index().to_string(index=False, float_format="{:.4g}".format, na_rep="-")
        blocks.append(f"{variable} [{table.variable(str(variable)).units}] against {table.file}\n{text}")
    return "\n\n".join(blocks)
