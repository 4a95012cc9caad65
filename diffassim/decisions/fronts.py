"""Fronts of several objectives: who is not dominated, and how much is dominated."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.core.checks import real_array
from diffassim.core.errors import ShapeError, require_finite

__all__ = ["hypervolume", "pareto_front"]

COMPARED = 10_000_000  # numbers at once: what a comparison of all pairs holds does not grow with their square


def pareto_front(points: Any) -> np.ndarray:
    """Return which points no other point dominates: at least as good in all objectives, better in one.

    Args:
        points: larger is better, shape (points, objectives).

    Returns:
        Shape (points,); of equal points all are on the front or none.

    Raises:
        ShapeError: if it is no matrix.
        DataError: if a value is not finite.

    Example:
        >>> pareto_front([[0, 3], [2, 2], [1, 1], [3, 0]]).tolist()
        [True, True, False, True]
    """
    values = _points("pareto_front", points)
    found = np.ones(len(values), bool)
    rows = max(1, COMPARED // max(values.size, 1))
    for first in range(0, len(values), rows):
        part = values[first : first + rows, None]
        as_good, better = np.all(values[None] >= part, axis=2), np.any(values[None] > part, axis=2)
        found[first : first + rows] = ~np.any(as_good & better, axis=1)
    return found


def hypervolume(points: Any, reference: Any) -> float:
    """Return the volume that points dominate above a reference point (of two objectives: the area); exact.

    Points that are not better than the reference in every objective add nothing. The volume is cut into slices of the
    last objective, in each of which the points above it dominate a volume of one dimension less. With n points on the
    front and m > 2 objectives that takes about n^(m - 2) sweeps: hundreds of points of four objectives, few of more.

    Args:
        points: larger is better, shape (points, objectives).
        reference: shape (objectives,).

    Raises:
        ShapeError: if points and reference do not fit together.
        DataError: if a value is not finite.

    Example:
        >>> hypervolume([[2, 1], [1, 2], [0.5, 0.5]], [0, 0])
        3.0
        >>> hypervolume([[2, 1, 1], [1, 2, 1], [1, 1, 3]], [0, 0, 0])
        5.0

    Source: Zitzler and Thiele (1998), the size of the space covered; While et al. (2006), by slicing objectives.
    """
    values, corner = _points("hypervolume", points), np.asarray(real_array("hypervolume: reference", reference), float)
    require_finite("hypervolume: reference", corner)
    if values.shape[1] == 0 or corner.shape != values.shape[1:]:
        raise ShapeError(
            "hypervolume: points (points, objectives) and reference (objectives,) do not fit: found "
            f"{values.shape} and {corner.shape}"
        )
    above = values[np.all(values > corner, axis=1)] - corner
    return float(_volume(above[pareto_front(above)]))


def _volume(front: np.ndarray) -> float:
    """Return what points with positive components dominate above zero."""
    if front.shape[1] == 1 or not len(front):
        return float(front.max(initial=0.0))
    order = np.argsort(-front[:, -1], kind="stable")
    rest, height = front[order, :-1], front[order, -1]
    if rest.shape[1] == 1:  # each point adds its height above the next one's, as wide as the widest so far
        return float(np.maximum.accumulate(rest[:, 0]) @ -np.diff(height, append=0.0))
    total, area, kept = 0.0, 0.0, rest[:0]
    for row, thick in zip(rest, -np.diff(height, append=0.0), strict=True):
        if not np.any(np.all(kept >= row, axis=1)):
            kept = np.concatenate([kept[~np.all(kept <= row, axis=1)], row[None]])
            area = _volume(kept)
        total += thick * area
    return total


def _points(name: str, points: Any) -> np.ndarray:
    values = np.asarray(real_array(f"{name}: points", points), float)
    require_finite(f"{name}: points", values)
    if values.ndim != 2:
        raise ShapeError(f"{name}: points must have the shape (points, objectives), found {values.shape}")
    return values
