"""Gauss-Newton's inner problem solved directly, with the Jacobian as a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.variational.costs.base import require_departures
from diffassim.variational.minimizers.primal import Around, InnerMethod, PrimalCG
from diffassim.variational.minimizers.trust_region import TrustRegionStep

__all__ = ["DirectSVD", "direct_step"]

HALVINGS = 60  # of the interval in which the trust region's multiplier lies
AT_ONCE = 64  # products in a batch: larger ones leave the caches of a processor


class DirectSVD(InnerMethod, Pytree):
    r"""The exact step from the singular values of the Jacobian, see `direct_step`.

    For small problems that conjugate gradients do not solve: nearly exact observations leave a Hessian whose
    eigenvalues spread over ten and more orders of magnitude. One product with A or its transpose is made for every
    control variable or observed value, whichever are fewer, and the matrix is held in memory. There
    are no unrolled derivatives, since singular values may repeat; implicit ones need none.

    Raises:
        ConfigurationError: (in use) if the residuals of the cost are not the control vector itself and whitened
            innovations, or the loops are to be unrolled.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> da.minimize(cost, da.GaussNewton(inner=DirectSVD())).state.round(6).tolist()
        [2.0]

    Source: as `direct_step`.
    """

    @property
    def primal(self) -> PrimalCG:
        """Conjugate gradients, for the full Hessian, of which only products are known."""
        return PrimalCG()

    def check(self, cost: Any, residuals: Any) -> None:
        """Raise an error if the residuals are not those of a whitened cost; see `InnerMethod.check`."""
        if not cost.whitened:
            raise ConfigurationError(
                f"DirectSVD: the control vector of {type(cost).__name__} is not whitened; take inner=PrimalCG()"
            )
        require_departures("DirectSVD", residuals)

    def step(self, around: Around, radius: Any, remembered: Any, unrolled: bool) -> TrustRegionStep:
        """Minimize the quadratic model; see `InnerMethod.step`."""
        if unrolled:
            raise ConfigurationError(
                "DirectSVD has no unrolled derivatives; take implicit ones (the default) or inner=PrimalCG()"
            )
        (first, departures), of_control = around.residuals, tree.zeros_like(around.control)
        v, to_control = ravel_pytree(first)
        d, to_departures = ravel_pytree(departures)

        def solved() -> tuple[Any, Any, Any]:
            if v.size <= d.size:
                pushed = lambda p: ravel_pytree(around.tangent(to_control(p))[1])[0]  # noqa: E731
                return direct_step(_rows(pushed, v).T, v, d, radius)
            pulled = lambda w: ravel_pytree(around.adjoint((of_control, to_departures(w)))[0])[0]  # noqa: E731
            return direct_step(_rows(pulled, d), v, d, radius)

        nothing = jnp.zeros_like(v), jnp.zeros_like(radius), jnp.asarray(False)
        needed = tree.squared_norm(around.gradient) > 0
        p, predicted, on_boundary = jax.lax.cond(needed, solved, lambda: nothing)
        products = jnp.where(needed, min(v.size, d.size), 0).astype(jnp.int32)
        return TrustRegionStep(to_control(p), predicted, products, on_boundary)


def _rows(linear: Callable[[Any], Any], like: Any) -> Any:
    """Return what becomes of the unit vectors."""
    return jax.lax.map(linear, jnp.eye(like.size, dtype=like.dtype), batch_size=AT_ONCE)


def direct_step(A: Any, v: Any, d: Any, radius: Any) -> tuple[Any, Any, Any]:
    r"""Minimize \(\tfrac12 |v + p|^2 + \tfrac12 |d + A p|^2\) subject to |p| <= radius.

    .. math::
        A = U S V^\top, \qquad g = v + A^\top d, \qquad
        p(\lambda) = -V \frac{V^\top g}{1 + \lambda + S^2} - \frac{(I - V V^\top) v}{1 + \lambda}

    with the least multiplier \(\lambda \ge 0\) for which the step keeps the radius. Products A A^T are never formed,
    nor is g, so that nothing cancels.

    Args:
        A: matrix, shape (m, n).
        v: control vector, shape (n,).
        d: departures, shape (m,).
        radius: trust radius, positive (may be infinite).

    Returns:
        p; the reduction of the model; whether p lies on the boundary.

    Example:
        >>> p, predicted, _ = direct_step(jnp.array([[1.0]]), jnp.zeros(1), jnp.array([-2.0]), jnp.inf)
        >>> p.round(6).tolist(), round(float(predicted), 6)
        ([1.0], 1.0)

    Source: Nocedal and Wright (2006), section 4.3, for the multiplier.
    """
    U, S, Vt = jnp.linalg.svd(A, full_matrices=False)
    along = Vt @ v
    across = v - Vt.T @ along
    slope = along + S * (U.T @ d)
    outside = jnp.sum(across**2)

    def squared_length(t: Any) -> Any:  # t = log(1 + lambda)
        return jnp.sum((slope / (jnp.exp(t) + S**2)) ** 2) + outside * jnp.exp(-2 * t)

    def halve(_: Any, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        middle = 0.5 * (ends[0] + ends[1])
        fits = squared_length(middle) <= radius**2
        return jnp.where(fits, ends[0], middle), jnp.where(fits, middle, ends[1])

    zero = jnp.zeros_like(outside)
    inside = squared_length(zero) <= radius**2
    largest = jnp.log1p(jnp.sqrt(jnp.sum(slope**2) + outside) / radius)
    _, t = jax.lax.fori_loop(0, HALVINGS, halve, (zero, jnp.where(inside, zero, largest)))
    weight = jnp.exp(t) + S**2
    p = -(Vt.T @ (slope / weight) + across * jnp.exp(-t))
    # g.p + |p|^2 / 2 + |A p|^2 / 2, one singular value after the other
    gained = jnp.sum(slope**2 / weight * (1 - 0.5 * (1 + S**2) / weight))
    return p, gained + outside * jnp.exp(-t) * (1 - 0.5 * jnp.exp(-t)), ~inside
