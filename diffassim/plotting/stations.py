"""Figure of a network of stations: a series with its forecasts, and scores by lead."""

from __future__ import annotations

from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["network_overview"]


def network_overview(dataset: xr.Dataset, scores: pd.DataFrame, start: pd.Timestamp) -> Figure:
    """Return the figure."""
    with style():
        drawn = figure(8.2, 6.0)
        drawn.subplots()
    return drawn
