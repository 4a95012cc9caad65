"""Variational assimilation: costs, minimizers and the derivatives of their solutions."""

from diffassim.variational.costs.base import Cost, Window
from diffassim.variational.costs.factory import CostFactory, PerfectModel, WithModelError
from diffassim.variational.costs.fgat import ThreeDVarFGAT
from diffassim.variational.costs.four_d_en_var import FourDEnVar
from diffassim.variational.costs.parameters import Bounded
from diffassim.variational.costs.state_weak_constraint import StateWeakConstraint4DVar
from diffassim.variational.costs.strong_constraint import StrongConstraint4DVar
from diffassim.variational.costs.three_d_var import ThreeDVar
from diffassim.variational.costs.weak_constraint import WeakConstraint4DVar
from diffassim.variational.minimizers.base import Minimizer
from diffassim.variational.minimizers.descent import LBFGS, Descent
from diffassim.variational.minimizers.direct import DirectSVD
from diffassim.variational.minimizers.dual import DualCG
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.growth import QuasiStatic
from diffassim.variational.minimizers.minimize import MinimizationError, minimize
from diffassim.variational.minimizers.multi_start import MultiStart, MultiStartMinimum
from diffassim.variational.minimizers.primal import PrimalCG
from diffassim.variational.minimizers.simplified import Incremental, Simplified
from diffassim.variational.minimizers.solution import Minimum, Solution
from diffassim.variational.products.background_spread import background_spread
from diffassim.variational.products.forecast_error import ForecastError
from diffassim.variational.products.influence import observation_influence
from diffassim.variational.products.likelihood import log_likelihood
from diffassim.variational.products.posterior import Consistency, Posterior, posterior, randomized_solutions
from diffassim.variational.products.sensitivity import ObservationImpact, observation_impact

__all__ = [
    "LBFGS",
    "Bounded",
    "Consistency",
    "Cost",
    "CostFactory",
    "Descent",
    "DirectSVD",
    "DualCG",
    "ForecastError",
    "FourDEnVar",
    "GaussNewton",
    "Incremental",
    "MinimizationError",
    "Minimizer",
    "Minimum",
    "MultiStart",
    "MultiStartMinimum",
    "ObservationImpact",
    "PerfectModel",
    "Posterior",
    "PrimalCG",
    "QuasiStatic",
    "Simplified",
    "Solution",
    "StateWeakConstraint4DVar",
    "StrongConstraint4DVar",
    "ThreeDVar",
    "ThreeDVarFGAT",
    "WeakConstraint4DVar",
    "Window",
    "WithModelError",
    "background_spread",
    "log_likelihood",
    "minimize",
    "observation_impact",
    "observation_influence",
    "posterior",
    "randomized_solutions",
]
