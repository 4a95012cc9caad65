"""The trust-region subproblem by truncated conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffassim.core import tree
from diffassim.core.loops import bounded_while
from diffassim.variational.minimizers.preconditioner import LimitedMemory

__all__ = ["TrustRegionStep", "truncated_cg"]


class TrustRegionStep(NamedTuple):
    """Step p, predicted reduction of the model, products used, whether p lies on the boundary, pairs learned."""

    step: Any
    predicted: Float[Array, ""]
    products: Int[Array, ""]
    on_boundary: Bool[Array, ""]
    learned: LimitedMemory | None = None


class _State(NamedTuple):
    p: Any
    residual: Any
    direction: Any
    rz: Any  # squared residual in the norm of the preconditioner
    predicted: Any
    products: Any
    on_boundary: Any
    done: Any
    learned: Any


def truncated_cg(
    product: Callable[[Any], Any],
    gradient: Any,
    radius: Any,
    tolerance: Any,
    max_iterations: int,
    unrolled: bool = False,
    preconditioner: LimitedMemory | None = None,
) -> TrustRegionStep:
    r"""Minimize \(g^\top p + \tfrac12 p^\top H p\) subject to |p| <= radius, approximately.

    Conjugate gradients from p = 0 until the residual falls below `tolerance` |g|, the boundary is crossed or a
    direction of non-positive curvature appears; in the last two cases the step goes on to the boundary.

    Args:
        product: p -> H p, symmetric.
        gradient: g, a pytree.
        radius: trust radius, positive (may be infinite).
        tolerance: relative residual at which to stop.
        max_iterations: limit on the number of products (static).
        unrolled: use a loop that reverse mode can pass through.
        preconditioner: what is known of H from other runs. Radius and residual are measured in the Euclidean norm with
            and without it. The pairs of this run are handed back as `learned`, for the next one.

    Returns:
        `TrustRegionStep`; `predicted` is \(-(g^\top p + \tfrac12 p^\top H p) \ge 0\).

    Source: Steihaug (1983); Nocedal and Wright (2006), algorithm 7.2.
    """
    squared = tree.squared_norm(gradient)
    zero = jnp.zeros_like(squared)
    negative = tree.scale(-1.0, gradient)
    first = negative if preconditioner is None else preconditioner.apply(negative)
    start = _State(
        tree.zeros_like(gradient), negative, first, tree.dot(negative, first), zero, jnp.asarray(0, jnp.int32),
        jnp.asarray(False), squared == 0, preconditioner,
    )  # fmt: skip

    def body(s: _State) -> _State:
        Hd = product(s.direction)
        curvature = tree.dot(s.direction, Hd)
        positive = curvature > 0
        interior = s.rz / jnp.where(positive, curvature, 1)
        pp, pd, dd = tree.squared_norm(s.p), tree.dot(s.p, s.direction), tree.squared_norm(s.direction)
        crosses = ~positive | (pp + 2 * interior * pd + interior**2 * dd >= radius**2)
        room = jnp.maximum(radius**2 - pp, 0)
        discriminant = jnp.where(crosses, pd**2 + dd * jnp.where(jnp.isfinite(room), room, 0), 1)
        to_boundary = (jnp.sqrt(discriminant) - pd) / jnp.where(dd > 0, dd, 1)
        alpha = jnp.where(crosses, to_boundary, interior)
        residual = tree.axpy(-alpha, Hd, s.residual)
        remaining = tree.squared_norm(residual)
        sound = positive & jnp.isfinite(curvature) & jnp.isfinite(remaining)
        z = residual if preconditioner is None else preconditioner.apply(residual)
        rz = remaining if preconditioner is None else tree.dot(residual, z)
        beta = rz / s.rz
        return _State(
            p=tree.axpy(alpha, s.direction, s.p),
            residual=residual,
            direction=tree.axpy(beta, s.direction, z),
            rz=rz,
            # r . d = r . z for conjugate directions, so the model falls by alpha r.z - alpha^2 d.Hd / 2.
            predicted=s.predicted + alpha * s.rz - 0.5 * alpha**2 * curvature,
            products=s.products + 1,
            on_boundary=crosses,
            done=crosses | (remaining <= tolerance**2 * squared) | ~jnp.isfinite(remaining),
            learned=None if s.learned is None else s.learned.record(s.direction, Hd, curvature, sound),
        )

    end = bounded_while(lambda s: ~s.done, body, start, max_iterations, unrolled)
    return TrustRegionStep(end.p, end.predicted, end.products, end.on_boundary, end.learned)
