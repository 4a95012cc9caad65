"""Forecasts and analyses of a stretch of a network's record, each beside simple methods that see the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtr

from diffassim.core.normal import NORMAL_90
from diffassim.experiments.stations.network import Network
from diffassim.experiments.stations.record import Record, great_circle, lead_unit, require_places
from diffassim.experiments.stations.references import FORECASTS, last_known, spatial_references
from diffassim.experiments.stations.spatial import learn_kriging

__all__ = ["FORECAST_METHODS", "analyze_map", "analyze_unseen", "analyze_withheld", "as_dataset", "forecast"]

ASSIMILATION = "assimilation"
FORECAST_METHODS = (*FORECASTS, ASSIMILATION)
WARM_UP = 60  # steps before the stretch from which forecasts are made for what is due in it


def forecast(network: Network, record: Record, rows: slice) -> dict[str, Any]:
    """Return analyses of some rows, and forecasts issued in them.

    Returns:
        Arrays by name: `analysis` and `analysis_std` (time, station, variable), `forecast` (time, method, lead, ...),
        `lower` and `upper` (time, lead, ...), the central 90 %, and `probability` (time, lead, ...), that of a lower
        value than the one that was then observed (NaN if none was).
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
    forecasts, lower, upper, probability = [], [], [], []
    for k, lead in enumerate(leads):
        valid = times[keep] + lead * record.step
        std = network.references.std[:, k]
        references = [anomalies.means(valid, simple[keep, m, k], std[m]) for m in range(3)]
        references.insert(1, last[keep])
        center, half = centers[keep, k], halves[keep, k]
        forecasts.append(np.stack([*references, anomalies.means(valid, center, half / NORMAL_90)], axis=1))
        lower.append(anomalies.quantiles(valid, center - half))
        upper.append(anomalies.quantiles(valid, center + half))
        standard = (_shifted(x, lead)[keep] - center) * NORMAL_90 / np.maximum(half, np.finfo(float).tiny)
        probability.append(ndtr(standard))
    analysis = anomalies.means(times[keep], filtered.mean[keep], filtered.std[keep])
    return {
        "analysis": analysis.reshape(-1, *shape),
        "analysis_std": anomalies.stds(times[keep], filtered.mean[keep], filtered.std[keep]).reshape(-1, *shape),
        "forecast": np.stack(forecasts, axis=2).reshape(len(analysis), len(FORECAST_METHODS), len(leads), *shape),
        "lower": np.stack(lower, axis=1).reshape(len(analysis), len(leads), *shape),
        "upper": np.stack(upper, axis=1).reshape(len(analysis), len(leads), *shape),
        "probability": np.stack(probability, axis=1).reshape(len(analysis), len(leads), *shape),
    }


def _shifted(values: np.ndarray, lead: int) -> np.ndarray:
    """Return for each time what was observed `lead` steps later, NaN where the record has ended."""
    return np.concatenate([values[lead:], np.full((min(lead, len(values)), *values.shape[1:]), np.nan)])


def analyze_withheld(network: Network, record: Record, rows: slice, groups: list[np.ndarray]) -> dict[str, Any]:
    """Return analyses of stations from the others' reports, by groups of stations that are withheld together.

    Returns:
        `withheld` (time, method, station, variable), NaN for stations that are not, with the names of the methods in
        `withheld_methods`; of the assimilation `withheld_std`, and the central 90 % from `withheld_lower` to
        `withheld_upper`; nothing without groups.
    """
    if not groups:
        return {}
    known = np.isfinite(record.places[:, :2]).all()
    anomalies, times = network.anomalies, record.times[rows]
    shape = (rows.stop - rows.start, *record.values.shape[1:])
    out: dict[str, np.ndarray] = {}
    spread = {name: np.full(shape, np.nan) for name in ("withheld_std", "withheld_lower", "withheld_upper")}
    for group in groups:
        filtered = network.filtered(record.without(group, rows.start), rows.start, rows.stop)
        rest = np.setdiff1d(np.arange(len(record.names)), group)
        distances = great_circle(record.places[group], record.places[rest]) if known else None
        for v in range(shape[2]):
            simple = spatial_references(record.values[rows][:, rest, v], distances)
            for name, found in simple.items():
                out.setdefault(name, np.full(shape, np.nan))[:, group, v] = found
        own = anomalies.means(times, filtered.mean, filtered.std).reshape(shape)
        out.setdefault(ASSIMILATION, np.full(shape, np.nan))[:, group] = own[:, group]
        half = NORMAL_90 * filtered.std
        for name, values in (
            ("withheld_std", anomalies.stds(times, filtered.mean, filtered.std)),
            ("withheld_lower", anomalies.quantiles(times, filtered.mean - half)),
            ("withheld_upper", anomalies.quantiles(times, filtered.mean + half)),
        ):
            spread[name][:, group] = values.reshape(shape)[:, group]
    names = [*(name for name in out if name != ASSIMILATION), ASSIMILATION]
    return {"withheld_methods": names, "withheld": np.stack([out[name] for name in names], axis=1), **spread}


def analyze_unseen(
    network: Network, record: Record, departures: np.ndarray, unseen: Record, rows: slice, first: int
) -> dict[str, Any]:
    """Return analyses at places of which nothing was ever seen: the filtered values of the stations, kriged.

    Returns:
        `unseen` (time, method, place, variable) and `unseen_methods`; of the assimilation `unseen_std`, and the central
        90 % from `unseen_lower` to `unseen_upper`.
    """
    out: dict[str, list[np.ndarray]] = {}
    spread: dict[str, list[np.ndarray]] = {"unseen_std": [], "unseen_lower": [], "unseen_upper": []}
    for v, (some, center, std) in enumerate(_kriged(network, record, departures, unseen.places, rows, first)):
        distances, scale = great_circle(unseen.places, some.places), network.anomalies.scales[v]
        for name, found in spatial_references(some.values[rows][:, :, v], distances).items():
            out.setdefault(name, []).append(found)
        out.setdefault(ASSIMILATION, []).append(scale.mean(center, std))
        spread["unseen_std"].append(scale.std(center, std))
        spread["unseen_lower"].append(scale.quantile(center - NORMAL_90 * std))
        spread["unseen_upper"].append(scale.quantile(center + NORMAL_90 * std))
    names = [*(name for name in out if name != ASSIMILATION), ASSIMILATION]
    values = np.stack([np.stack(out[name], axis=-1) for name in names], axis=1)
    stacked = {name: np.stack(each, axis=-1) for name, each in spread.items()}
    return {"unseen_methods": names, "unseen": values, **stacked}


def analyze_map(
    network: Network, record: Record, departures: np.ndarray, rows: slice, first: int, spacing: float
) -> dict[str, Any]:
    """Return analyses on a regular grid of longitudes and latitudes around the stations.

    Returns:
        `map` and `map_std` (time, latitude, longitude, variable), `map_longitude` and `map_latitude`.
    """
    edges = [np.floor(record.places[:, k].min() / spacing) * spacing for k in (0, 1)]
    axes = [np.arange(low, record.places[:, k].max() + spacing, spacing) for k, low in enumerate(edges)]
    x, y = np.meshgrid(*axes)
    places = np.stack([x.ravel(), y.ravel(), np.full(x.size, np.nan)], axis=1)
    values, spreads = [], []
    for v, (_, center, std) in enumerate(_kriged(network, record, departures, places, rows, first)):
        values.append(network.anomalies.scales[v].mean(center, std))
        spreads.append(network.anomalies.scales[v].std(center, std))
    shape = (rows.stop - rows.start, *x.shape, len(values))
    return {
        "map": np.stack(values, axis=-1).reshape(shape), "map_std": np.stack(spreads, axis=-1).reshape(shape),
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
        require_places(some.places, places)
        kriging = learn_kriging(
            scaled[:first, v::variables][:, present], departures[:first, v::variables][:, present], some.places, places
        )  # fmt: skip
        center = kriging(scaled[rows, v::variables][:, present])
        yield some, center, np.broadcast_to(kriging.std, center.shape)


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
        "upper": ("time", "lead", "station"), "probability": ("time", "lead", "station"),
    }  # fmt: skip
    if "withheld" in found:
        coords["withheld_method"] = found["withheld_methods"]
        dims |= {"withheld": ("time", "withheld_method", "station")}
        dims |= {f"withheld_{part}": ("time", "station") for part in ("std", "lower", "upper")}
    if "unseen" in found:
        coords |= {"unseen_method": found["unseen_methods"], "place": list(unseen.names)}
        coords |= {f"place_{name}": ("place", unseen.places[:, k]) for k, name in enumerate(("longitude", "latitude"))}
        dims |= {"unseen": ("time", "unseen_method", "place")}
        dims |= {f"unseen_{part}": ("time", "place") for part in ("std", "lower", "upper", "observed")}
        found = found | {"unseen_observed": unseen.values[rows]}
    if "map" in found:
        coords |= {"latitude_of_map": found["map_latitude"], "longitude_of_map": found["map_longitude"]}
        dims |= {
            "map": ("time", "latitude_of_map", "longitude_of_map"),
            "map_std": ("time", "latitude_of_map", "longitude_of_map"),
        }
    present = np.isfinite(record.values).any(0)
    found = found | {"observed": record.values[rows]}
    dataset = xr.Dataset(coords=coords)
    for v, variable in enumerate(record.variables):
        for name, axes in dims.items():
            values = found[name][..., v]
            if axes[-1] == "station":
                values = np.where(present[:, v], values, np.nan)
            units = "1" if name == "probability" else variable.units
            dataset[f"{variable.name}_{name}"] = (axes, values, {"units": units})
    return dataset
