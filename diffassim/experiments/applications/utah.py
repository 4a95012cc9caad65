"""Epicenters of events at a mine in Utah, from the arrival times that analysts picked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field, model_validator

from diffassim.core.errors import DataError
from diffassim.experiments.applications.hypocenters import Medium, Setting, grid_search, locate
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment, each_alone, score_rows
from diffassim.io.ground_motion import KILOMETERS_PER_DEGREE, local_kilometers
from diffassim.io.picks import PickCatalog, read_picks, utah_files
from diffassim.plotting.epicenters import map_of_epicenters

__all__ = ["METHODS", "Utah", "UtahConfiguration"]

METHODS = ("nearest station", "grid search", "mean of the other events", "variational")
LEARNED = METHODS[-1]
CHI_SQUARE_90 = 4.605170185988091  # of two degrees of freedom: the ellipse that holds 90 %
FEWEST_PICKS = 3
GRID = 40.0, 0.25  # half-width and spacing of the grid search, km


class UtahConfiguration(Configuration):
    """Settings; none of them was chosen by the errors of the locations.

    Args:
        catalog: QuakeML file with picks; default: the Bingham Canyon events that come with obsplus.
        inventory: StationXML file that belongs to it.
        farthest: distance in km from the first stations beyond which picks are left out: there the first wave runs
            along the base of the crust.
        sharp: standard deviation of the error of a sharp onset, s.
        emergent: of an emergent one.
        prior_std: of the epicenter around the stations that report first, km.
        depth_std: of the depth around sea level, km.
        catalog_std: of the places of the other events around their catalog's, km.
        speed: prior mean of the velocity at sea level, km/s.
        gradient: of its growth with depth, 1/s.
    """

    catalog: Path | None = None
    inventory: Path | None = None
    farthest: Annotated[float, Field(gt=0)] = 120.0
    sharp: Annotated[float, Field(gt=0)] = 0.1
    emergent: Annotated[float, Field(gt=0)] = 0.2
    prior_std: Annotated[float, Field(gt=0)] = 20.0
    depth_std: Annotated[float, Field(gt=0)] = 2.0
    catalog_std: Annotated[float, Field(gt=0)] = 1.0
    speed: Annotated[float, Field(gt=0)] = 5.0
    gradient: Annotated[float, Field(gt=0)] = 0.05

    @model_validator(mode="after")
    def _files_belong_together(self) -> Self:
        if (self.catalog is None) != (self.inventory is None):
            raise ValueError("inventory: catalog and inventory belong together; give both or none")
        return self


class Utah(StagedExperiment):
    """Locate every event from its P picks, with medium and station terms learned from the other events alone.

    Each event is left out in turn: its own place in the catalog is used for nothing but the score. Of the other events
    the catalog's places are a prior, the medium and the station terms have wide ones, and everything is estimated
    together with the event by 3D-Var with Huber errors. Stations that the inventory does not have are placed by the
    distances and azimuths in the other events' records. The ellipses hold what is not known of medium and stations.
    """

    name = "utah"
    summary = "Epicenters of events in Utah from P picks, with uncertainty, against the catalog."
    configuration = UtahConfiguration

    def stages(self, config: UtahConfiguration) -> tuple[Stage, ...]:
        """Return one chunk for each event."""
        return (Stage("locating one event after the other", len(_read(config).events), _locate_one),)

    def chains(self, config: UtahConfiguration) -> tuple[range, ...]:
        """Return every event alone: what it needs of the others is in the catalog."""
        return each_alone(self.chunks(config))

    def start(self, config: UtahConfiguration) -> dict[str, Any]:
        """Make sure that the files can be used."""
        picks = _read(config)
        if len(picks.events) < 2:
            raise DataError(f"{len(picks.events)} event is too few: medium and station terms come from the others")
        return {}

    def finish(self, config: UtahConfiguration, dataset: xr.Dataset) -> Results:
        """Return errors, table and map."""
        scores = _scores(dataset)
        counted = int(np.isfinite(dataset["error"].sel({"method": LEARNED})).sum())
        return Results(scores, {"epicenters": map_of_epicenters(dataset)}, _table(dataset, scores), counted)


def _read(config: UtahConfiguration) -> PickCatalog:
    if config.catalog is None or config.inventory is None:
        return read_picks(*utah_files())
    return read_picks(config.catalog, config.inventory)


def _locate_one(config: UtahConfiguration, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
    picks = _read(config)
    stations, origin = station_places(picks, index)
    events = np.column_stack([_on_the_map(picks.hypocenter, origin), picks.hypocenter[:, 2]])
    own = np.flatnonzero((picks.event == index) & np.isfinite(stations[picks.station, 0]))
    near = own[np.argsort(picks.time[own])]
    center = stations[picks.station[near[: FEWEST_PICKS + 1]], :2].mean(axis=0)
    far = np.hypot(*(stations[picks.station, :2] - center).T)
    used = np.isfinite(far) & (far <= config.farthest)
    near = near[used[near]]
    catalog = events[index]

    found: dict[str, np.ndarray] = {name: np.full(2, np.nan) for name in METHODS}
    covariance, depth, count = np.full((3, 3), np.nan), np.nan, len(near)
    found["mean of the other events"] = np.delete(events, index, axis=0)[:, :2].mean(axis=0)
    if count:
        found["nearest station"] = stations[picks.station[near[0]], :2]
    if count >= FEWEST_PICKS:
        receivers = stations[picks.station[near]]
        found["grid search"] = grid_search(picks.time[near], receivers, center, config.speed, *GRID)
        setting = _setting(config, picks, stations, events, index, used, center)
        location = locate(setting, index)
        found[LEARNED], depth = np.asarray(location.place)[:2], float(location.place[2])
        covariance = np.asarray(location.covariance)
    places = np.stack([found[name] for name in METHODS])
    error = places[-1] - catalog[:2]
    both = covariance[:2, :2] + np.nan_to_num(picks.uncertainty[index]) ** 2 * np.eye(2)
    dataset = xr.Dataset(
        {
            "place": (("time", "method", "coordinate"), places[None], {"units": "km"}),
            "error": (("time", "method"), np.hypot(*(places - catalog[:2]).T)[None], {"units": "km"}),
            "catalog": (("time", "coordinate"), catalog[None, :2], {"units": "km"}),
            "covariance": (("time", "coordinate", "other"), covariance[None, :2, :2], {"units": "km2"}),
            "depth": ("time", [depth], {"units": "km", "long_name": "depth below sea level"}),
            "depth_std": ("time", np.sqrt(covariance[None, 2, 2])),
            "catalog_depth": ("time", catalog[None, 2]),
            "inside": ("time", [_inside(error, covariance[:2, :2])]),
            "inside_both": ("time", [_inside(error, both)]),
            "catalog_std": ("time", picks.uncertainty[index : index + 1], {"units": "km"}),
            "picks": ("time", [count]),
            "stations": (("time", "station", "coordinate"), stations[None, :, :2], {"units": "km"}),
        },
        coords={"time": picks.origin[index : index + 1], "method": list(METHODS), "station": picks.stations},
    )  # fmt: skip
    dataset["inside"].attrs["long_name"] = "whether the 90 % ellipse holds the place of the catalog"
    dataset["inside_both"].attrs["long_name"] = "likewise, with the catalog's own uncertainty in the ellipse"
    dataset["time"].encoding.update(units="milliseconds since 2000-01-01", dtype="int64")
    return carry, dataset


def station_places(picks: PickCatalog, without: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Return places of the stations in km, without a look at one event, and the origin of the coordinates.

    What the inventory does not have is placed by distance and azimuth from the other events' epicenters: the mean.

    Args:
        picks: the catalog.
        without: number of the event that nothing is taken from.

    Returns:
        East, north and depth (minus the elevation; zero where it is not known), NaN for stations without a place.
    """
    middle = np.nanmean(picks.station_place[:, :2], axis=0)
    origin = (float(middle[0]), float(middle[1]))
    known = np.column_stack(
        [local_kilometers(picks.station_place[:, 0], picks.station_place[:, 1], origin), -picks.station_place[:, 2]]
    )
    places = _on_the_map(picks.hypocenter, origin)
    use = picks.arrival_event != without
    r, angle = KILOMETERS_PER_DEGREE * picks.arrival_distance[use], np.radians(picks.arrival_azimuth[use])
    ends = places[picks.arrival_event[use]] + r[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])
    for station in np.flatnonzero(~np.isfinite(known[:, 0])):
        own = picks.arrival_station[use] == station
        if own.any():
            known[station] = [*ends[own].mean(axis=0), 0.0]
    return known, origin


def _on_the_map(places: np.ndarray, origin: tuple[float, float]) -> np.ndarray:
    return local_kilometers(places[:, 0], places[:, 1], origin)


def _setting(
    config: UtahConfiguration, picks: PickCatalog, stations: np.ndarray, events: np.ndarray, index: int,
    used: np.ndarray, center: np.ndarray,
) -> Setting:  # fmt: skip
    """Return what is known before the event is located."""
    place, std = events.copy(), np.full(events.shape, config.catalog_std)
    place[index], std[index] = [*center, 0.0], [config.prior_std, config.prior_std, config.depth_std]
    origin = (picks.origin - picks.first) / np.timedelta64(1, "ns") * 1e-9
    origin[index] = -2.0
    origin_std = np.where(np.arange(len(events)) == index, 5.0, 1.0)
    return Setting(
        event=jnp.asarray(picks.event), station=jnp.asarray(picks.station),
        time=jnp.asarray(np.where(used, picks.time, np.nan)),
        std=jnp.asarray(np.where(picks.emergent, config.emergent, config.sharp)),
        station_place=jnp.asarray(np.nan_to_num(stations)), place=jnp.asarray(place), place_std=jnp.asarray(std),
        origin=jnp.asarray(origin), origin_std=jnp.asarray(origin_std),
        medium=Medium(config.speed, config.gradient),
    )  # fmt: skip


def _inside(error: np.ndarray, covariance: np.ndarray) -> float:
    if not np.isfinite(covariance).all():
        return float("nan")
    return float(error @ np.linalg.solve(covariance, error) <= CHI_SQUARE_90)


def _scores(dataset: xr.Dataset) -> pd.DataFrame:
    located = np.isfinite(dataset["error"].sel({"method": LEARNED}).values)
    rows = []
    for j, method in enumerate(METHODS):
        error = dataset["error"].values[located, j]
        rows.append((method, "epicenter", 0, "median_error", float(np.median(error)), error.size))
        rows.append((method, "epicenter", 0, "largest_error", float(np.max(error)), error.size))
    for metric, name in (("coverage_90", "inside"), ("coverage_90_with_catalog", "inside_both")):
        inside = dataset[name].values[located]
        rows.append((LEARNED, "epicenter", 0, metric, float(np.mean(inside)), inside.size))
    return score_rows(rows)


def _table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    value = scores.set_index(["method", "metric"])["value"]
    lines = [
        "Event                    picks  " + "".join(f"{m:>26}" for m in METHODS) + "   std of east, north   in 90 %"
    ]
    for i, time in enumerate(pd.DatetimeIndex(dataset["time"].values)):
        errors = "".join(f"{e:23.2f} km" for e in dataset["error"].values[i])
        east, north = np.sqrt(np.diagonal(dataset["covariance"].values[i]))
        held = {1.0: "yes", 0.0: "no"}.get(float(dataset["inside"].values[i]), "-")
        lines.append(
            f"{time:%Y-%m-%d %H:%M:%S}  {int(dataset['picks'].values[i]):8d}  {errors}{east:10.2f}, {north:.2f} km"
            f"{held:>10}"
        )
    lines.append(f"{'median':<31}" + "".join(f"{value[m, 'median_error']:23.2f} km" for m in METHODS))
    lines.append(f"{'largest':<31}" + "".join(f"{value[m, 'largest_error']:23.2f} km" for m in METHODS))
    located = int(scores["n"].iloc[0])
    lines.append(
        f"{located} of {dataset.sizes['time']} events have at least {FEWEST_PICKS} picks at known stations. The 90 % "
        f"ellipses hold {100 * value[LEARNED, 'coverage_90']:.0f} % of the catalog's places, and "
        f"{100 * value[LEARNED, 'coverage_90_with_catalog']:.0f} % with the catalog's own uncertainty"
    )
    return "\n".join(lines)
