"""Observation operators and the observations they are compared with."""

from diffassim.observations.container import Observations, observed_rows
from diffassim.observations.interpolation import Interpolate
from diffassim.observations.operators import Compose, Field, Function, Identity, Linear, Operator, Subsample, Subset
from diffassim.observations.robust import Huber, VariationalQC
from diffassim.observations.times import steps_and_fractions

__all__ = [
    "Compose",
    "Field",
    "Function",
    "Huber",
    "Identity",
    "Interpolate",
    "Linear",
    "Observations",
    "Operator",
    "Subsample",
    "Subset",
    "VariationalQC",
    "observed_rows",
    "steps_and_fractions",
]
