"""Parts of sensors instead of whole ones: a concave problem, whose gradient says where and how good is possible."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from diffassim.core.checks import count_of
from diffassim.core.pytree import Pytree, static
from diffassim.diagnostics.placement.exchange import exchanged
from diffassim.diagnostics.placement.prospects import Prospects

__all__ = ["Relaxation"]

STEPS = 24  # lengths of a step that are tried, halved each time


class Relaxation(Pytree):
    r"""Ascend the gradient over weights of all candidates, round, and exchange.

    .. math:: \rho(w) = \mathrm{tr}\,W - \mathrm{tr}\bigl(W\,(I + \textstyle\sum_j w_j G_j^\top G_j)^{-1}\bigr),\quad
        0 \le w_j \le 1,\ \textstyle\sum_j w_j = k

    is concave. The method of Frank and Wolfe moves towards the k candidates of the largest derivative; what it could
    still gain, \(\nabla\rho \cdot (s - w)\), bounds every choice of k candidates from above, however many there are:
    the result says how far from the best it can be at most.

    Args:
        iterations: gradient steps (static).
        sweeps: most rounds of exchange (static).

    Example:
        >>> import diffassim as da
        >>> members = jax.random.normal(jax.random.key(0), (30, 12)) * jnp.arange(1.0, 13)[None]
        >>> found = da.diagnostics.place_sensors(
        ...     members, lambda x: x, da.covariances.Diagonal(std=1.0), 3, method=Relaxation()
        ... )
        >>> bool(0.5 < found.reduction / found.bound <= 1)
        True

    Source: Frank and Wolfe (1956); Joshi and Boyd (2009).
    """

    iterations: int = static(default=200)
    sweeps: int = static(default=20)

    def __post_init__(self) -> None:
        for name in ("iterations", "sweeps"):
            self._set(**{name: count_of(f"Relaxation: {name}", getattr(self, name), least=1)})

    def search(self, prospects: Prospects, count: int) -> tuple[Int[Array, " count"], Any]:
        """Return the numbers of the chosen candidates, and what no choice can exceed."""
        weights, bound = _ascended(prospects, count, self.iterations)
        order = jnp.where(prospects.possible, weights, -1)
        start = lax.top_k(order, count)[1].astype(jnp.int32)
        return exchanged(prospects, start, self.sweeps), bound


@partial(jax.jit, static_argnums=(1, 2))
def _ascended(prospects: Prospects, count: int, iterations: int) -> Any:
    G, W = prospects.seen, prospects.weight
    rows = G.reshape(-1, G.shape[-1])
    lengths = jnp.concatenate([jnp.zeros(1, W.dtype), 0.5 ** jnp.arange(STEPS, dtype=W.dtype)])
    eye, total = prospects.nothing, prospects.total

    def gram(weights: Any) -> Any:
        return (rows * jnp.repeat(weights, G.shape[1])[:, None]).T @ rows

    def left(A: Any) -> Any:
        """Return what is left of the variance."""
        return jnp.sum(jax.scipy.linalg.solve(eye + A, W, assume_a="pos").T * eye)

    def step(carry: Any, _: Any) -> Any:
        weights, A, bound = carry
        C = jax.scipy.linalg.solve(eye + A, eye, assume_a="pos")
        slope = jnp.einsum("mvr,rs,mvs->m", G, C @ W @ C, G)
        best = lax.top_k(jnp.where(prospects.possible, slope, -jnp.inf), count)[1]
        target = jnp.zeros_like(weights).at[best].set(1)
        now = total - jnp.sum(C * W)
        bound = jnp.minimum(bound, now + jnp.sum(slope * (target - weights)))
        towards = gram(target)
        tried = jax.vmap(lambda a: left((1 - a) * A + a * towards))(lengths)
        a = lengths[jnp.argmin(tried)]
        return (weights + a * (target - weights), (1 - a) * A + a * towards, bound), None

    share = jnp.where(prospects.possible, 1.0, 0.0).astype(W.dtype)
    weights = share * jnp.minimum(1, count / jnp.maximum(jnp.sum(share), 1))
    start = (weights, gram(weights), total)
    (weights, _, bound), _ = lax.scan(step, start, length=iterations)
    return weights, bound
