"""The climatology as a method: what is known of the state without any observation."""

from __future__ import annotations

from typing import Any

from diffassim.gaussian.belief import Gaussian
from diffassim.gaussian.static import StaticMethod
from diffassim.methods.account import AnalysisInfo

__all__ = ["Climatology"]


class Climatology(StaticMethod):
    """Neither model nor observations are used: the baseline that any method has to beat.

    Args:
        climatology: a `Gaussian`, for instance `Gaussian.from_samples` of states of a long run.
        scale: number that multiplies its covariance.

    Example:
        >>> import diffassim as da
        >>> normal = da.gaussian.Gaussian(jnp.zeros(2), jnp.eye(2))
        >>> y = da.Observations(jnp.ones((1, 2)), [0], error=da.covariances.Diagonal(std=1.0))
        >>> Climatology(normal).analyze(None, jnp.ones(2), y)[0].mean.tolist()
        [0.0, 0.0]
    """

    def background(self, mean: Any, prior: Gaussian) -> Gaussian:
        """Return the climatology."""
        return prior

    def analyze(self, key: Any, belief: Any, observations: Any) -> tuple[Gaussian, AnalysisInfo]:
        """Return the climatology; the info compares it with the observations."""
        _, info = super().analyze(key, belief, observations)
        return self.init(belief), info.replace(analysis_spread=info.background_spread)
