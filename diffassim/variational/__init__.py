"""Variational assimilation: costs, minimizers and the derivatives of their solutions."""

from diffassim.variational.background_spread import background_spread
from diffassim.variational.descent import LBFGS, Descent
from diffassim.variational.fgat import ThreeDVarFGAT
from diffassim.variational.forecast_error import ForecastError
from diffassim.variational.four_d_en_var import FourDEnVar
from diffassim.variational.gauss_newton import GaussNewton
from diffassim.variational.influence import observation_influence
from diffassim.variational.minimize import MinimizationError, minimize
from diffassim.variational.multi_start import MultiStart, MultiStartMinimum
from diffassim.variational.posterior import Consistency, Posterior, posterior, randomized_solutions
from diffassim.variational.sensitivity import ObservationImpact, observation_impact
from diffassim.variational.simplified import Simplified
from diffassim.variational.solution import Minimum, Solution
from diffassim.variational.state_weak_constraint import StateWeakConstraint4DVar
from diffassim.variational.strong_constraint import StrongConstraint4DVar
from diffassim.variational.three_d_var import ThreeDVar
from diffassim.variational.weak_constraint import WeakConstraint4DVar

__all__ = [
    "LBFGS",
    "Consistency",
    "Descent",
    "ForecastError",
    "FourDEnVar",
    "GaussNewton",
    "MinimizationError",
    "Minimum",
    "MultiStart",
    "MultiStartMinimum",
    "ObservationImpact",
    "Posterior",
    "Simplified",
    "Solution",
    "StateWeakConstraint4DVar",
    "StrongConstraint4DVar",
    "ThreeDVar",
    "ThreeDVarFGAT",
    "WeakConstraint4DVar",
    "background_spread",
    "minimize",
    "observation_impact",
    "observation_influence",
    "posterior",
    "randomized_solutions",
]
