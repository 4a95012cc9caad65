"""One look for all figures: sizes, fonts, and colors that color-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["COLORS", "figure", "panel_label", "style"]

# Okabe and Ito (2008); black is for observations or the truth.
COLORS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "gray": "#7F7F7F",
}

_SETTINGS: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Use the package's settings inside a `with` block; the user's own settings stay as they are."""
    with mpl.rc_context(_SETTINGS):
        yield


def figure(width: float = 7.0, height: float = 4.0) -> Figure:
    """Return an empty figure that belongs to no window and to no global state.

    Args:
        width: in inches.
        height: in inches.

    Example:
        >>> with style():
        ...     axes = figure(4.0, 3.0).subplots(2)
        >>> axes.shape
        (2,)
    """
    return Figure(figsize=(width, height))


def panel_label(axes: Any, letter: str, text: str) -> None:
    """Write a panel's title as '(a) text'."""
    axes.set_title(f"({letter}) {text}")
