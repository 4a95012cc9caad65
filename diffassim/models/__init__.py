"""Forward models, one per file, behind one protocol."""

from diffassim.models.acoustic import AcousticState, AcousticWaves
from diffassim.models.adams_bashforth import AdamsBashforth3, AdamsBashforthState
from diffassim.models.advection import LinearAdvection
from diffassim.models.advection_diffusion import AdvectionDiffusion
from diffassim.models.base import FunctionModel, Model, Parameter, SpectralModel, Variable
from diffassim.models.ensemble_tangent import EnsembleTangent
from diffassim.models.external import ExternalModel
from diffassim.models.gr4j import GR4J, CatchmentForcing, CatchmentState
from diffassim.models.in_parts import InParts, in_parts
from diffassim.models.kuramoto_sivashinsky import KuramotoSivashinsky
from diffassim.models.library import LibraryModel
from diffassim.models.lorenz63 import Lorenz63
from diffassim.models.lorenz96 import Lorenz96
from diffassim.models.navier_stokes import NavierStokes
from diffassim.models.numerics.exponential import exponential_runge_kutta_4
from diffassim.models.numerics.integrators import runge_kutta_4
from diffassim.models.numerics.point_sources import PointSources, Ricker, Sampled
from diffassim.models.numerics.stencil import PeriodicStencil
from diffassim.models.numerics.stencil_runge_kutta import stencil_runge_kutta_4
from diffassim.models.numerics.transfer import BlockMean, Truncation
from diffassim.models.reduced_gravity_qg import ReducedGravityQG
from diffassim.models.rollout import rollout
from diffassim.models.two_layer_qg import TwoLayerQG
from diffassim.models.two_scale_lorenz96 import TwoScaleLorenz96, TwoScaleState
from diffassim.models.with_parameters import WithParameters

__all__ = [
    "GR4J",
    "AcousticState",
    "AcousticWaves",
    "AdamsBashforth3",
    "AdamsBashforthState",
    "AdvectionDiffusion",
    "BlockMean",
    "CatchmentForcing",
    "CatchmentState",
    "EnsembleTangent",
    "ExternalModel",
    "FunctionModel",
    "InParts",
    "KuramotoSivashinsky",
    "LibraryModel",
    "LinearAdvection",
    "Lorenz63",
    "Lorenz96",
    "Model",
    "NavierStokes",
    "Parameter",
    "PeriodicStencil",
    "PointSources",
    "ReducedGravityQG",
    "Ricker",
    "Sampled",
    "SpectralModel",
    "Truncation",
    "TwoLayerQG",
    "TwoScaleLorenz96",
    "TwoScaleState",
    "Variable",
    "WithParameters",
    "exponential_runge_kutta_4",
    "in_parts",
    "rollout",
    "runge_kutta_4",
    "stencil_runge_kutta_4",
]
