"""Forecasts and analyses of a stretch of a network's record, each beside simple methods that see the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from diffassim.experiments.stations.network import Network
from diffassim.experiments.stations.record import Record, great_circle, lead_unit
from diffassim.experiments.stations.references import FORECASTS, last_known, spatial_references
from diffassim.experiments.stations.spatial import learn_kriging

__all__ = ["FORECAST_METHODS", "analyze_map", "analyze_unseen", "analyze_withheld", "as_dataset", "forecast"]

FORECAST_METHODS = (*FORECASTS, "assimilation")
NORMAL = 1.6449  # half width of the central 90 % of a normal law
WARM_UP = 60  # steps before the stretch from which forecasts are made for what is due in it


def forecast(network: Network, record: Record, rows: slice) -> dict[str, Any]:
    """Return analyses of some rows, and forecasts issued in them.

    Returns:
        Arrays by name: `analysis` and `analysis_std` (time, station, variable), `forecast` (time, method, lead, ...),
        `lower` and `upper` (time, lead, ...), the central 90 %.
    """
    leads, anomalies = network.forecasts.leads, network.anomalies
    start = max(rows.start - max(leads) - WARM_UP, 0)
    stretch, keep = slice(start, rows.stop), slice(rows.start - start, None)
    times, x = record.times[stretch], network.departures(record, stretch)
    filtered = network.filtered(record, start, rows.stop)
    centers = network.forecasts(times, filtered.mean)
    halves = network.intervals.follow(times, centers, x, leads)
    simple = network.references(x)
    seen = record.components[: rows.stop]
    known = np.maximum.accumulate(np.isfinite(seen), axis=0)[stretch]
    last = np.where(known, last_known(seen)[stretch], anomalies.cycle(times))
    shape = (len(record.names), len(record.variables))
    forecasts, lower, upper = [], [], []
    for k, lead in enumerate(leads):
        valid = times[keep] + lead * record.step
        std = network.references.std[:, k]
        references = [anomalies.means(valid, simple[keep, m, k], std[m]) for m in range(3)]
        references.insert(1, last[keep])
        center, half = centers[keep, k], halves[keep, k]
        forecasts.append(np.stack([*references, anomalies.means(valid, center, half / NORMAL)], axis=1))
        lower.append(anomalies.quantiles(valid, center - half))
        upper.append(anomalies.quantiles(valid, center + half))
    analysis = anomalies.means(times[keep], filtered.mean[keep], filtered.std[keep])
    return {
        "analysis": analysis.reshape(-1, *shape),
        "analysis_std": (filtered.std[keep] * anomalies.std).reshape(-1, *shape),
        "forecast": np.stack(forecasts, axis=2).reshape(len(analysis), len(FORECAST_METHODS), len(leads), *shape),
        "lower": np.stack(lower, axis=1).reshape(len(analysis), len(leads), *shape),
        "upper": np.stack(upper, axis=1).reshape(len(analysis), len(leads), *shape),
    }


def analyze_withheld(network: Network, record: Record, rows: slice, groups: list[np.ndarray]) -> dict[str, Any]:
    """Return analyses of stations from the others' reports, by groups of stations that are withheld together.

    Returns:
        `withheld` (time, method, station, variable), NaN for stations that are not, with the names of the methods in
        `withheld_methods`, and `withheld_std` of the assimilation; nothing without groups.
    """
    if not groups:
        return {}
    known = np.isfinite(record.places[:, :2]).all()
    count = rows.stop - rows.start
    out: dict[str, np.ndarray] = {}
    std = np.full((count, *record.values.shape[1:]), np.nan)
    for group in groups:
        hidden = record.without(group, rows.start)
        filtered = network.filtered(hidden, rows.start, rows.stop)
        own = network.anomalies.means(record.times[rows], filtered.mean, filtered.std).reshape(std.shape)
        std[:, group] = (filtered.std * network.anomalies.std).reshape(std.shape)[:, group]
        rest = np.setdiff1d(np.arange(len(record.names)), group)
        distances = great_circle(record.places[group], record.places[rest]) if known else None
        for v in range(std.shape[2]):
            simple = spatial_references(record.values[rows][:, rest, v], distances)
            for name, found in simple.items():
                out.setdefault(name, np.full(std.shape, np.nan))[:, group, v] = found
        out.setdefault("assimilation", np.full(std.shape, np.nan))[:, group] = own[:, group]
    names = [*(name for name in out if name != "assimilation"), "assimilation"]
    return {"withheld_methods": names, "withheld": np.stack([out[name] for name in names], axis=1), "withheld_std": std}


def analyze_unseen(
    network: Network, record: Record, departures: np.ndarray, unseen: Record, rows: slice, first: int
) -> dict[str, Any]:
    """Return analyses at places of which nothing was ever seen: the filtered values of the stations, kriged.

    Returns:
        `unseen` (time, method, place, variable), `unseen_methods`, and `unseen_std` of the assimilation.
    """
    out: dict[str, list[np.ndarray]] = {}
    spreads = []
    for v, (some, center, std) in enumerate(_kriged(network, record, departures, unseen.places, rows, first)):
        distances = some.distances(unseen.places).T
        for name, found in spatial_references(some.values[rows][:, :, v], distances).items():
            out.setdefault(name, []).append(found)
        std = np.broadcast_to(std, center.shape)
        out.setdefault("assimilation", []).append(network.anomalies.scales[v].mean(center, std))
        spreads.append(std)
    names = [*(name for name in out if name != "assimilation"), "assimilation"]
    values = np.stack([np.stack(out[name], axis=-1) for name in names], axis=1)
    return {"unseen_methods": names, "unseen": values, "unseen_std": np.stack(spreads, axis=-1)}


def analyze_map(
    network: Network, record: Record, departures: np.ndarray, rows: slice, first: int, spacing: float
) -> dict[str, Any]:
    """Return analyses on a regular grid of longitudes and latitudes around the stations.

    Returns:
        `map` (time, latitude, longitude, variable), `map_std` (latitude, longitude, variable), `map_longitude` and
        `map_latitude`.
    """
    edges = [np.floor(record.places[:, k].min() / spacing) * spacing for k in (0, 1)]
    axes = [np.arange(low, record.places[:, k].max() + spacing, spacing) for k, low in enumerate(edges)]
    x, y = np.meshgrid(*axes)
    places = np.stack([x.ravel(), y.ravel(), np.full(x.size, np.nan)], axis=1)
    values, spreads = [], []
    for v, (_, center, std) in enumerate(_kriged(network, record, departures, places, rows, first)):
        values.append(network.anomalies.scales[v].mean(center, np.broadcast_to(std, center.shape)))
        spreads.append(std)
    return {
        "map": np.stack(values, axis=-1).reshape(-1, *x.shape, len(values)),
        "map_std": np.stack(spreads, axis=-1).reshape(*x.shape, len(values)),
        "map_longitude": axes[0], "map_latitude": axes[1],
    }  # fmt: skip


def _kriged(
    network: Network, record: Record, departures: np.ndarray, places: np.ndarray, rows: slice, first: int
) -> Iterator[tuple[Record, np.ndarray, np.ndarray]]:
    """Yield for each variable the stations that have it, and mean and standard deviation at places on its scale."""
    variables, anomalies = len(record.variables), network.anomalies
    scaled = anomalies.cycle(record.times[: rows.stop]) + departures
    for v in range(variables):
        present = np.flatnonzero(np.isfinite(record.values[:first, :, v]).any(0))
        some = record.stations(present)
        kriging = learn_kriging(
            scaled[:first, v::variables][:, present], departures[:first, v::variables][:, present], some.places,
            places, some.distances(some.places), some.distances(places).T,
        )  # fmt: skip
        yield some, kriging(scaled[rows, v::variables][:, present]), kriging.std


def as_dataset(
    found: dict[str, Any], record: Record, unseen: Record, rows: slice, leads: tuple[int, ...]
) -> xr.Dataset:
    """Return everything with names, units and coordinates, a variable of the dataset for each observed one."""
    step = record.step
    unit, length = lead_unit(step)
    times = record.times[rows]
    coords: dict[str, Any] = {
        "time": times.tz_convert("UTC").tz_localize(None), "station": list(record.names),
        "method": list(FORECAST_METHODS),
        "lead": ("lead", [lead * step / length for lead in leads], {"units": unit}),
        **{name: ("station", record.places[:, k]) for k, name in enumerate(("longitude", "latitude", "elevation"))},
    }  # fmt: skip
    dims = {
        "observed": ("time", "station"), "analysis": ("time", "station"), "analysis_std": ("time", "station"),
        "forecast": ("time", "method", "lead", "station"), "lower": ("time", "lead", "station"),
        "upper": ("time", "lead", "station"),
    }  # fmt: skip
    if "withheld" in found:
        coords["withheld_method"] = found["withheld_methods"]
        dims |= {"withheld": ("time", "withheld_method", "station"), "withheld_std": ("time", "station")}
    if "unseen" in found:
        coords |= {"unseen_method": found["unseen_methods"], "place": list(unseen.names)}
        coords |= {f"place_{name}": ("place", unseen.places[:, k]) for k, name in enumerate(("longitude", "latitude"))}
        dims |= {"unseen": ("time", "unseen_method", "place"), "unseen_std": ("time", "place")}
        dims["unseen_observed"] = ("time", "place")
        found = found | {"unseen_observed": unseen.values[rows]}
    if "map" in found:
        coords |= {"latitude_of_map": found["map_latitude"], "longitude_of_map": found["map_longitude"]}
        dims |= {
            "map": ("time", "latitude_of_map", "longitude_of_map"),
            "map_std": ("latitude_of_map", "longitude_of_map"),
        }
    present = np.isfinite(record.values).any(0)
    found = found | {"observed": record.values[rows]}
    dataset = xr.Dataset(coords=coords)
    for v, variable in enumerate(record.variables):
        for name, axes in dims.items():
            values = found[name][..., v]
            if axes[-1] == "station":
                values = np.where(present[:, v], values, np.nan)
            dataset[f"{variable.name}_{name}"] = (axes, values, {"units": variable.units})
    return dataset
