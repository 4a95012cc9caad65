"""From noise to a state: the reverse of a process that adds noise of growing size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["geometric_levels", "normal_like", "reverse_diffusion"]


def geometric_levels(largest: Any, smallest: Any, steps: int) -> Float[Array, " steps"]:
    """Return noise levels from the largest to the smallest, each the same share of the one before.

    Args:
        largest: level of the start, a number (may be traced).
        smallest: level from which the last step leads to no noise.
        steps: how many (static), at least 2.

    Example:
        >>> geometric_levels(8.0, 1.0, 4).round(6).tolist()
        [8.0, 4.0, 2.0, 1.0]
    """
    part = jnp.arange(steps, dtype=jnp.result_type(smallest)) / (steps - 1)
    return largest * (smallest / largest) ** part


def reverse_diffusion(
    denoise: Callable[[Any, Any], Any],
    z: Any,
    levels: Float[Array, " steps"],
    *,
    churn: float = 0.0,
    noise: Callable[[Any], Any] | None = None,
    keys: Any = None,
) -> Any:
    r"""Return the state to which z leads, where \(z = x + \sigma \eta\) and the mean of x given z is known.

    With \(m = E(x \mid z)\), extrapolated from the last two levels in the logarithm of the noise,

    .. math:: z' = m + \tfrac1\sigma \sqrt{\sigma'^2 - \tau^2}\, (z - m) + \tau \eta,\qquad
        \tau = c\, \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}

    c = 0 is the flow of the probability (an ordinary differential equation), c = 1 the reverse of the diffusion (a
    stochastic one); the distribution of the result is the same. One evaluation each step, of second order for c = 0.
    Near the end m approaches the state with the square of the noise; the last two steps are always those of the flow,
    so that the state is extrapolated from them.

    Args:
        denoise: (z, sigma) -> m.
        z: start at the largest level.
        levels: noise levels, decreasing and positive, two at least; after the last one there is no noise.
        churn: c in [0, 1] (static).
        noise: key -> draw of \(\eta\) like z, for c > 0.
        keys: one random key for each level, for c > 0.

    Example:
        >>> gaussian = lambda z, sigma: z / (1 + sigma**2)  # x ~ N(0, 1)
        >>> start = (1 + 20.0**2) ** 0.5  # one standard deviation
        >>> found = reverse_diffusion(gaussian, jnp.array(start), geometric_levels(20.0, 0.01, 60))
        >>> round(float(found), 2)
        1.0

    Source: Song et al. (2021), equation 12, for the family; Lu et al. (2022), algorithm 2, for the extrapolation.
    """
    following = jnp.concatenate([levels[1:], jnp.zeros(1, levels.dtype)])
    length = jnp.log(levels[:-1] / levels[1:])
    last = levels[-1:] / levels[-2:-1]
    ahead = jnp.concatenate([jnp.zeros_like(last), length[1:] / (2 * length[:-1]), last**2 / (1 - last**2)])
    turns = jnp.full(levels.shape, churn, levels.dtype).at[-2:].set(0)

    def step(carry: Any, now: Any) -> tuple[Any, None]:
        z, before = carry
        sigma, after, weight, turn, key = now
        mean = denoise(z, sigma)
        m = jax.tree.map(lambda new, old: new + weight.astype(new.dtype) * (new - old), mean, before)
        ratio = after / sigma
        tau = turn * jnp.sqrt(1 - ratio**2)
        kept = ratio * jnp.sqrt(1 - tau**2)
        z = jax.tree.map(lambda new, leaf: new + kept.astype(leaf.dtype) * (leaf - new), m, z)
        if churn:
            assert noise is not None
            z = jax.tree.map(lambda leaf, draw: leaf + (tau * after).astype(leaf.dtype) * draw, z, noise(key))
        return (z, mean), None

    (z, _), _ = lax.scan(jax.checkpoint(step, prevent_cse=False), (z, z), (levels, following, ahead, turns, keys))
    return z


def normal_like(key: Any, x: Any) -> Any:
    """Return standard normal draws like a pytree, those of each leaf from a key of its own."""
    leaves, structure = jax.tree.flatten(x)
    draws = [
        jax.random.normal(jax.random.fold_in(key, k), jnp.shape(leaf), jnp.result_type(leaf))
        for k, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, draws)
