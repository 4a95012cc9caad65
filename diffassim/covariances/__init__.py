"""Error covariances as linear operators that know their square root."""

from diffassim.core.grid import Grid
from diffassim.covariances.base import Covariance, NotAvailableError
from diffassim.covariances.blocks import Blocks
from diffassim.covariances.combined import Scaled, Sum
from diffassim.covariances.dense import Dense
from diffassim.covariances.diagonal import Diagonal, Zero
from diffassim.covariances.diffusion import Diffusion
from diffassim.covariances.ensemble import Ensemble
from diffassim.covariances.gaussian import Gaussian
from diffassim.covariances.kronecker import Kronecker
from diffassim.covariances.matern import Matern

__all__ = [
    "Blocks",
    "Covariance",
    "Dense",
    "Diagonal",
    "Diffusion",
    "Ensemble",
    "Gaussian",
    "Grid",
    "Kronecker",
    "Matern",
    "NotAvailableError",
    "Scaled",
    "Sum",
    "Zero",
]
