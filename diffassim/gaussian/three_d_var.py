"""3D-Var as a sequential filter: the forecast is the background, its error covariance never changes."""

from __future__ import annotations

from typing import Any

from diffassim.gaussian.belief import Gaussian
from diffassim.gaussian.static import StaticMethod

__all__ = ["CycledThreeDVar"]


class CycledThreeDVar(StaticMethod):
    r"""Every forecast is analysed with the same background-error covariance B.

    .. math:: x_a = x_f + B H^\top (H B H^\top + R)^{-1} (y - \mathcal H(x_f))

    H is linearized at the forecast once; minimize `da.ThreeDVar` for an operator so nonlinear that this matters. With a
    model that does not move (`FunctionModel(lambda x, t: x)`) the forecast is persistence.

    Args:
        climatology: a `Gaussian` whose covariance, times `scale`, is B, for instance `Gaussian.from_samples` of states
            of a long run; its mean is not used.
        scale: number that multiplies its covariance.

    Example:
        >>> import diffassim as da
        >>> normal = da.gaussian.Gaussian(jnp.zeros(2), jnp.eye(2))
        >>> y = da.Observations(jnp.ones((1, 2)), [0], error=da.covariances.Diagonal(std=1.0))
        >>> CycledThreeDVar(normal).analyze(None, jnp.full(2, 2.0), y)[0].mean.round(6).tolist()
        [1.5, 1.5]

    Source: Lorenc (1986).
    """

    def background(self, mean: Any, prior: Gaussian) -> Gaussian:
        """Return the forecast with the static covariance."""
        return prior.replace(mean=mean)
