"""Error covariances as linear operators that know their square root."""

from diffassim.covariances.base import Covariance, NotAvailableError
from diffassim.covariances.blocks import Blocks
from diffassim.covariances.combined import Scaled, Sum
from diffassim.covariances.dense import Dense
from diffassim.covariances.diagonal import Diagonal, Zero
from diffassim.covariances.diffusion import Diffusion
from diffassim.covariances.ensemble import Ensemble
from diffassim.covariances.estimation.desroziers import Departures, TunedFactors, departure_statistics, tune_factors
from diffassim.covariances.estimation.fit_parameters import Fitted, fit_parameters
from diffassim.covariances.estimation.forecast_differences import forecast_differences
from diffassim.covariances.estimation.likelihood import negative_log_likelihood
from diffassim.covariances.estimation.likelihood_estimate import LikelihoodEstimate, estimate_likelihood
from diffassim.covariances.explicit_diffusion import ExplicitDiffusion
from diffassim.covariances.gaussian import Gaussian
from diffassim.covariances.in_parts import in_parts
from diffassim.covariances.kronecker import Kronecker
from diffassim.covariances.local_root import LocalRoot
from diffassim.covariances.low_rank import LowRank
from diffassim.covariances.matern import Matern
from diffassim.covariances.measured import MeasuredSpectrum
from diffassim.covariances.zonal import ZonallyHomogeneous

__all__ = [
    "Blocks",
    "Covariance",
    "Dense",
    "Departures",
    "Diagonal",
    "Diffusion",
    "Ensemble",
    "ExplicitDiffusion",
    "Fitted",
    "Gaussian",
    "Kronecker",
    "LikelihoodEstimate",
    "LocalRoot",
    "LowRank",
    "Matern",
    "MeasuredSpectrum",
    "NotAvailableError",
    "Scaled",
    "Sum",
    "TunedFactors",
    "Zero",
    "ZonallyHomogeneous",
    "departure_statistics",
    "estimate_likelihood",
    "fit_parameters",
    "forecast_differences",
    "in_parts",
    "negative_log_likelihood",
    "tune_factors",
]
