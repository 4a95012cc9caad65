"""Convolutions along a line as products with a matrix of bands."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static

__all__ = ["LineConvolution", "banded"]

CHANNELS, LONGEST = 24, 8  # of a block of points: narrower products, and copies, cost more than what they compute


class LineConvolution(Pytree):
    r"""A convolution along a line, zeros beyond its ends.

    .. math:: y_t = \sum_{k=-r}^{r} x_{t+k} W_{k+r},\qquad W_k \in \mathbb{R}^{inputs \times outputs}

    On a CPU the convolution of the library is slow, and so are copies of a few channels. Points of few channels are
    therefore worked on in blocks: a block of b points sees b + 2r of them through one matrix, whose bands are the
    weights. The zeros between the bands are multiplied with, which costs less than what they save. `banded` builds
    that matrix once for a loop of calls.

    Args:
        kernel: weights, shape (2r + 1, inputs, outputs).
        block: points that are worked on together (static); None: as many as fit the channels and the line.

    Raises:
        ConfigurationError: if the width is even, or `block` is not positive.

    Example:
        >>> LineConvolution(jnp.ones((3, 1, 1)))(jnp.arange(4.0)[:, None])[:, 0].tolist()
        [1.0, 3.0, 6.0, 5.0]
    """

    kernel: Float[Array, "width inputs outputs"]
    block: int | None = static(default=None)

    def __post_init__(self) -> None:
        if jnp.ndim(self.kernel) != 3 or jnp.shape(self.kernel)[0] % 2 == 0:
            raise ConfigurationError(
                f"LineConvolution: the kernel has the shape {jnp.shape(self.kernel)}, but needs (width, inputs, "
                "outputs) with an odd width"
            )
        if self.block is not None and self.block < 1:
            raise ConfigurationError(f"LineConvolution: block={self.block} must be at least 1")

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
        return self.banded(jnp.shape(x)[-2])(x)

    def banded(self, n: int) -> _Banded:
        """Return the same for lines of n points, its matrix built."""
        width, inputs, outputs = self.kernel.shape
        block = self.block or max(
            b for b in range(1, LONGEST + 1) if n % b == 0 and (b == 1 or b * min(inputs, outputs) <= CHANNELS)
        )
        if n % block:
            raise ShapeError(f"LineConvolution: a line of {n} points cannot be cut into blocks of {block}")
        shift = np.arange(block + width - 1)[:, None] - np.arange(block)[None]  # from what is seen to an output
        place = np.where((shift >= 0) & (shift < width), shift, width)
        filled = jnp.concatenate([self.kernel, jnp.zeros((1, inputs, outputs), self.kernel.dtype)])
        matrix = filled[place].transpose(0, 2, 1, 3).reshape((block + width - 1) * inputs, block * outputs)
        return _Banded(matrix, n, block, width, inputs)


class _Banded(Pytree):
    """A convolution of lines of n points, its matrix built."""

    matrix: Any
    n: int = static()
    block: int = static()
    width: int = static()
    inputs: int = static()

    def __call__(self, x: Any) -> Any:
        n, block, inputs, edge = self.n, self.block, self.inputs, self.width // 2
        if x.shape[-2:] != (n, inputs):
            raise ShapeError(f"LineConvolution: found an input of shape {x.shape}, expected (..., {n}, {inputs})")
        around = [(0, 0)] * (x.ndim - 2)
        if block == 1:
            padded = jnp.pad(x, [*around, (edge, edge), (0, 0)])
            return jnp.concatenate([padded[..., k : k + n, :] for k in range(self.width)], axis=-1) @ self.matrix
        pieces, beyond = -(-2 * edge // block), 2 * edge  # of the blocks behind, whose first points a block sees
        padded = jnp.pad(x, [*around, (edge, max(pieces * block - edge, 0)), (0, 0)])
        seen = []
        for k in range(pieces + 1):
            part = padded[..., k * block : k * block + n, :].reshape(*x.shape[:-2], n // block, block * inputs)
            seen.append(part if k == 0 else part[..., : min(block, beyond - (k - 1) * block) * inputs])
        found = jnp.concatenate(seen, axis=-1) @ self.matrix
        return found.reshape(*x.shape[:-1], -1)


def banded(tree: Any, n: int) -> Any:
    """Return a pytree with the matrices of all its `LineConvolution` built for lines of n points.

    Example:
        >>> layer = LineConvolution(jnp.ones((3, 2, 2)))
        >>> banded({"first": layer}, 12)["first"].matrix.shape
        (16, 12)
    """
    return jax.tree.map(
        lambda node: node.banded(n) if isinstance(node, LineConvolution) else node,
        tree,
        is_leaf=lambda node: isinstance(node, LineConvolution),
    )
