"""Forecast and analysis in turn."""

from diffassim.cycling.cycle import cycle
from diffassim.cycling.ensemble import EnsembleHistory, Moments, cycle_ensemble
from diffassim.cycling.ensemble_windows import EnsembleWindowHistory, cycle_ensemble_windows
from diffassim.cycling.smoother import smooth
from diffassim.cycling.times import AnalysisTimes, analysis_times
from diffassim.cycling.variational import FourDVar, History, cycle_windows
from diffassim.cycling.windows import split_windows

__all__ = [
    "AnalysisTimes",
    "EnsembleHistory",
    "EnsembleWindowHistory",
    "FourDVar",
    "History",
    "Moments",
    "analysis_times",
    "cycle",
    "cycle_ensemble",
    "cycle_ensemble_windows",
    "cycle_windows",
    "smooth",
    "split_windows",
]
