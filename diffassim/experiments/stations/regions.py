"""Parts of a large network: each station belongs to one, and each part sees the stations around it as well."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from diffassim.grids import Sphere

__all__ = ["Region", "columns_of", "divide", "unit_vectors", "whole"]


class Region(NamedTuple):
    """Indices of stations.

    Args:
        own: those whose values are taken from this region.
        seen: these first, then those around them.
    """

    own: np.ndarray
    seen: np.ndarray


def whole(stations: int) -> tuple[Region, ...]:
    """Return the one region of a small network."""
    every = np.arange(stations)
    return (Region(every, every),)


def divide(points: np.ndarray, most: int, around: int) -> tuple[Region, ...]:
    """Halve a network where it is widest until no part has more than `most` stations.

    Every region sees equally many stations, so that what is compiled for one serves all.

    Args:
        points: places of the stations in a space in which those near each other are alike, shape (station, axis).
        most: stations that a region has, at most.
        around: stations that it sees beyond its own: those nearest to any of these.

    Example:
        >>> for region in divide(np.array([[0.0], [1.0], [2.0], [9.0]]), most=2, around=1):
        ...     print(region.own.tolist(), region.seen.tolist())
        [0, 1] [0, 1, 2]
        [2, 3] [2, 3, 1]
    """
    parts = _halved(points, np.arange(len(points)), most)
    size = min(max(map(len, parts)) + around, len(points))
    regions = []
    for own in parts:
        others = np.setdiff1d(np.arange(len(points)), own)
        distance = cKDTree(points[own]).query(points[others])[0] if others.size else np.zeros(0)
        near = others[np.argsort(distance, kind="stable")[: size - len(own)]]
        regions.append(Region(own, np.concatenate([own, near])))
    return tuple(regions)


def unit_vectors(places: np.ndarray) -> np.ndarray:
    """Return longitudes and latitudes (degrees) as points of the unit sphere, shape (station, 3)."""
    latitude, longitude = places[:, 1], places[:, 0]
    return Sphere(latitude, longitude).embedding(np.stack([latitude, longitude], axis=-1), latitude.shape)[0]


def columns_of(stations: np.ndarray, variables: int) -> np.ndarray:
    """Return the components of some stations in a record in which variables are fastest."""
    return (stations[:, None] * variables + np.arange(variables)).ravel()


def _halved(points: np.ndarray, chosen: np.ndarray, most: int) -> list[np.ndarray]:
    if len(chosen) <= most:
        return [np.sort(chosen)]
    axis = int(np.argmax(np.ptp(points[chosen], axis=0)))
    order = chosen[np.argsort(points[chosen, axis], kind="stable")]
    middle = len(order) // 2
    return _halved(points, order[:middle], most) + _halved(points, order[middle:], most)
