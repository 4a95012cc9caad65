"""Networks as pytrees, and corrections that turn a model into a model."""

from typing import Any

from diffassim.learned.corrected_model import CorrectedModel
from diffassim.learned.network import Network

__all__ = ["CorrectedModel", "LocalNetwork", "Network"]


def __getattr__(name: str) -> Any:
    if name == "LocalNetwork":  # a flax module: imported only where it is used
        from diffassim.learned.local_network import LocalNetwork

        return LocalNetwork
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
