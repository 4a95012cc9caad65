"""Training loops, and losses that pass through an assimilation.

A loss is a route (from a model and a sample to states) and a score of where it leads; `fit` takes any function.
"""

from diffassim.training import reinforcement
from diffassim.training.adversarial import Adversarial, perturbed, worst_errors
from diffassim.training.checkpoint import load_checkpoint, save_checkpoint
from diffassim.training.checkpoints import Checkpoints, Kept
from diffassim.training.curriculum import Stage, fit_stages
from diffassim.training.distillation import Distillation
from diffassim.training.drift import DriftDetector, innovation_statistic
from diffassim.training.fit import Fit, TrainingError, fit
from diffassim.training.frozen import paths_of, training_only
from diffassim.training.metrics import CsvMetrics, TensorBoardMetrics
from diffassim.training.online import OnlineState, OnlineTraining
from diffassim.training.private import Private, privacy_spent
from diffassim.training.progress import ProgressLine
from diffassim.training.routes import AnalysisForecast, FilterCycle, FilterForecast, Forecast, Route, WindowSample
from diffassim.training.scores import CRPS, EnergyScore, GaussianLikelihood, Loss, MeanSquare, Score, Spectral
from diffassim.training.sources import Source, StoredArrays
from diffassim.training.state import TrainingState
from diffassim.training.through_analysis import ForecastMisfit

__all__ = [
    "CRPS",
    "Adversarial",
    "AnalysisForecast",
    "Checkpoints",
    "CsvMetrics",
    "Distillation",
    "DriftDetector",
    "EnergyScore",
    "FilterCycle",
    "FilterForecast",
    "Fit",
    "Forecast",
    "ForecastMisfit",
    "GaussianLikelihood",
    "Kept",
    "Loss",
    "MeanSquare",
    "OnlineState",
    "OnlineTraining",
    "Private",
    "ProgressLine",
    "Route",
    "Score",
    "Source",
    "Spectral",
    "Stage",
    "StoredArrays",
    "TensorBoardMetrics",
    "TrainingError",
    "TrainingState",
    "WindowSample",
    "fit",
    "fit_stages",
    "innovation_statistic",
    "load_checkpoint",
    "paths_of",
    "perturbed",
    "privacy_spent",
    "reinforcement",
    "save_checkpoint",
    "training_only",
    "worst_errors",
]
