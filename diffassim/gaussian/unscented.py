"""The unscented Kalman filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.gaussian.base import KalmanMethod, joined
from diffassim.gaussian.belief import Gaussian

__all__ = ["UKF"]


class UKF(KalmanMethod):
    r"""Gaussians pass through model and operator by 2 n + 1 scaled sigma points.

    With the columns \(\ell_j\) of a root of P, the points \(\bar x \pm \gamma \ell_j\), \(\gamma^2 = \alpha^2 (n +
    \kappa)\), and the departures \(\delta_i = f(x_i) - f(\bar x)\) of their values,

    .. math::
        \bar f = f(\bar x) + \bar\delta,\quad \bar\delta = \frac{1}{2 \gamma^2} \sum_i \delta_i,\quad
        P_f = \frac{1}{2 \gamma^2} \sum_i \delta_i \delta_i^\top + (\beta - \alpha^2)\, \bar\delta \bar\delta^\top

    This is the scaled transform, its sums arranged so that every term is positive and nothing large cancels: the
    departures themselves are the square root, also for small alpha.

    Args:
        inflation: a number that multiplies the posterior columns (the covariance with its square).
        Q: covariance of the model error that is gathered from one analysis to the next, or `EveryStep` of that of a
            model step; None: a perfect model.
        alpha: distance of the points; in single precision not below .1.
        beta: weight of the center's departure, 2 for Gaussians; at least alpha^2.
        kappa: added to n; 3 - n matches a fourth moment and needs n < 3 (or alpha to keep gamma positive).

    Raises:
        ConfigurationError: if beta < alpha^2 or alpha is not positive.

    Example:
        >>> import diffassim as da
        >>> belief = da.gaussian.Gaussian.from_covariance(jnp.zeros(1), da.covariances.Diagonal(std=1.0))
        >>> square = da.models.FunctionModel(lambda x, t: x**2)  # chi-square: mean 1, variance 2
        >>> y = da.Observations(jnp.array([[jnp.nan]]), [1], error=da.covariances.Diagonal(std=1.0))
        >>> belief, _ = da.cycle(UKF(), square, belief, y)
        >>> belief.mean.round(4).tolist(), round(float(belief.covariance()[0, 0]), 4)
        ([1.0], 2.0)

    Source: Julier (2002), equations 15 to 24; Wan and van der Merwe (2000), section 3.
    """

    alpha: Any = 1.0
    beta: Any = 2.0
    kappa: Any = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("UKF: alpha", self.alpha, "1 places the points at the distance of the root of n.")
        alpha, beta = concrete(self.alpha), concrete(self.beta)
        if alpha is not None and beta is not None and not (beta >= alpha**2).all():
            raise ConfigurationError(
                f"UKF: beta = {self.beta} must be at least alpha^2 = {float((alpha**2).max()):g}, or a covariance may "
                "become negative; 2 is right for Gaussians"
            )

    @property
    def square(self) -> bool:
        """Whether the belief needs as many columns as the state has components: always."""
        return True

    def init(self, belief: Any) -> Gaussian:
        """Return the belief, checked, also that the points are apart."""
        belief = super().init(belief)
        kappa, n = concrete(self.kappa), tree.size(belief.mean)
        if kappa is not None and not (n + kappa > 0).all():
            raise ConfigurationError(f"UKF: n + kappa must be positive, found {n} + ({self.kappa})")
        return belief

    def transport(self, function: Callable[[Any], Any], belief: Gaussian) -> tuple[Any, Any, Any]:
        """Return the mean over the points, and the departures of points and values from the center's."""
        leaf = jax.tree.leaves(belief.columns)[0]
        alpha, beta, kappa = (jnp.asarray(number, leaf.dtype) for number in (self.alpha, self.beta, self.kappa))
        gamma = alpha * jnp.sqrt(leaf.shape[0] + kappa)
        away = tree.scale(gamma, belief.columns)
        away = joined(away, tree.scale(-1, away))
        center = function(belief.mean)
        values = jax.vmap(lambda column: function(tree.add(belief.mean, column)))(away)
        departures = jax.tree.map(lambda value, c: value - c[None], values, center)
        shift = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / (2 * gamma**2).astype(leaf.dtype), departures)
        weight, rest = 1 / (2**0.5 * gamma), beta - alpha**2
        first = jax.tree.map(lambda leaf: leaf[None], tree.scale(safe_sqrt(rest), shift))
        nothing = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), belief.mean)
        return (
            tree.add(center, shift),
            joined(tree.scale(weight, away), nothing),
            joined(tree.scale(weight, departures), first),
        )
