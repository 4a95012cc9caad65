"""Error covariances as linear operators that know their square root."""

from diffassim.covariances.base import Covariance, NotAvailableError
from diffassim.covariances.blocks import Blocks
from diffassim.covariances.combined import Scaled, Sum
from diffassim.covariances.dense import Dense
from diffassim.covariances.diagonal import Diagonal, Zero

__all__ = ["Blocks", "Covariance", "Dense", "Diagonal", "NotAvailableError", "Scaled", "Sum", "Zero"]
