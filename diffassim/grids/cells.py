"""Space cut into boxes, so that what lies near a place is found without looking at everything."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from diffassim.core.errors import require_positive

__all__ = ["Cells"]

PIECE = 1 << 18  # points that are looked at together
MOST = 1 << 40  # boxes, numbered or not


@dataclasses.dataclass(frozen=True)
class Cells:
    """Boxes of equal size in the space in which a grid has straight distances (`grid.embedding`).

    Places beyond the points of the grid belong to the outermost boxes. A hashable value.

    Args:
        lower: corner of the first box.
        sizes: edge lengths of a box.
        counts: boxes along each axis.
        wraps: whether an axis wraps around.
    """

    lower: tuple[float, ...]
    sizes: tuple[float, ...]
    counts: tuple[int, ...]
    wraps: tuple[bool, ...]

    @classmethod
    def of(cls, grid: Any, shape: tuple[int, ...], edge: float) -> Cells:
        """Return boxes with edges of at least a length over all points of a grid.

        Args:
            grid: `Grid` or `Sphere`.
            shape: of a field's trailing axes, those of the grid.
            edge: in the unit of the grid's distances; the whole numbers of boxes make it a little longer.

        Raises:
            ConfigurationError: if the edge is not positive, or the grid has no straight distances.

        Example:
            >>> from diffassim.grids import Grid
            >>> cells = Cells.of(Grid(), (10,), 3.0)
            >>> cells.counts, cells.numbers(np.array([[0.0], [3.4], [9.9]])).tolist(), cells.near(0, 1.0).tolist()
            ((3,), [0, 1, 2], [0, 1, 2])
        """
        require_positive("Cells: edge", edge)
        points = np.asarray(grid.points(shape))
        low: Any = None
        high: Any = None
        lengths: Any = None
        for first in range(0, len(points), PIECE):
            at, lengths = grid.embedding(points[first : first + PIECE], shape)
            ends = at.min(axis=0), at.max(axis=0)
            low, high = ends if low is None else (np.minimum(low, ends[0]), np.maximum(high, ends[1]))
        around = np.zeros(len(low)) if lengths is None else np.asarray(lengths)
        low = np.where(around > 0, 0.0, low)
        extent = np.where(around > 0, around, high - low)
        straight = min(float(grid.straight(edge)), float(extent.max()) or 1.0)
        counts = np.clip(np.floor(extent / straight), 1, (MOST ** (1 / len(low))) // 1)
        sizes = np.where(extent > 0, extent, straight) / counts
        return cls(
            tuple(map(float, low)), tuple(map(float, sizes)), tuple(map(int, counts)), tuple(map(bool, around > 0))
        )

    @property
    def total(self) -> int:
        """Number of all boxes."""
        return int(np.prod(np.array(self.counts, np.int64)))

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """Return the number of the box of every place, given in the straight space, shape (m, E)."""
        axes = []
        for axis, (low, size, count) in enumerate(zip(self.lower, self.sizes, self.counts, strict=True)):
            axes.append(np.clip(np.floor((places[:, axis] - low) / size), 0, count - 1).astype(np.int64))
        return np.ravel_multi_index(tuple(axes), self.counts)

    def near(self, number: int, reach: float) -> np.ndarray:
        """Return, ascending, the numbers of the boxes that have places within a straight distance of those of one.

        A few more may be among them: those that touch the box around the box.
        """
        there = np.unravel_index(number, self.counts)
        ranges = []
        for i, size, count, wraps in zip(there, self.sizes, self.counts, self.wraps, strict=True):
            beyond = int(np.ceil(reach / size * (1 + 1e-6)))
            along = np.arange(int(i) - beyond, int(i) + beyond + 1)
            ranges.append(np.unique(along % count) if wraps else along[(along >= 0) & (along < count)])
        found = np.array(list(itertools.product(*ranges)), np.int64)
        return np.ravel_multi_index(tuple(found.T), self.counts)
