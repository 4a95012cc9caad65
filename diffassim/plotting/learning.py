"""Learning curves of several trainings, with the best that can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffassim.core.errors import ShapeError
from diffassim.core.intervals import interval
from diffassim.plotting.style import COLORS

__all__ = ["draw_learning_curves"]

_SHOWN = ("blue", "orange", "green", "red", "purple", "sky", "gray")


def draw_learning_curves(
    axes: Any, curves: Mapping[str, Any], *, optimum: float | None = None, colors: Mapping[str, str] | None = None
) -> None:
    """Draw means over trainings and their intervals of 95 percent by Student's t, and the optimum as a line.

    Curves may be of different length: what is not finite in every training is left out, and each runs over the whole
    training. A single training has no band.

    Args:
        axes: of matplotlib.
        curves: by name, shape (trainings, parts).
        optimum: value that cannot be surpassed, or None.
        colors: by name; default: those of the package in turn.

    Raises:
        ShapeError: if a curve has not the two axes.

    Example:
        >>> from diffassim.plotting.style import figure
        >>> axes = figure().subplots()
        >>> draw_learning_curves(axes, {"agent": [[-20.0, -14.0, -13.0], [-24.0, -15.0, -13.0]]}, optimum=-13.0)
        >>> [line.get_label() for line in axes.lines]
        ['optimum', 'agent']
    """
    if optimum is not None:
        axes.axhline(optimum, color=COLORS["black"], linewidth=0.8, linestyle="--", label="optimum", zorder=1)
    for k, (name, found) in enumerate(curves.items()):
        values = np.asarray(found, float)
        if values.ndim != 2 or values.shape[0] == 0:
            raise ShapeError(f"draw_learning_curves: {name!r} has shape {values.shape}; give (trainings, parts)")
        values = values[:, np.isfinite(values).all(axis=0)]
        part, (mean, half) = np.linspace(0, 1, values.shape[1]), interval(values)
        color = (colors or {}).get(name, COLORS[_SHOWN[k % len(_SHOWN)]])
        axes.plot(part, mean, color=color, label=name)
        if len(values) > 1:
            axes.fill_between(part, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    axes.set_xlabel("part of the training")
    if axes.lines:
        axes.legend()
