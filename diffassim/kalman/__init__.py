"""Methods that hand on a Gaussian: Kalman filters, and baselines with a static covariance."""

from diffassim.kalman.base import GaussianMethod, KalmanMethod
from diffassim.kalman.climatology import Climatology
from diffassim.kalman.extended import EKF
from diffassim.kalman.gaussian import Gaussian
from diffassim.kalman.optimal_interpolation import OptimalInterpolation
from diffassim.kalman.static import StaticMethod
from diffassim.kalman.three_d_var import CycledThreeDVar
from diffassim.kalman.unscented import UKF

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
