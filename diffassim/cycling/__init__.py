"""Forecast and analysis in turn."""

from diffassim.cycling.chunks import cycle_in_chunks
from diffassim.cycling.cycle import cycle
from diffassim.cycling.ensemble import EnsembleHistory, Moments, cycle_ensemble
from diffassim.cycling.ensemble_windows import EnsembleWindowHistory, cycle_ensemble_windows
from diffassim.cycling.hybrid import HybridFourDVar
from diffassim.cycling.padding import bucket_size, pad_observations
from diffassim.cycling.reports import observations_from_reports
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
    "HybridFourDVar",
    "Moments",
    "analysis_times",
    "bucket_size",
    "cycle",
    "cycle_ensemble",
    "cycle_ensemble_windows",
    "cycle_in_chunks",
    "cycle_windows",
    "observations_from_reports",
    "pad_observations",
    "smooth",
    "split_windows",
]
