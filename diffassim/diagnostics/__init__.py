"""Tests, accounts and scores for the user's own models and assimilations."""

from diffassim.diagnostics.covariance import check_covariance
from diffassim.diagnostics.crps import crps
from diffassim.diagnostics.cycle_summary import cycle_summary
from diffassim.diagnostics.gradient import check_adjoint, check_gradient
from diffassim.diagnostics.observability import observability
from diffassim.diagnostics.spectra import Spectrum, power_spectrum, spherical_power_spectrum
from diffassim.diagnostics.summary import summary

__all__ = [
    "Spectrum",
    "check_adjoint",
    "check_covariance",
    "check_gradient",
    "crps",
    "cycle_summary",
    "observability",
    "power_spectrum",
    "spherical_power_spectrum",
    "summary",
]
