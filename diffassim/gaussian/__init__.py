"""Methods that hand on a Gaussian: Kalman filters, and baselines with a static covariance."""

from diffassim.gaussian.base import GaussianMethod, KalmanMethod
from diffassim.gaussian.belief import Gaussian
from diffassim.gaussian.climatology import Climatology
from diffassim.gaussian.extended import EKF
from diffassim.gaussian.optimal_interpolation import OptimalInterpolation
from diffassim.gaussian.static import StaticMethod
from diffassim.gaussian.three_d_var import CycledThreeDVar
from diffassim.gaussian.unscented import UKF

KalmanFilter = EKF  # where model and operator are linear, this is what it is

__all__ = [
    "EKF",
    "UKF",
    "Climatology",
    "CycledThreeDVar",
    "Gaussian",
    "GaussianMethod",
    "KalmanFilter",
    "KalmanMethod",
    "OptimalInterpolation",
    "StaticMethod",
]
