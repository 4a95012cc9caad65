"""How far a learned part may be off: ensembles, Laplace, conformal intervals, and the table that checks them."""

from diffassim.learned.uncertainty.calibration import Calibration, calibration_table
from diffassim.learned.uncertainty.conformal import AdaptiveConformal, ConformalState
from diffassim.learned.uncertainty.deep_ensemble import DeepEnsemble
from diffassim.learned.uncertainty.laplace import LastLayerLaplace

__all__ = [
    "AdaptiveConformal",
    "Calibration",
    "ConformalState",
    "DeepEnsemble",
    "LastLayerLaplace",
    "calibration_table",
]
