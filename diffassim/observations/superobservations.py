"""Superobservations: the many values of a small box as one."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.grids.cells import Cells

__all__ = ["superobservations"]


def superobservations(
    values: np.ndarray, places: np.ndarray, std: np.ndarray, grid: Any, shape: tuple[int, ...], cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return one observation for every box in which there are some, the mean of what lies in it.

    .. math::
        \bar y = \sum_j w_j y_j / \sum_j w_j,\quad \bar r = \sum_j w_j r_j / \sum_j w_j,\quad
        \bar\sigma^{-2} = \sum_j w_j,\quad w_j = \sigma_j^{-2}

    For values at the same place, with independent errors and a linear analysis, this loses nothing. Where they lie
    apart, a field that is not linear within a box is smoothed, and where their errors belong together, as those of one
    instrument often do, the mean is less certain than its error says: give larger errors then.

    Args:
        values: observed values, shape (m,), all finite.
        places: coordinates on the grid, shape (m, D).
        std: standard deviations of their errors, shape (m,).
        grid: `Grid` or `Sphere`.
        shape: of a field's trailing axes, those of the grid.
        cells: the boxes, `Cells.of(grid, shape, edge)`.

    Returns:
        Values, places and standard deviations, in the order of the boxes.

    Example:
        >>> from diffassim.grids import Cells, Grid
        >>> boxes = Cells.of(Grid(), (4,), 2.0)
        >>> found = superobservations(np.array([1.0, 3.0, 5.0]), np.array([[0.0], [1.0], [3.0]]), np.ones(3), Grid(),
        ...                           (4,), boxes)
        >>> [part.ravel().round(3).tolist() for part in found]
        [[2.0, 5.0], [0.5, 3.0], [0.707, 1.0]]

    Source: Lorenc (1981), section 3; Daley (1991), section 4.7.
    """
    embedded, _ = grid.embedding(places, shape)
    _, box = np.unique(cells.numbers(embedded), return_inverse=True)
    weights = 1 / np.square(np.asarray(std, float))
    total = np.bincount(box, weights)

    def averaged(column: np.ndarray) -> np.ndarray:
        return np.bincount(box, weights * column) / total

    mean = np.stack([averaged(column) for column in embedded.T], axis=-1).reshape(len(total), embedded.shape[1])
    found = averaged(np.asarray(values, float)), grid.unembedded(mean), 1 / np.sqrt(total)
    return found[0].astype(values.dtype), found[1].astype(places.dtype), found[2].astype(std.dtype)
