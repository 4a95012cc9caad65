"""Training loops, and losses that pass through an assimilation."""

from diffassim.training.checkpoint import load_checkpoint, save_checkpoint
from diffassim.training.fit import Fit, TrainingError, fit
from diffassim.training.state import TrainingState
from diffassim.training.through_analysis import ForecastMisfit, WindowSample

__all__ = [
    "Fit",
    "ForecastMisfit",
    "TrainingError",
    "TrainingState",
    "WindowSample",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
]
