"""Training loops, and losses that pass through an assimilation."""

from diffassim.training.fit import Fit, TrainingError, fit
from diffassim.training.through_analysis import ForecastMisfit, WindowSample

__all__ = ["Fit", "ForecastMisfit", "TrainingError", "WindowSample", "fit"]
