"""The Fourier neural operator on a periodic line or plane."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffassim.core.errors import ShapeError

__all__ = ["FourierOperator"]


class FourierOperator(nnx.Module):
    """A Fourier neural operator: the lowest wavenumbers are multiplied by matrices, all points by one more.

    Its weights do not belong to a resolution: trained on a coarse grid, it runs on a finer one.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        width: channels inside.
        depth: number of layers.
        modes: number of wavenumbers kept in each direction.
        ndim: number of space axes, 1 or 2.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights.

    Example:
        >>> net = FourierOperator(1, 1, width=4, depth=2, modes=3, ndim=2, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((8, 12, 1))).shape
        (8, 12, 1)

    Source: Li et al. (2021), section 4.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 16, depth: int = 4, modes: int = 8, ndim: int = 1, *,
        rngs: nnx.Rngs, dtype: Any = None,
    ) -> None:  # fmt: skip
        dtype = dtype or jnp.result_type(float)
        options = {"rngs": rngs, "param_dtype": dtype}
        kept = (*((2 * modes - 1,) * (ndim - 1)), modes)  # both signs in all directions but the last
        self.enter = nnx.Linear(inputs, width, **options)
        self.spectral = nnx.List([
            nnx.Param(jax.random.normal(rngs.params(), (2, *kept, width, width), dtype) / width) for _ in range(depth)
        ])  # fmt: skip
        self.pointwise = nnx.List([nnx.Linear(width, width, **options) for _ in range(depth)])
        self.leave = nnx.Linear(width, outputs, kernel_init=nnx.initializers.zeros_init(), **options)
        self.modes, self.ndim = modes, ndim

    def __call__(self, x: Any) -> Any:
        """Return outputs, shape (..., *space, outputs).

        Raises:
            ShapeError: if the grid has fewer wavenumbers than are kept.
        """
        space = x.shape[-1 - self.ndim : -1]
        if min(space) < 2 * self.modes:
            raise ShapeError(
                f"FourierOperator: {self.modes} modes need at least {2 * self.modes} points, found {space}"
            )
        h = self.enter(x)
        for weights, point in zip(self.spectral, self.pointwise, strict=True):
            h = h + jax.nn.silu(self._multiplied(h, weights[...]) + point(h))
        return self.leave(h)

    def _multiplied(self, h: Any, weights: Any) -> Any:
        axes = tuple(range(h.ndim - 1 - self.ndim, h.ndim - 1))
        space = [h.shape[axis] for axis in axes]
        z = jnp.fft.rfftn(h, axes=axes)
        chosen = [
            jnp.concatenate([jnp.arange(self.modes), n - self.modes + 1 + jnp.arange(self.modes - 1)]) for n in space
        ]
        chosen[-1] = jnp.arange(self.modes)
        index = (..., *jnp.ix_(*chosen), slice(None))
        factor = jax.lax.complex(weights[0], weights[1])
        low = jnp.einsum("...c,...cd->...d", z[index], factor[(None,) * (h.ndim - 1 - self.ndim)])
        return jnp.fft.irfftn(jnp.zeros_like(z).at[index].set(low), s=space, axes=axes)
