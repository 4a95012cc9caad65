"""Fronts of several objectives: who is not dominated, and how much is dominated."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.core.checks import real_array
from diffassim.core.errors import ShapeError, require_finite

__all__ = ["hypervolume", "pareto_front"]


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
    as_good = np.all(values[:, None] >= values[None], axis=2)
    better = np.any(values[:, None] > values[None], axis=2)
    return ~np.any(as_good & better, axis=0)


def hypervolume(points: Any, reference: Any) -> float:
    """Return the area that points of two objectives dominate above a reference point; exact.

    Points that are not better than the reference in both objectives add nothing. (Three and more objectives need
    another algorithm; the library moocore has them.)

    Args:
        points: larger is better, shape (points, 2).
        reference: shape (2,).

    Raises:
        ShapeError: if there are not two objectives.
        DataError: if a value is not finite.

    Example:
        >>> hypervolume([[2, 1], [1, 2], [0.5, 0.5]], [0, 0])
        3.0

    Source: Zitzler and Thiele (1998), the size of the space covered.
    """
    values, corner = _points("hypervolume", points), np.asarray(real_array("hypervolume: reference", reference))
    if values.shape[1:] != (2,) or corner.shape != (2,):
        raise ShapeError(f"hypervolume: two objectives are expected, found {values.shape} and {corner.shape}")
    above = values[np.all(values > corner, axis=1)]
    total, height = 0.0, corner[1]
    for x, y in above[np.argsort(-above[:, 0], kind="stable")]:
        total += (x - corner[0]) * max(y - height, 0.0)
        height = max(height, y)
    return float(total)


def _points(name: str, points: Any) -> np.ndarray:
    values = np.asarray(real_array(f"{name}: points", points))
    require_finite(f"{name}: points", values)
    if values.ndim != 2:
        raise ShapeError(f"{name}: points must have the shape (points, objectives), found {values.shape}")
    return values
