"""Ensemble filters, inflation and localization."""

from diffassim.ensemble.base import AnalysisInfo, EnsembleMethod, GlobalFilter
from diffassim.ensemble.departures import Departures, whitened_departures
from diffassim.ensemble.etkf import ETKF
from diffassim.ensemble.inflation import (
    Inflation,
    PosteriorInflation,
    PriorInflation,
    RelaxToPriorPerturbations,
    RelaxToPriorSpread,
)

__all__ = [
    "ETKF",
    "AnalysisInfo",
    "Departures",
    "EnsembleMethod",
    "GlobalFilter",
    "Inflation",
    "PosteriorInflation",
    "PriorInflation",
    "RelaxToPriorPerturbations",
    "RelaxToPriorSpread",
    "whitened_departures",
]
