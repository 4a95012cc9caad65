"""Filters of a network in parts, so that the cost grows with the number of stations and no faster."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from diffassim.experiments.stations.evolution import nearest_stations
from diffassim.experiments.stations.filtering import (
    Filtered,
    StationFilter,
    affordable,
    densities,
    fit_filter,
    likeliest,
)
from diffassim.experiments.stations.record import great_circle
from diffassim.experiments.stations.regions import Region, columns_of, divide, unit_vectors, whole

__all__ = ["RegionalFilter", "covariance_numbers", "learn_regional_filter", "regions_of"]

LARGEST = 1200  # components of a network that is not divided
OWN, AROUND = 300, 150  # components of a region, and what it sees beyond
JUDGED = 3  # regions by which the kind of filter is chosen


class RegionalFilter(NamedTuple):
    """A filter for every region; of the stations that several see, each is taken from its own region.

    Args:
        regions: of the network.
        filters: of what each sees.
    """

    regions: tuple[Region, ...]
    filters: tuple[StationFilter, ...]

    def run(self, departures: np.ndarray) -> Filtered:
        """Filter a record.

        Args:
            departures: NaN where missing, shape (time, component).

        Returns:
            `Filtered`; its log density is the sum of those of the regions.
        """
        variables = departures.shape[1] // sum(len(region.own) for region in self.regions)
        mean, std = np.empty(departures.shape), np.empty(departures.shape)
        density = np.zeros(len(departures))
        for region, each in zip(self.regions, self.filters, strict=True):
            found = each.run(departures[:, columns_of(region.seen, variables)])
            own, count = columns_of(region.own, variables), len(region.own) * variables
            mean[:, own], std[:, own] = found.mean[:, :count], found.std[:, :count]
            density += found.log_likelihood
        return Filtered(mean, std, density)


def covariance_numbers(count: int) -> int:
    """Return how many numbers the covariances of a network with so many components need."""
    if count <= LARGEST:
        return 8 * count**2
    return (8 + 2 * math.ceil(2 * count / OWN)) * (OWN + AROUND) ** 2  # two are kept of each region


def regions_of(departures: np.ndarray, places: np.ndarray) -> tuple[Region, ...]:
    """Return the regions of a network: one, or parts of nearby stations.

    Without places, those are near each other whose departures follow the leading patterns alike.

    Args:
        departures: NaN where missing, shape (time, component), variables fastest.
        places: longitude and latitude (degrees) first, shape (station, 2 or more).
    """
    stations, variables = len(places), departures.shape[1] // len(places)
    if departures.shape[1] <= LARGEST:
        return whole(stations)
    return divide(_points(departures, places), max(OWN // variables, 1), max(AROUND // variables, 1))


def learn_regional_filter(
    departures: np.ndarray, places: np.ndarray, regions: tuple[Region, ...]
) -> tuple[RegionalFilter, np.ndarray]:
    """Learn the filters, and find the neighbors of all stations, shape (station, neighbor).

    The kind of filter is chosen for all regions together, by some of them.

    Args:
        departures: of the training period, NaN where missing, shape (time, component).
        places: longitude and latitude (degrees) first, shape (station, 2 or more).
        regions: of the network.
    """
    stations = len(places)
    parts = [_part(departures, places, region.seen) for region in regions]
    carried = affordable(parts[0][0], len(parts))
    judged = [parts[int(k)] for k in np.linspace(0, len(parts) - 1, min(JUDGED, len(parts)))]
    kind = likeliest(np.sum([densities(*part, carried) for part in judged], axis=0))
    near = np.empty((stations, parts[0][1].shape[1]), int)
    for region, (_, inside, _) in zip(regions, parts, strict=True):
        near[region.own] = region.seen[inside[: len(region.own)]]
    return RegionalFilter(regions, tuple(fit_filter(*part, carried, kind) for part in parts)), near


def _part(
    departures: np.ndarray, places: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return departures, neighbors and distances of some stations."""
    x = departures[:, columns_of(seen, departures.shape[1] // len(places))]
    known = bool(np.isfinite(places[:, :2]).all())
    return x, nearest_stations(x, len(seen)), great_circle(places[seen], places[seen]) if known else None


def _points(departures: np.ndarray, places: np.ndarray) -> np.ndarray:
    if np.isfinite(places[:, :2]).all():
        return unit_vectors(places)
    filled = np.where(np.isfinite(departures), departures, 0.0)
    _, values, patterns = np.linalg.svd(filled[:: max(len(filled) // 500, 1)], full_matrices=False)
    return (values[:3, None] * patterns[:3]).T.reshape(len(places), -1)
