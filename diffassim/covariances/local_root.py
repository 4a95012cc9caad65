"""Covariances whose square root mixes neighbors, with weights of its own at every point."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, ShapeError, require_finite
from diffassim.core.pytree import static
from diffassim.covariances.base import Covariance, NotAvailableError, as_field

__all__ = ["LocalRoot"]


class LocalRoot(Covariance):
    r"""\(B = L L^\top\) where each point of \(L v\) is a weighted sum of the independent numbers around it.

    .. math:: (L v)_i = \sum_{|k| \le r} w_{ik}\, v_{i+k}

    The weights are free, so that variances and correlations differ from place to place as they like, and B is positive
    semidefinite whatever they are: the form in which a network, or anything else that is trained, can give a
    covariance. Points up to 2 r apart are correlated; a product costs \((2 r + 1)^d\) operations a point. L may be
    singular: there is no `whiten`, `solve` or `logdet`.

    Args:
        weights: w, shape (*space, (2 r + 1)^d): in the last axis the neighbors, for d = 2 in the order of rows. In the
            unit of the state.
        axes: d, number of space axes, all periodic (static).

    Raises:
        ShapeError: if the last axis is not that of a block of neighbors, or a space axis has fewer points.
        ConfigurationError: if `axes` is below one.
        DataError: if a weight is known not to be finite.

    Example:
        >>> B = LocalRoot(jnp.tile(jnp.array([0.0, 2.0, 1.0]), (4, 1)))
        >>> B.apply(jnp.array([1.0, 0.0, 0.0, 0.0])).tolist()
        [5.0, 2.0, 0.0, 2.0]

    Source: the definition.
    """

    weights: Float[Array, "*space k"]
    axes: int = static(default=1)

    def __post_init__(self) -> None:
        if self.axes < 1:
            raise ConfigurationError(f"LocalRoot: axes={self.axes} must be at least 1")
        self._set(weights=real_array("LocalRoot: weights", self.weights))
        require_finite("LocalRoot: weights", self.weights)
        *space, count = jnp.shape(self.weights) if jnp.ndim(self.weights) == self.axes + 1 else (0, 0)
        width = round(count ** (1 / self.axes))
        if width % 2 == 0 or width**self.axes != count:
            raise ShapeError(
                f"LocalRoot: weights of shape {jnp.shape(self.weights)} with axes={self.axes} need {self.axes} space "
                f"axes and (2 r + 1)^{self.axes} neighbors in the last axis, such as {3**self.axes} or {5**self.axes}"
            )
        if min(space) < width:
            raise ShapeError(f"LocalRoot: {width} neighbors in a row do not fit on an axis of {min(space)} points")

    @property
    def ndim(self) -> int:
        """Number of space axes."""
        return self.axes

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError`, naming `name`, unless every leaf has the space axes of the weights."""
        space = jnp.shape(self.weights)[:-1]
        for leaf in jax.tree.leaves(x):
            if jnp.shape(leaf)[-self.axes :] != space:
                raise ShapeError(
                    f"{name}: LocalRoot has weights for {space}, but the state is {tree.describe_shapes(x)}"
                )

    def sqrt(self, v: Any) -> Any:
        """Return L v."""
        return jax.tree.map(self._sqrt, v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x."""
        return jax.tree.map(self._sqrt_transpose, x)

    def variance(self, x: Any) -> Any:
        """Return the diagonal of B, the sums of squared weights."""
        total = jnp.sum(jnp.square(self.weights), axis=-1)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(as_field(total, leaf), jnp.shape(leaf)), x)

    def _sqrt(self, v: Any) -> Any:
        return sum(w * self._shifted(v, offset, -1) for w, offset in self._terms(v))

    def _sqrt_transpose(self, x: Any) -> Any:
        return sum(self._shifted(w * x, offset, 1) for w, offset in self._terms(x))

    def _terms(self, x: Any) -> list[tuple[Any, tuple[int, ...]]]:
        """Return the weights of each neighbor, with batch axes like those of x, and where it lies."""
        weights = jnp.moveaxis(self.weights, -1, 0)
        radius = round(weights.shape[0] ** (1 / self.axes)) // 2
        offsets = itertools.product(range(-radius, radius + 1), repeat=self.axes)
        return [(as_field(w, x), offset) for w, offset in zip(weights, offsets, strict=True)]

    def _shifted(self, x: Any, offset: tuple[int, ...], sign: int) -> Any:
        return jnp.roll(x, [sign * k for k in offset], axis=range(-self.axes, 0))

    def _unavailable(self, operation: str, advice: str = "") -> NotAvailableError:
        return super()._unavailable(operation, advice or "L may be singular; write it out with Dense.from_covariance.")
