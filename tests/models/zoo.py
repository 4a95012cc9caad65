"""Every model of the package with an example state: add a line, and all sweeps over models test it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.models import LinearAdvection, Lorenz63, Lorenz96, Model, TwoScaleLorenz96, TwoScaleState


class Entry(NamedTuple):
    """A model and a function (dtype, key) -> state near its attractor."""

    name: str
    model: Model
    example_state: Callable[[Any, jax.Array], Any]


def _lorenz63(dtype: Any, key: jax.Array) -> jax.Array:
    return jnp.asarray([1.5, -1.5, 25.5], dtype) + jax.random.normal(key, 3, dtype)


def _line(n: int, mean: float, std: float) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda dtype, key: mean + std * jax.random.normal(key, n, dtype)


def _two_scale(dtype: Any, key: jax.Array) -> TwoScaleState:
    slow, fast = jax.random.split(key)
    return TwoScaleState(
        2.5 + 4.0 * jax.random.normal(slow, 8, dtype), 0.1 + 0.3 * jax.random.normal(fast, (8, 5), dtype)
    )


MODELS = [
    Entry("Lorenz63", Lorenz63(), _lorenz63),
    Entry("Lorenz96", Lorenz96(), _line(12, 2.3, 3.6)),
    Entry("Lorenz96 with a forcing field", Lorenz96(forcing=jnp.linspace(7.0, 9.0, 9)), _line(9, 2.3, 3.6)),
    Entry("Lorenz96 smaller than its stencil", Lorenz96(), _line(4, 2.3, 3.6)),
    Entry("Lorenz96 large", Lorenz96(), _line(300, 2.3, 3.6)),  # compiled in separate kernels
    Entry("TwoScaleLorenz96", TwoScaleLorenz96(), _two_scale),
    Entry("LinearAdvection", LinearAdvection(velocity=0.3), _line(10, 0.0, 1.0)),
    Entry("LinearAdvection on an odd grid", LinearAdvection(velocity=-1.7), _line(9, 0.0, 1.0)),
]
