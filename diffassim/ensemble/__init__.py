"""Ensemble filters, inflation and localization."""

from diffassim.ensemble.base import AnalysisInfo, EnsembleMethod, GlobalFilter
from diffassim.ensemble.denkf import DEnKF
from diffassim.ensemble.departures import Departures, whitened_departures
from diffassim.ensemble.enkf import EnKF
from diffassim.ensemble.ensrf import EnSRF
from diffassim.ensemble.etkf import ETKF
from diffassim.ensemble.inflation import (
    Inflation,
    PosteriorInflation,
    PriorInflation,
    RelaxToPriorPerturbations,
    RelaxToPriorSpread,
)
from diffassim.ensemble.letkf import LETKF
from diffassim.ensemble.places import observation_places
from diffassim.ensemble.tapers import GaspariCohn

__all__ = [
    "ETKF",
    "LETKF",
    "AnalysisInfo",
    "DEnKF",
    "Departures",
    "EnKF",
    "EnSRF",
    "EnsembleMethod",
    "GaspariCohn",
    "GlobalFilter",
    "Inflation",
    "PosteriorInflation",
    "PriorInflation",
    "RelaxToPriorPerturbations",
    "RelaxToPriorSpread",
    "observation_places",
    "whitened_departures",
]
