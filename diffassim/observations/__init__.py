"""Observation operators and the observations they are compared with."""

from diffassim.observations.bias import Biased
from diffassim.observations.checks import (
    BackgroundCheck,
    Bounds,
    Check,
    Domain,
    Exclude,
    GrossErrors,
    HFailed,
    Passive,
)
from diffassim.observations.container import Observations, observed_rows
from diffassim.observations.flags import QCFlag
from diffassim.observations.interpolation import Interpolate
from diffassim.observations.on_sphere import InterpolateOnSphere
from diffassim.observations.operators import Compose, Field, Function, Identity, Linear, Operator, Subsample, Subset
from diffassim.observations.quality import Screening, quality_control
from diffassim.observations.robust import Huber, VariationalQC
from diffassim.observations.superobservations import superobservations
from diffassim.observations.thinning import Thinning
from diffassim.observations.times import steps_and_fractions

__all__ = [
    "BackgroundCheck",
    "Biased",
    "Bounds",
    "Check",
    "Compose",
    "Domain",
    "Exclude",
    "Field",
    "Function",
    "GrossErrors",
    "HFailed",
    "Huber",
    "Identity",
    "Interpolate",
    "InterpolateOnSphere",
    "Linear",
    "Observations",
    "Operator",
    "Passive",
    "QCFlag",
    "Screening",
    "Subsample",
    "Subset",
    "Thinning",
    "VariationalQC",
    "observed_rows",
    "quality_control",
    "steps_and_fractions",
    "superobservations",
]
