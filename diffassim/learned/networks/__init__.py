"""A zoo of flax.nnx modules; freeze one with `Network.from_nnx`. Their fields have channels last."""

from diffassim.learned.networks.dense import MLP, RecurrentCell, perceptron
from diffassim.learned.networks.fourier import FourierOperator
from diffassim.learned.networks.local import PeriodicGatedNet, PeriodicResidualNet, PeriodicUNet, neighbours
from diffassim.learned.networks.sets import GraphNetwork, SetEncoder

__all__ = [
    "MLP",
    "FourierOperator",
    "GraphNetwork",
    "PeriodicGatedNet",
    "PeriodicResidualNet",
    "PeriodicUNet",
    "RecurrentCell",
    "SetEncoder",
    "neighbours",
    "perceptron",
]
