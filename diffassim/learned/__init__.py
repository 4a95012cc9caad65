"""Networks as pytrees, and what they stand in for: models, first guesses, minimizers, analyses."""

import importlib
from typing import Any

from diffassim.learned.analysis import LearnedAnalysis, Remembered
from diffassim.learned.corrected_model import CorrectedModel
from diffassim.learned.covariance_analysis import LearnedCovarianceAnalysis
from diffassim.learned.ensemble_update import LearnedEnsembleUpdate
from diffassim.learned.inverse_operator import LearnedStart, control_of
from diffassim.learned.line_convolution import LineConvolution
from diffassim.learned.low_rank import LowRankAdapted
from diffassim.learned.minimizer import LearnedMinimizer
from diffassim.learned.network import Network
from diffassim.learned.normalized import Normalized, flop_count, parameter_count
from diffassim.learned.surrogate import SurrogateModel
from diffassim.learned.uncertainty import AdaptiveConformal, DeepEnsemble, LastLayerLaplace, calibration_table
from diffassim.learned.unrolled import ConvolutionalSteps, LineAutoencoder, UnrolledSolver

__all__ = [
    "AdaptiveConformal",
    "ConvolutionalSteps",
    "CorrectedModel",
    "DeepEnsemble",
    "LastLayerLaplace",
    "LearnedAnalysis",
    "LearnedCovarianceAnalysis",
    "LearnedEnsembleUpdate",
    "LearnedMinimizer",
    "LearnedStart",
    "LineAutoencoder",
    "LineConvolution",
    "LocalNetwork",
    "LowRankAdapted",
    "Network",
    "Normalized",
    "Remembered",
    "SurrogateModel",
    "UnrolledSolver",
    "calibration_table",
    "control_of",
    "flop_count",
    "networks",
    "parameter_count",
    "priors",
]


def __getattr__(name: str) -> Any:
    # imported only where they are used: flax modules, and what few need
    if name == "LocalNetwork":
        return importlib.import_module("diffassim.learned.local_network").LocalNetwork
    if name in ("networks", "priors"):
        return importlib.import_module(f"diffassim.learned.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
