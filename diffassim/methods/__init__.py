"""The protocols of analysis methods, and what all of them see and report.

A method analyses one time after the other (`SequentialMethod`) or windows of time (`WindowMethod`,
`EnsembleWindowMethod`); `da.cycle` alternates any of them with any model.
"""

from diffassim.methods.account import AnalysisInfo, WindowInfo
from diffassim.methods.departures import Departures, whitened_departures
from diffassim.methods.model_error import EveryStep
from diffassim.methods.sequential import SequentialMethod
from diffassim.methods.windows import EnsembleWindowMethod, WindowAnalysis, WindowMethod

__all__ = [
    "AnalysisInfo",
    "Departures",
    "EnsembleWindowMethod",
    "EveryStep",
    "SequentialMethod",
    "WindowAnalysis",
    "WindowInfo",
    "WindowMethod",
    "whitened_departures",
]
