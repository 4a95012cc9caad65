"""Forecast and analysis in turn."""

from diffassim.cycling.variational import FourDVar, History, cycle
from diffassim.cycling.windows import split_windows

__all__ = ["FourDVar", "History", "cycle", "split_windows"]
