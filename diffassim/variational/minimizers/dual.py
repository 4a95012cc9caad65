"""Gauss-Newton's inner problem solved in the space of the observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.loops import bounded_while
from diffassim.core.pytree import static
from diffassim.variational.costs.base import require_departures
from diffassim.variational.minimizers.primal import Around, InnerMethod, PrimalCG
from diffassim.variational.minimizers.trust_region import TrustRegionStep

__all__ = ["DualCG", "dual_step"]


class DualCG(InnerMethod):
    """Conjugate gradients in the space of the observations, see `dual_step`.

    The same analysis with shorter vectors, where there are fewer observed values than control variables.

    Args:
        tolerance: relative norm of the gradient in control space at which they end.
        max_iterations: limit on iterations, one product with A and its transpose each (static).

    Raises:
        ConfigurationError: if the tolerance is not positive; (in use) if the residuals of the cost are not the control
            vector itself and whitened innovations.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> da.minimize(cost, da.GaussNewton(inner=DualCG())).state.tolist()
        [2.0]

    Source: as `dual_step`.
    """

    tolerance: Any = 0.1
    max_iterations: int = static(default=100)

    def __post_init__(self) -> None:
        require_positive("DualCG.tolerance", self.tolerance)
        count_of("DualCG.max_iterations", self.max_iterations, least=1)

    @property
    def primal(self) -> PrimalCG:
        """Conjugate gradients in control space that end alike."""
        return PrimalCG(self.tolerance, self.max_iterations)

    def check(self, cost: Any, residuals: Any) -> None:
        """Raise an error if the cost has no dual; see `InnerMethod.check`."""
        if not cost.whitened:
            raise ConfigurationError(f"DualCG: {type(cost).__name__} has no dual; take inner=PrimalCG()")
        require_departures("DualCG", residuals)

    def step(self, around: Around, radius: Any, remembered: Any, unrolled: bool) -> TrustRegionStep:
        """Minimize the quadratic model; see `InnerMethod.step`."""
        (first, departures), of_control = around.residuals, tree.zeros_like(around.control)
        return dual_step(
            lambda p: around.tangent(p)[1], lambda d: around.adjoint((of_control, d))[0], first, departures, radius,
            jnp.asarray(self.tolerance, radius.dtype), self.max_iterations, unrolled,
        )  # fmt: skip


class _State(NamedTuple):
    z: Any
    residual: Any  # of (I + A A^T) z = b
    image: Any  # A A^T residual
    direction: Any
    direction_image: Any
    squared: Any  # |A^T residual|^2, the squared gradient of the primal problem
    products: Any
    done: Any


def dual_step(
    tangent: Callable[[Any], Any],
    adjoint: Callable[[Any], Any],
    v: Any,
    departures: Any,
    radius: Any,
    tolerance: Any,
    max_iterations: int,
    unrolled: bool = False,
) -> TrustRegionStep:
    r"""Minimize \(\tfrac12 |v + p|^2 + \tfrac12 |d + A p|^2\) subject to |p| <= radius, with vectors like d.

    The minimizer is \(p = -v - A^\top z\), \((I + A A^\top) z = d - A v\): a system with as many unknowns as there are
    observed values. Conjugate gradients in the inner product of \(A A^\top\) make the iterates those of the primal
    problem from p = -v, so that the cost falls from the first one on (plain conjugate gradients on the dual problem
    may raise it until they are converged), and the gradient's norm that ends them is the primal one. One product with
    A and one with its transpose for each iteration; vectors of the control space are held twice, however many
    iterations there are. A step that is too long is cut by the dogleg through the Cauchy point.

    Args:
        tangent: p -> A p.
        adjoint: d -> A^T d.
        v: control vector.
        departures: d, the whitened innovations at v.
        radius: trust radius, positive (may be infinite).
        tolerance: relative norm of the primal gradient at which to stop.
        max_iterations: limit on the number of products in the loop (static).
        unrolled: use a loop that reverse mode can pass through.

    Returns:
        `TrustRegionStep`; with v and d zero no product is made in the loop.

    Source: Courtier (1997), section 3; Gratton and Tshimanga (2009), algorithm 4.3; dogleg: Nocedal and Wright (2006),
    section 4.1.
    """
    gradient = tree.add(v, adjoint(departures))
    squared = tree.squared_norm(gradient)
    right = tree.axpy(-1.0, tangent(v), departures)
    image = tangent(adjoint(right))
    start = _State(
        tree.zeros_like(right), right, image, right, image, tree.dot(right, image), jnp.asarray(0, jnp.int32),
        (squared == 0) | (tree.dot(right, image) <= tolerance**2 * squared),
    )  # fmt: skip

    def body(s: _State) -> _State:
        curvature = tree.dot(s.direction, s.direction_image) + tree.squared_norm(s.direction_image)
        alpha = s.squared / jnp.where(curvature > 0, curvature, 1)
        residual = tree.axpy(-alpha, tree.add(s.direction, s.direction_image), s.residual)
        image = tangent(adjoint(residual))
        following = tree.dot(residual, image)
        beta = following / s.squared
        return _State(
            z=tree.axpy(alpha, s.direction, s.z),
            residual=residual,
            image=image,
            direction=tree.axpy(beta, s.direction, residual),
            direction_image=tree.axpy(beta, s.direction_image, image),
            squared=following,
            products=s.products + 1,
            done=(curvature <= 0) | ~(following > tolerance**2 * squared),
        )

    end = bounded_while(lambda s: ~s.done, body, start, max_iterations, unrolled)
    newton = tree.scale(-1.0, tree.add(v, adjoint(end.z)))
    newton = tree.select(squared > 0, newton, tree.zeros_like(newton))
    return _dogleg(tangent, gradient, newton, radius, end.products + 3)


def _dogleg(tangent: Callable[[Any], Any], gradient: Any, newton: Any, radius: Any, products: Any) -> TrustRegionStep:
    """Return the Newton step, or where it is too long (or no descent) a point on the path through the Cauchy point."""

    def reduction(p: Any, Ap: Any) -> Any:
        return -(tree.dot(gradient, p) + 0.5 * (tree.squared_norm(p) + tree.squared_norm(Ap)))

    squared, Ag = tree.squared_norm(gradient), tangent(gradient)
    curvature = squared + tree.squared_norm(Ag)
    length = squared / jnp.where(curvature > 0, curvature, 1)
    limit = radius / jnp.sqrt(jnp.where(squared > 0, squared, 1))
    cauchy = tree.scale(-jnp.minimum(length, limit), gradient)

    rest = tree.subtract(newton, cauchy)
    pp, pd, dd = tree.squared_norm(cauchy), tree.dot(cauchy, rest), tree.squared_norm(rest)
    outside = tree.squared_norm(newton) > radius**2
    room = jnp.maximum(jnp.where(outside, radius**2, pp) - pp, 0)
    discriminant = jnp.where(outside & (dd > 0), pd**2 + dd * room, 1)
    fraction = jnp.where(outside, (jnp.sqrt(discriminant) - pd) / jnp.where(dd > 0, dd, 1), 1)
    along = tree.axpy(fraction, rest, cauchy)
    found, least = reduction(along, tangent(along)), reduction(cauchy, tangent(cauchy))
    better = found >= least
    step = tree.select(better, along, cauchy)
    return TrustRegionStep(step, jnp.maximum(found, least), products, outside | (~better & (length >= limit)))
