"""What an action or an observation may be: one of a few, or a vector between bounds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from diffassim.core.checks import count_of, real_array
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree, static

__all__ = ["Box", "Discrete"]


class Discrete(Pytree):
    """The numbers 0, ..., n - 1.

    Args:
        n: how many there are (static).

    Raises:
        ConfigurationError: if n is no whole number of at least 1.

    Example:
        >>> space = Discrete(3)
        >>> bool(space.contains(2)), bool(space.contains(3))
        (True, False)
    """

    n: int = static()

    def __post_init__(self) -> None:
        self._set(n=count_of("Discrete: n", self.n, least=1))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an element: that of a number."""
        return ()

    def sample(self, key: jax.Array) -> Array:
        """Return one of them, all equally likely."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def contains(self, x: Any) -> Bool[Array, ""]:
        """Return whether a number is one of them."""
        x = jnp.asarray(x)
        return (x >= 0) & (x < self.n) & (x == jnp.round(x))

    def clip(self, x: Any) -> Array:
        """Return the nearest of them."""
        return jnp.clip(jnp.asarray(x), 0, self.n - 1)


class Box(Pytree):
    """Vectors between bounds, which may be infinite.

    Args:
        low: lower bounds, shape (n,).
        high: upper bounds, likewise.

    Raises:
        DataError: if a bound is no number.
        ShapeError: if the bounds are no two vectors of one length.
        ConfigurationError: if a bound is NaN, or a lower one is not below the upper one.

    Example:
        >>> Box([0.0, -1.0], [2.0, 1.0]).clip(jnp.array([3.0, 0.5])).tolist()
        [2.0, 0.5]
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        low, high = (jnp.asarray(real_array(f"Box: {name}", getattr(self, name))) for name in ("low", "high"))
        if low.shape != high.shape or low.ndim != 1:
            raise ShapeError(f"Box: low and high must be vectors of one length, found shapes {low.shape}, {high.shape}")
        known = concrete(low), concrete(high)
        if known[0] is not None and known[1] is not None and not np.all(known[0] < known[1]):
            place = int(np.argmin(known[0] < known[1]))
            raise ConfigurationError(
                f"Box: low must lie below high, found {known[0][place]} and {known[1][place]} in component {place}"
            )
        self._set(low=low, high=high)

    @classmethod
    def unbounded(cls, n: int, dtype: Any = None) -> Box:
        """Return all vectors of n components.

        Example:
            >>> Box.unbounded(2).shape
            (2,)
        """
        high = jnp.full(n, jnp.inf, dtype or jnp.result_type(float))
        return cls(-high, high)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an element."""
        return jnp.shape(self.low)

    def sample(self, key: jax.Array) -> Array:
        """Return a vector: uniform between two bounds, exponential above or below one, normal without any."""
        uniform, one_sided, normal = jax.random.split(key, 3)
        low, high = jnp.isfinite(self.low), jnp.isfinite(self.high)
        a, b = jnp.where(low, self.low, 0), jnp.where(high, self.high, 0)
        between = a + (b - a) * jax.random.uniform(uniform, self.shape, self.low.dtype)
        away = jax.random.exponential(one_sided, self.shape, self.low.dtype)
        free = jax.random.normal(normal, self.shape, self.low.dtype)
        return jnp.where(low & high, between, jnp.where(low, a + away, jnp.where(high, b - away, free)))

    def contains(self, x: Any) -> Bool[Array, ""]:
        """Return whether a vector lies within the bounds; one that is not finite does not."""
        x = jnp.asarray(x)
        return jnp.all((x >= self.low) & (x <= self.high))

    def clip(self, x: Any) -> Array:
        """Return the nearest vector within the bounds."""
        return jnp.clip(jnp.asarray(x, self.low.dtype), self.low, self.high)
