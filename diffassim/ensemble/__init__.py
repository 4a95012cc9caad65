"""Ensemble and particle filters, inflation and localization."""

from diffassim.core.product_grid import Categories, Levels, ProductGrid
from diffassim.core.sphere import Sphere
from diffassim.ensemble.adaptive import AdaptiveInflation, InflatedEnsemble
from diffassim.ensemble.base import AnalysisInfo, EnsembleMethod, GlobalFilter, SequentialMethod
from diffassim.ensemble.denkf import DEnKF
from diffassim.ensemble.departures import Departures, whitened_departures
from diffassim.ensemble.domain import DomainFilter
from diffassim.ensemble.eakf import EAKF
from diffassim.ensemble.enkf import EnKF
from diffassim.ensemble.enks import EnKS, Lagged
from diffassim.ensemble.ensrf import EnSRF
from diffassim.ensemble.etkf import ETKF
from diffassim.ensemble.finite_size import EnKFN
from diffassim.ensemble.ienks import IEnKS
from diffassim.ensemble.inflation import (
    AdditiveInflation,
    Inflation,
    Inflations,
    PosteriorInflation,
    PriorInflation,
    RelaxToPriorPerturbations,
    RelaxToPriorSpread,
)
from diffassim.ensemble.initial import draw_ensemble
from diffassim.ensemble.inversion import Inversion, ensemble_inversion
from diffassim.ensemble.letkf import LETKF
from diffassim.ensemble.letkfn import LETKFN
from diffassim.ensemble.letpf import LETPF
from diffassim.ensemble.lnetf import LNETF
from diffassim.ensemble.local_enkf import LocalEnKF
from diffassim.ensemble.localized import LocalizedMethod
from diffassim.ensemble.model_error import SquareRootNoise
from diffassim.ensemble.neighbors import nearest_observations
from diffassim.ensemble.netf import NETF
from diffassim.ensemble.optimal_particle_filter import OptimalParticleFilter
from diffassim.ensemble.particle_filter import ParticleFilter, ParticleInfo
from diffassim.ensemble.particles import Particles
from diffassim.ensemble.places import observation_places
from diffassim.ensemble.rank_histogram import RankHistogramFilter
from diffassim.ensemble.resampling import Multinomial, Resampling, Residual, Stratified, Systematic
from diffassim.ensemble.serial import SerialFilter
from diffassim.ensemble.serial_enkf import SerialEnKF
from diffassim.ensemble.tapers import (
    Boxcar,
    Exponential,
    GaspariCohn,
    ProductTaper,
    SquaredExponential,
    Taper,
    Wendland,
)
from diffassim.ensemble.window import AsynchronousFilter, EnsembleWindowMethod, WindowInfo

__all__ = [
    "EAKF",
    "ETKF",
    "LETKF",
    "LETKFN",
    "LETPF",
    "LNETF",
    "NETF",
    "AdaptiveInflation",
    "AdditiveInflation",
    "AnalysisInfo",
    "AsynchronousFilter",
    "Boxcar",
    "Categories",
    "DEnKF",
    "Departures",
    "DomainFilter",
    "EnKF",
    "EnKFN",
    "EnKS",
    "EnSRF",
    "EnsembleMethod",
    "EnsembleWindowMethod",
    "Exponential",
    "GaspariCohn",
    "GlobalFilter",
    "IEnKS",
    "InflatedEnsemble",
    "Inflation",
    "Inflations",
    "Inversion",
    "Lagged",
    "Levels",
    "LocalEnKF",
    "LocalizedMethod",
    "Multinomial",
    "OptimalParticleFilter",
    "ParticleFilter",
    "ParticleInfo",
    "Particles",
    "PosteriorInflation",
    "PriorInflation",
    "ProductGrid",
    "ProductTaper",
    "RankHistogramFilter",
    "RelaxToPriorPerturbations",
    "RelaxToPriorSpread",
    "Resampling",
    "Residual",
    "SequentialMethod",
    "SerialEnKF",
    "SerialFilter",
    "Sphere",
    "SquareRootNoise",
    "SquaredExponential",
    "Stratified",
    "Systematic",
    "Taper",
    "Wendland",
    "WindowInfo",
    "draw_ensemble",
    "ensemble_inversion",
    "nearest_observations",
    "observation_places",
    "whitened_departures",
]
