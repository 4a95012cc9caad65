"""Networks of periodic lines and planes: residual blocks of neighbours, and a U-Net of them."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffassim.core.errors import ConfigurationError, ShapeError

__all__ = ["PeriodicGatedNet", "PeriodicResidualNet", "PeriodicUNet", "neighbours"]


def neighbours(x: Any, radius: int, ndim: int = 1) -> Any:
    """Return the channels of all points within a radius, on periodic axes: a convolution is a matrix behind it.

    On a CPU this is about ten times faster than a convolution of the library.

    Args:
        x: fields, shape (..., *space, channel).
        radius: number of points on each side, in each direction.
        ndim: number of space axes.

    Returns:
        Shape (..., *space, (2 radius + 1)^ndim * channel).

    Example:
        >>> neighbours(jnp.arange(4.0)[:, None], 1)[0].tolist()
        [3.0, 0.0, 1.0]
    """
    for axis in range(x.ndim - 1 - ndim, x.ndim - 1):
        n = x.shape[axis]
        if n < radius:
            raise ShapeError(f"neighbours: a radius of {radius} does not fit on an axis of {n} points")
        head, tail = (jax.lax.slice_in_dim(x, *ends, axis=axis) for ends in ((0, radius), (n - radius, n)))
        padded = jnp.concatenate([tail, x, head], axis=axis)
        shifted = [jax.lax.slice_in_dim(padded, k, k + n, axis=axis) for k in range(2 * radius + 1)]
        x = jnp.concatenate(shifted, axis=-1)
    return x


class _Layer(nnx.Module):
    """A matrix of the neighbours' channels."""

    def __init__(
        self, inputs: int, outputs: int, radius: int, ndim: int, *, zero: bool = False, **options: Any
    ) -> None:
        size = (2 * radius + 1) ** ndim * inputs
        start = {"kernel_init": nnx.initializers.zeros_init()} if zero else {}
        self.linear = nnx.Linear(size, outputs, **start, **options)
        self.radius, self.ndim = radius, ndim

    def __call__(self, x: Any) -> Any:
        return self.linear(neighbours(x, self.radius, self.ndim))


class PeriodicResidualNet(nnx.Module):
    """Residual blocks of neighbours on a periodic line or plane; the last layer starts at zero.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        width: channels inside.
        depth: number of residual blocks.
        radius: neighbours on each side that one layer sees; the whole sees (depth + 1) times as far.
        ndim: number of space axes.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights; default: the precision of JAX.

    Example:
        >>> net = PeriodicResidualNet(2, 1, width=4, depth=2, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((5, 8, 2))).shape
        (5, 8, 1)
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 32, depth: int = 4, radius: int = 2, ndim: int = 1, *,
        rngs: nnx.Rngs, dtype: Any = None,
    ) -> None:  # fmt: skip
        options = {"rngs": rngs, "param_dtype": dtype or jnp.result_type(float)}
        self.first = _Layer(inputs, width, radius, ndim, **options)
        self.blocks = nnx.List([_Layer(width, width, radius, ndim, **options) for _ in range(depth)])
        self.last = nnx.Linear(width, outputs, kernel_init=nnx.initializers.zeros_init(), **options)

    def __call__(self, x: Any) -> Any:
        """Return outputs, shape (..., *space, outputs)."""
        h = self.first(x)
        for block in self.blocks:
            h = h + block(jax.nn.silu(h))
        return self.last(jax.nn.silu(h))


class PeriodicGatedNet(nnx.Module):
    r"""Residual blocks in which sums over neighbours multiply each other, on a periodic line or plane.

    .. math:: h \leftarrow h + C\,\big(\mathrm{silu}(A h) \odot B h\big)

    Errors are propagated by the derivative of a model times their covariance. For a quadratic model that is a product
    of state and memory, which needs many of the sums and bends of a `PeriodicResidualNet`, and one block here. The last
    layer starts at zero.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        width: channels inside.
        depth: number of residual blocks.
        radius: neighbours on each side that one layer sees; the whole sees (depth + 1) times as far.
        ndim: number of space axes.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights; default: the precision of JAX.

    Example:
        >>> net = PeriodicGatedNet(2, 1, width=4, depth=2, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((5, 8, 2))).shape
        (5, 8, 1)

    Source: gated linear units of Shazeer (2020), equation 6, over neighbours.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 24, depth: int = 3, radius: int = 2, ndim: int = 1, *,
        rngs: nnx.Rngs, dtype: Any = None,
    ) -> None:  # fmt: skip
        options = {"rngs": rngs, "param_dtype": dtype or jnp.result_type(float)}
        self.first = _Layer(inputs, width, radius, ndim, **options)
        self.blocks = nnx.List([_Layer(width, 2 * width, radius, ndim, **options) for _ in range(depth)])
        small = nnx.initializers.variance_scaling(0.01, "fan_in", "normal")
        self.mixes = nnx.List([nnx.Linear(width, width, kernel_init=small, **options) for _ in range(depth)])
        self.last = nnx.Linear(width, outputs, kernel_init=nnx.initializers.zeros_init(), **options)

    def __call__(self, x: Any) -> Any:
        """Return outputs, shape (..., *space, outputs)."""
        h = self.first(x)
        for block, mix in zip(self.blocks, self.mixes, strict=True):
            gate, value = jnp.split(block(h), 2, axis=-1)
            h = h + mix(jax.nn.silu(gate) * value)
        return self.last(jax.nn.silu(h))


class PeriodicUNet(nnx.Module):
    """A U-Net on a periodic line or plane: halved, and doubled again with what was there before.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        width: channels at full resolution; doubled at each level.
        levels: how often the axes are halved; they need a multiple of 2^levels points.
        radius: neighbours on each side that one layer sees.
        ndim: number of space axes.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights.

    Example:
        >>> net = PeriodicUNet(1, 1, width=4, levels=2, ndim=2, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((8, 12, 1))).shape
        (8, 12, 1)
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 16, levels: int = 2, radius: int = 1, ndim: int = 1, *,
        rngs: nnx.Rngs, dtype: Any = None,
    ) -> None:  # fmt: skip
        if levels < 1:
            raise ConfigurationError(f"PeriodicUNet: levels={levels} must be at least 1")
        options = {"rngs": rngs, "param_dtype": dtype or jnp.result_type(float)}
        widths = [inputs, *(width * 2**k for k in range(levels + 1))]
        self.down = nnx.List([_Layer(a, b, radius, ndim, **options) for a, b in itertools.pairwise(widths)])
        self.up = nnx.List([_Layer(a + b, b, radius, ndim, **options) for b, a in itertools.pairwise(widths[1:])])
        self.last = nnx.Linear(width, outputs, kernel_init=nnx.initializers.zeros_init(), **options)
        self.levels, self.ndim = levels, ndim

    def __call__(self, x: Any) -> Any:
        """Return outputs, shape (..., *space, outputs).

        Raises:
            ShapeError: if an axis is no multiple of 2^levels.
        """
        axes = range(x.ndim - 1 - self.ndim, x.ndim - 1)
        if any(x.shape[axis] % 2**self.levels for axis in axes):
            raise ShapeError(f"PeriodicUNet: the axes of {x.shape} must be multiples of {2**self.levels} points")
        h, kept = x, []
        for k, layer in enumerate(self.down):
            h = jax.nn.silu(layer(h))
            if k < self.levels:
                kept.append(h)
                for axis in axes:
                    h = jnp.mean(h.reshape(*h.shape[:axis], -1, 2, *h.shape[axis + 1 :]), axis=axis + 1)
        for layer in reversed(self.up):
            for axis in axes:
                h = jnp.repeat(h, 2, axis=axis)
            h = jax.nn.silu(layer(jnp.concatenate([h, kept.pop()], axis=-1)))
        return self.last(h)
