"""Convolutions along a line as products of matrices, channels first."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree

__all__ = ["LineConvolution", "product"]


class LineConvolution(Pytree):
    r"""A convolution along a line, zeros beyond its ends.

    .. math:: y_t = \sum_{k=-r}^{r} x_{t+k} W_{k+r},\qquad W_k \in \mathbb{R}^{inputs \times outputs}

    On a CPU the convolution of the library is slow. Here it is one product of a matrix with all points of all lines
    side by side, before which the inputs are moved along the line, or after which the outputs are, whichever are fewer
    channels. So each channel lies in one piece, and neither what moves nor what the derivative needs is transposed.

    Args:
        kernel: weights, shape (2r + 1, inputs, outputs).

    Raises:
        ConfigurationError: if the width is even.

    Example:
        >>> LineConvolution(jnp.ones((3, 1, 1)))(jnp.arange(4.0)[:, None])[:, 0].tolist()
        [1.0, 3.0, 6.0, 5.0]
    """

    kernel: Float[Array, "width inputs outputs"]

    def __post_init__(self) -> None:
        if jnp.ndim(self.kernel) != 3 or jnp.shape(self.kernel)[0] % 2 == 0:
            raise ConfigurationError(
                f"LineConvolution: the kernel has the shape {jnp.shape(self.kernel)}, but needs (width, inputs, "
                "outputs) with an odd width"
            )

    @classmethod
    def drawn(cls, key: jax.Array, width: int, inputs: int, outputs: int, *, dtype: Any = None) -> Self:
        """Return one with normal weights of variance 1 / (width inputs).

        Args:
            key: random key.
            width: odd number of points that an output sees.
            inputs: number of input channels.
            outputs: number of output channels.
            dtype: type of the weights; default: the precision of JAX.
        """
        drawn = jax.random.normal(key, (width, inputs, outputs), dtype or jnp.result_type(float))
        return cls(drawn / (width * inputs) ** 0.5)

    def __call__(self, x: Float[Array, "*batch n inputs"]) -> Float[Array, "*batch n outputs"]:
        """Return outputs, shape (..., n, outputs)."""
        if jnp.ndim(x) < 2 or x.shape[-1] != self.kernel.shape[1]:
            raise ShapeError(
                f"LineConvolution: found an input of shape {jnp.shape(x)}, expected (..., n, {self.kernel.shape[1]})"
            )
        return jnp.moveaxis(self.channels_first(jnp.moveaxis(x, -1, 0)), 0, -1)

    def channels_first(self, x: Float[Array, "inputs *batch n"]) -> Float[Array, "outputs *batch n"]:
        """Return the same of inputs whose channels come first, which spares it to transpose them."""
        width, inputs, outputs = self.kernel.shape
        shifts = range(-(width // 2), width // 2 + 1)
        if inputs <= outputs:
            return product(self.kernel.reshape(-1, outputs).T, jnp.concatenate([_moved(x, k) for k in shifts]))
        parts = jnp.split(product(self.kernel.transpose(0, 2, 1).reshape(-1, inputs), x), width)
        return sum(
            (_moved(part, k) for part, k in zip(parts[1:], shifts[1:], strict=True)), _moved(parts[0], shifts[0])
        )


def product(matrix: Float[Array, "outputs inputs"], x: Any) -> Any:
    """Return a matrix times the first axis: as one plain product, whose derivatives are such products too.

    Example:
        >>> product(jnp.ones((4, 3)), jnp.ones((3, 2, 5))).shape
        (4, 2, 5)
    """
    return (matrix @ x.reshape(len(x), -1)).reshape(len(matrix), *x.shape[1:])


def _moved(x: Any, k: int) -> Any:
    """Return x at points k further on, zero beyond the ends."""
    k = max(-x.shape[-1], min(k, x.shape[-1]))
    kept = x[..., k:] if k >= 0 else x[..., :k]
    return jnp.pad(kept, [(0, 0)] * (x.ndim - 1) + [(max(-k, 0), max(k, 0))])
