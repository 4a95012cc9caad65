"""When model error enters: gathered from one analysis to the next, or at every step of the model."""

from __future__ import annotations

from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree

__all__ = ["EveryStep"]


class EveryStep(Pytree):
    r"""Model error of every model step, Q of any filter in place of what is gathered from analysis to analysis.

    .. math:: x_{k+1} = \mathcal M(x_k) + \eta_k,\qquad \eta_k \sim N(0, Q)

    Along a chaotic forecast early errors grow with the flow, which a single draw at its end does not. Over one step
    from analysis to analysis both are the same.

    Args:
        Q: covariance of the error of one step; of ensemble filters also `SquareRootNoise`.

    Raises:
        ConfigurationError: if Q is nothing of the kind.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> belief = da.gaussian.Gaussian.from_covariance(jnp.zeros(1), one)
        >>> y = da.Observations(jnp.array([[jnp.nan]]), [2], error=one)
        >>> doubling = da.models.FunctionModel(lambda x, t: 2 * x)
        >>> found = [da.cycle(da.EKF(Q=Q), doubling, belief, y)[0] for Q in (one, EveryStep(one))]
        >>> [round(float(f.covariance()[0, 0]), 6) for f in found]  # 16 + 1, and 4 (4 + 1) + 1
        [17.0, 21.0]

    Source: Anderson and Moore (1979), section 3.1, for the model; Evensen (2003), section 3.3, for ensembles.
    """

    Q: Any

    def __post_init__(self) -> None:
        if not hasattr(self.Q, "check") or isinstance(self.Q, EveryStep):
            raise ConfigurationError(f"EveryStep: Q must be a covariance, found {type(self.Q).__name__}")

    def check(self, name: str, x: Any) -> None:
        """Raise an error, naming `name`, unless Q fits a state like `x`."""
        self.Q.check(name, x)
