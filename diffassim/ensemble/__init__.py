"""Ensemble and particle filters, inflation and localization."""

from diffassim.ensemble.adaptive import AdaptiveInflation, InflatedEnsemble
from diffassim.ensemble.base import EnsembleMethod, GlobalFilter
from diffassim.ensemble.denkf import DEnKF
from diffassim.ensemble.enkf import EnKF
from diffassim.ensemble.ensrf import EnSRF
from diffassim.ensemble.etkf import ETKF
from diffassim.ensemble.exact_perturbations import SecondOrderExactEnKF
from diffassim.ensemble.finite_size import EnKFN
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
from diffassim.ensemble.local.blocks import analyze_in_blocks
from diffassim.ensemble.local.domain import DomainFilter
from diffassim.ensemble.local.eakf import EAKF
from diffassim.ensemble.local.letkf import LETKF
from diffassim.ensemble.local.letkfn import LETKFN
from diffassim.ensemble.local.letpf import LETPF
from diffassim.ensemble.local.lnetf import LNETF
from diffassim.ensemble.local.local_enkf import LocalEnKF
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.ensemble.local.neighbors import nearest_observations
from diffassim.ensemble.local.places import observation_places
from diffassim.ensemble.local.rank_histogram import RankHistogramFilter
from diffassim.ensemble.local.serial import SerialFilter
from diffassim.ensemble.local.serial_enkf import SerialEnKF
from diffassim.ensemble.local.tapers import (
    Boxcar,
    Exponential,
    GaspariCohn,
    ProductTaper,
    SquaredExponential,
    Taper,
    Wendland,
)
from diffassim.ensemble.model_error import SquareRootNoise
from diffassim.ensemble.particles.kernel_particle_filter import KernelParticleFilter
from diffassim.ensemble.particles.netf import NETF
from diffassim.ensemble.particles.optimal_particle_filter import OptimalParticleFilter
from diffassim.ensemble.particles.particle_filter import ParticleFilter, ParticleInfo
from diffassim.ensemble.particles.resampling import Multinomial, Resampling, Residual, Stratified, Systematic
from diffassim.ensemble.particles.weight_adjusted import WeightAdjustedParticleFilter
from diffassim.ensemble.particles.weighted import Particles
from diffassim.ensemble.policy_inflation import PolicyInflation, SteeredEnsemble
from diffassim.ensemble.score.base import TransportFilter
from diffassim.ensemble.score.enff import EnFF
from diffassim.ensemble.score.ensf import EnSF
from diffassim.ensemble.smoothers.asynchronous import AsynchronousFilter
from diffassim.ensemble.smoothers.enks import EnKS, Lagged
from diffassim.ensemble.smoothers.ienks import IEnKS
from diffassim.ensemble.smoothers.local_ienks import LocalIEnKS

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
    "AsynchronousFilter",
    "Boxcar",
    "DEnKF",
    "DomainFilter",
    "EnFF",
    "EnKF",
    "EnKFN",
    "EnKS",
    "EnSF",
    "EnSRF",
    "EnsembleMethod",
    "Exponential",
    "GaspariCohn",
    "GlobalFilter",
    "IEnKS",
    "InflatedEnsemble",
    "Inflation",
    "Inflations",
    "Inversion",
    "KernelParticleFilter",
    "Lagged",
    "LocalEnKF",
    "LocalIEnKS",
    "LocalizedMethod",
    "Multinomial",
    "OptimalParticleFilter",
    "ParticleFilter",
    "ParticleInfo",
    "Particles",
    "PolicyInflation",
    "PosteriorInflation",
    "PriorInflation",
    "ProductTaper",
    "RankHistogramFilter",
    "RelaxToPriorPerturbations",
    "RelaxToPriorSpread",
    "Resampling",
    "Residual",
    "SecondOrderExactEnKF",
    "SerialEnKF",
    "SerialFilter",
    "SquareRootNoise",
    "SquaredExponential",
    "SteeredEnsemble",
    "Stratified",
    "Systematic",
    "Taper",
    "TransportFilter",
    "WeightAdjustedParticleFilter",
    "Wendland",
    "analyze_in_blocks",
    "draw_ensemble",
    "ensemble_inversion",
    "nearest_observations",
    "observation_places",
]
