"""diffassim: data assimilation as differentiable JAX functions.

Forward models, observation operators, error covariances, variational costs and learned corrections are pure functions
of pytrees, so that one autodiff engine serves assimilation, parameter estimation and network training.

Conventions: `x[0]` is the window start; steps count model steps after it, and a rollout of n steps has n + 1 rows;
axes are (member, time, ..., space); the innovation is y - H(x); J carries the factor 1/2.
"""

from importlib import import_module
from typing import Any

from diffassim.core.runtime import protect_small_machines

protect_small_machines()

from diffassim import (  # noqa: E402
    covariances,
    cycling,
    diagnostics,
    ensemble,
    gaussian,
    grids,
    methods,
    models,
    observations,
    variational,
)
from diffassim.core.errors import (  # noqa: E402
    AssimilationError,
    AssimilationWarning,
    ConfigurationError,
    DataError,
    ShapeError,
)
from diffassim.core.results import Result  # noqa: E402
from diffassim.core.sharding import FullySharded, device_mesh, distribute, distributed_map  # noqa: E402
from diffassim.cycling import (  # noqa: E402
    FourDVar,
    HybridFourDVar,
    analysis_times,
    cycle,
    observations_from_reports,
    pad_observations,
    smooth,
    split_windows,
)
from diffassim.ensemble import (  # noqa: E402
    EAKF,
    ETKF,
    LETKF,
    AsynchronousFilter,
    DEnKF,
    EnKF,
    EnKFN,
    EnKS,
    EnSRF,
    IEnKS,
    OptimalParticleFilter,
    ParticleFilter,
)
from diffassim.gaussian import EKF, UKF  # noqa: E402
from diffassim.methods import EveryStep  # noqa: E402
from diffassim.models import rollout  # noqa: E402
from diffassim.observations import Observations  # noqa: E402
from diffassim.variational import (  # noqa: E402
    LBFGS,
    Descent,
    FourDEnVar,
    GaussNewton,
    MultiStart,
    StateWeakConstraint4DVar,
    StrongConstraint4DVar,
    ThreeDVar,
    ThreeDVarFGAT,
    WeakConstraint4DVar,
    minimize,
)

__version__ = "0.1.0"

__all__ = [
    "EAKF",
    "EKF",
    "ETKF",
    "LBFGS",
    "LETKF",
    "UKF",
    "AssimilationError",
    "AssimilationWarning",
    "AsynchronousFilter",
    "ConfigurationError",
    "DEnKF",
    "DataError",
    "Descent",
    "EnKF",
    "EnKFN",
    "EnKS",
    "EnSRF",
    "EveryStep",
    "FourDEnVar",
    "FourDVar",
    "FullySharded",
    "GaussNewton",
    "HybridFourDVar",
    "IEnKS",
    "MultiStart",
    "Observations",
    "OptimalParticleFilter",
    "ParticleFilter",
    "Result",
    "ShapeError",
    "StateWeakConstraint4DVar",
    "StrongConstraint4DVar",
    "ThreeDVar",
    "ThreeDVarFGAT",
    "WeakConstraint4DVar",
    "analysis_times",
    "covariances",
    "cycle",
    "cycling",
    "decisions",
    "device_mesh",
    "diagnostics",
    "distribute",
    "distributed_map",
    "ensemble",
    "gaussian",
    "grids",
    "io",
    "learned",
    "methods",
    "minimize",
    "models",
    "observations",
    "observations_from_reports",
    "pad_observations",
    "plotting",
    "rollout",
    "smooth",
    "split_windows",
    "training",
    "variational",
]

# They lead to flax and optax, or xarray and matplotlib, which take as long to import as half of JAX.
_LATE = ("decisions", "io", "learned", "plotting", "training")


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
