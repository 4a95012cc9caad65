"""Departures of observations over time: their mean and size, drawn into axes that are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.core.normal import NORMAL_90
from diffassim.plotting.style import COLORS

__all__ = ["block_statistics", "draw_departures"]

LOOKS = (("blue", "o"), ("orange", "s"), ("green", "^"), ("purple", "D"))


def block_statistics(departures: Any, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return mean place, count, mean and root-mean-square of departures in successive blocks of times.

    Args:
        departures: shape (time, ...), NaN where nothing was observed.
        blocks: number of blocks; as many times, at most.

    Returns:
        The mean index, number of values, mean and root-mean-square of each block that has values.

    Example:
        >>> at, count, mean, size = block_statistics(np.array([[1.0, -1.0], [3.0, np.nan]]), 2)
        >>> at.tolist(), count.tolist(), mean.tolist(), size.tolist()
        ([0.0, 1.0], [2, 1], [0.0, 3.0], [1.0, 3.0])
    """
    d = np.asarray(departures, float)
    found = []
    for part in np.array_split(np.arange(len(d)), max(1, min(blocks, len(d)))):
        known = d[part][np.isfinite(d[part])]
        if known.size:
            found.append((part.mean(), known.size, known.mean(), np.sqrt(np.mean(known**2))))
    at, count, mean, size = np.array(found).reshape(-1, 4).T
    return at, count.astype(int), mean, size


def draw_departures(
    axes: Any, times: Any, departures: dict[str, Any], blocks: int = 30, expected: float | None = 1.0
) -> None:
    """Draw the root-mean-square (solid, with markers) and mean (dashed) of departures over time.

    Args:
        axes: of Matplotlib.
        times: shape (time,), ascending.
        departures: by name (which may be empty): y - H(x) over what it should vary by (or over the observation error),
            shape (time, ...); NaN where nothing was observed.
        blocks: of successive times, over which is averaged.
        expected: root-mean-square that is expected, drawn with the band in which nine of ten blocks of independent
            normal departures lie, as is zero for the mean; None: draw zero alone.
    """
    times = np.asarray(times)
    axes.axhline(0.0, color="black", linestyle=":", linewidth=0.9)
    counts: list[int] = []
    for (name, values), (color, marker) in zip(departures.items(), LOOKS, strict=False):
        at, count, mean, size = block_statistics(values, blocks)
        places = times[np.round(at).astype(int)]
        counts += count.tolist()
        axes.plot(
            places, size, color=COLORS[color], marker=marker, markersize=3, label=f"{name}, size" if name else "size"
        )
        axes.plot(places, mean, color=COLORS[color], linestyle="--", label=f"{name}, mean" if name else "mean")
    if expected is not None and counts:
        n = float(np.median(counts))
        axes.axhline(expected, color="black", linestyle=":", linewidth=0.9)
        for center, half in ((0.0, NORMAL_90 / np.sqrt(n)), (1.0, NORMAL_90 / np.sqrt(2 * n))):
            axes.axhspan(
                expected * (center - half), expected * (center + half), color=COLORS["gray"], alpha=0.3, linewidth=0
            )
    axes.legend(loc="best", ncols=2)
