"""Forecast and analysis in turn."""

from diffassim.cycling.cycle import cycle
from diffassim.cycling.ensemble import EnsembleHistory, Moments, cycle_ensemble
from diffassim.cycling.hybrid import HybridFourDVar
from diffassim.cycling.smoother import smooth
from diffassim.cycling.times import AnalysisTimes, analysis_times
from diffassim.cycling.variational import FourDVar, History, WindowMethod, cycle_windows
from diffassim.cycling.windows import split_windows

__all__ = [
    "AnalysisTimes",
    "EnsembleHistory",
    "FourDVar",
    "History",
    "HybridFourDVar",
    "Moments",
    "WindowMethod",
    "analysis_times",
    "cycle",
    "cycle_ensemble",
    "cycle_windows",
    "smooth",
    "split_windows",
]
