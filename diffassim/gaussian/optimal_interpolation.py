"""Optimal interpolation: every analysis starts from the climatology."""

from __future__ import annotations

from typing import Any

from diffassim.gaussian.belief import Gaussian
from diffassim.gaussian.static import StaticMethod

__all__ = ["OptimalInterpolation"]


class OptimalInterpolation(StaticMethod):
    """Observations are combined with the climatology, without any model.

    Args:
        climatology: a `Gaussian`, for instance `Gaussian.from_samples` of states of a long run.
        scale: number that multiplies its covariance.

    Example:
        >>> import diffassim as da
        >>> normal = da.gaussian.Gaussian(jnp.zeros(2), jnp.eye(2))
        >>> y = da.Observations(jnp.ones((1, 2)), [0], error=da.covariances.Diagonal(std=1.0))
        >>> OptimalInterpolation(normal).analyze(None, jnp.ones(2), y)[0].mean.round(6).tolist()
        [0.5, 0.5]

    Source: Gandin (1963); Daley (1991), chapter 4.
    """

    def background(self, mean: Any, prior: Gaussian) -> Gaussian:
        """Return the climatology."""
        return prior
