"""A small network for periodic fields that uses the same weights at every point."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["LocalNetwork"]


class LocalNetwork(nnx.Module):
    """A pointwise multilayer perceptron of the values within a radius, on a periodic line.

    Args:
        radius: number of neighbours on each side that a point sees.
        width: hidden units.
        depth: number of hidden layers.
        center: value subtracted from the input.
        spread: value by which the input is then divided.
        rngs: random-number streams for the initial weights.

    The last layer starts at zero: an untrained correction changes nothing.

    Example:
        >>> LocalNetwork(rngs=nnx.Rngs(0))(jnp.arange(8.0)).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        radius: int = 2,
        width: int = 16,
        depth: int = 2,
        *,
        center: float = 0.0,
        spread: float = 1.0,
        rngs: nnx.Rngs,
        dtype: Any = None,
    ) -> None:
        sizes = [2 * radius + 1, *([width] * depth)]
        options = {"param_dtype": dtype or jnp.result_type(float), "rngs": rngs}
        self.hidden = nnx.List([nnx.Linear(a, b, **options) for a, b in itertools.pairwise(sizes)])
        self.last = nnx.Linear(sizes[-1], 1, kernel_init=nnx.initializers.zeros_init(), **options)
        self.radius, self.center, self.spread = radius, center, spread

    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return one output for each point."""
        x = (x - self.center) / self.spread
        h = jnp.stack([jnp.roll(x, shift, axis=-1) for shift in range(-self.radius, self.radius + 1)], axis=-1)
        for layer in self.hidden:
            h = jax.nn.silu(layer(h))
        return self.last(h)[..., 0]
