"""Tests, accounts and scores for the user's own models and assimilations."""

from diffassim.diagnostics.communication import Communication, explain_communication
from diffassim.diagnostics.covariance import check_covariance
from diffassim.diagnostics.crps import crps, normal_crps, weighted_crps
from diffassim.diagnostics.cycle_summary import cycle_summary
from diffassim.diagnostics.explain import Explanation, explain
from diffassim.diagnostics.gradient import check_adjoint, check_gradient
from diffassim.diagnostics.innovations import InnovationStatistics, innovation_statistics
from diffassim.diagnostics.memory import MemoryReport, explain_memory
from diffassim.diagnostics.model import ModelReport, check_model
from diffassim.diagnostics.observability import observability
from diffassim.diagnostics.placement import (
    Exchange,
    Exhaustive,
    Greedy,
    LaterState,
    Placement,
    Prospects,
    Relaxation,
    place_sensors,
)
from diffassim.diagnostics.ranks import RankHistogram, independent_count, rank_histogram
from diffassim.diagnostics.reliability import (
    Coverage,
    Exceedance,
    SpreadError,
    binned_spread_error,
    exceedance_reliability,
    interval_coverage,
    spread_error,
)
from diffassim.diagnostics.spectra import Spectrum, power_spectrum, spherical_power_spectrum
from diffassim.diagnostics.summary import summary

__all__ = [
    "Communication",
    "Coverage",
    "Exceedance",
    "Exchange",
    "Exhaustive",
    "Explanation",
    "Greedy",
    "InnovationStatistics",
    "LaterState",
    "MemoryReport",
    "ModelReport",
    "Placement",
    "Prospects",
    "RankHistogram",
    "Relaxation",
    "Spectrum",
    "SpreadError",
    "binned_spread_error",
    "check_adjoint",
    "check_covariance",
    "check_gradient",
    "check_model",
    "crps",
    "cycle_summary",
    "exceedance_reliability",
    "explain",
    "explain_communication",
    "explain_memory",
    "independent_count",
    "innovation_statistics",
    "interval_coverage",
    "normal_crps",
    "observability",
    "place_sensors",
    "power_spectrum",
    "rank_histogram",
    "spherical_power_spectrum",
    "spread_error",
    "summary",
    "weighted_crps",
]
