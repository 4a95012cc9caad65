"""A homogeneous covariance whose spectrum is that of samples."""

from __future__ import annotations

import math
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.fourier import Split
from diffassim.core.pytree import static
from diffassim.covariances import transforms
from diffassim.covariances.base import Covariance
from diffassim.grids.grid import Grid

__all__ = ["MeasuredSpectrum"]


class MeasuredSpectrum(Covariance):
    r"""\(B = F^{-1} \,\mathrm{diag}(s)\, F\) on a periodic grid, with s the mean power of the modes of samples.

    .. math:: s_k = \frac{1}{N m} \sum_{i=1}^{N} |\hat x^{(i)}_k|^2, \qquad \hat x = F x \text{ on } m \text{ points}

    The climatological covariance of a homogeneous flow: where statistics do not depend on the place, the modes are
    uncorrelated, and as many numbers as there are modes say everything. `sqrt` is symmetric and the control vector a
    field; a product takes a real transform forth and one back.

    Args:
        spectrum: s, the variance of white noise that would have this power, as the real transform orders the modes:
            shape (..., n // 2 + 1); the same for a mode and its conjugate, where both are listed.
        grid: the periodic grid of the state's trailing axes.
        split: how fields lie in parts on several devices, put here by `da.covariances.in_parts`; None: whole (static).

    Raises:
        ShapeError: if the spectrum does not have the grid's number of axes.
        ConfigurationError: if the grid is not periodic, a power is negative or not finite, or differs from that of the
            conjugate mode.

    Example:
        >>> grid = Grid(spacing=1.0, periodic=True)
        >>> samples = jnp.array([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0]])
        >>> MeasuredSpectrum.from_samples(samples, grid).apply(jnp.array([1.0, 0.0, 0.0, 0.0])).tolist()
        [0.5, 0.0, -0.5, 0.0]

    Source: Boer (1983), section 2, for the modes of homogeneous fields.
    """

    spectrum: Float[Array, ...]
    grid: Grid
    split: Split | None = static(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not all(self.grid.periodic):
            raise ConfigurationError("MeasuredSpectrum: the grid must be periodic along all of its axes")
        if jnp.ndim(self.spectrum) != self.grid.ndim:
            raise ShapeError(
                f"MeasuredSpectrum: the spectrum has shape {jnp.shape(self.spectrum)}, but the grid {self.grid.ndim} "
                "axes; MeasuredSpectrum.from_samples makes one that fits"
            )
        known = concrete(self.spectrum)
        if known is None:
            return
        if not (np.isfinite(known) & (known >= 0)).all():
            raise ConfigurationError("MeasuredSpectrum: all powers must be finite and not negative")
        first = known[..., 0]
        axes = tuple(range(first.ndim))
        if axes and not np.allclose(first, np.roll(np.flip(first, axes), (1,) * first.ndim, axes), rtol=1e-3):
            raise ConfigurationError(
                "MeasuredSpectrum: a mode and its conjugate have different powers in spectrum[..., 0], which no real "
                "field has; MeasuredSpectrum.from_samples makes a sound one"
            )

    @classmethod
    def from_samples(cls, samples: Float[Array, ...], grid: Grid, floor: Any = 0.0) -> Self:
        """Return the covariance of samples around a mean that has been subtracted.

        Args:
            samples: departures from the mean, a leading axis of samples before the grid's axes.
            grid: their periodic grid.
            floor: least power of a mode, as a share of the mean power; positive, if the covariance is to be inverted
                and some modes are never excited.
        """
        shape = jnp.shape(samples)[1:]
        if len(shape) != grid.ndim:
            raise ShapeError(
                f"MeasuredSpectrum: samples of shape {jnp.shape(samples)} need one leading axis before the grid's "
                f"{grid.ndim}"
            )
        modes = jnp.fft.rfftn(samples, axes=tuple(range(-grid.ndim, 0)))
        power = jnp.mean(jnp.square(modes.real) + jnp.square(modes.imag), axis=0) / math.prod(shape)
        mean = transforms.mode_sum(power, shape, grid.periodic) / math.prod(shape)
        return cls(jnp.maximum(power, jnp.asarray(floor, power.dtype) * mean), grid)

    @property
    def ndim(self) -> int:
        """Number of axes of the grid."""
        return self.grid.ndim

    def sqrt(self, v: Any) -> Any:
        """Return L v, L symmetric."""
        return jax.tree.map(lambda leaf: self._filter(leaf, jnp.sqrt), v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x."""
        return self.sqrt(x)

    def apply(self, x: Any) -> Any:
        """Return B x."""
        return jax.tree.map(lambda leaf: self._filter(leaf, lambda s: s), x)

    def whiten(self, x: Any) -> Any:
        """Return L^(-1) x.

        Raises:
            ConfigurationError: if a mode has no power.
        """
        self._require_inverse()
        return jax.tree.map(lambda leaf: self._filter(leaf, lambda s: 1 / jnp.sqrt(s)), x)

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x.

        Raises:
            ConfigurationError: if a mode has no power.
        """
        self._require_inverse()
        return jax.tree.map(lambda leaf: self._filter(leaf, lambda s: 1 / s), x)

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return the sum of the logarithms of all powers, each as often as its mode occurs.

        Raises:
            ConfigurationError: if a mode has no power.
        """
        self._require_inverse()
        total = jnp.zeros(())
        for leaf in jax.tree.leaves(x):
            shape = jnp.shape(leaf)[jnp.ndim(leaf) - self.ndim :]
            copies = math.prod(jnp.shape(leaf)[: jnp.ndim(leaf) - self.ndim])
            powers = jnp.log(jnp.asarray(self.spectrum, jnp.result_type(leaf)))
            total = total.astype(powers.dtype) + copies * transforms.mode_sum(powers, shape, self.grid.periodic)
        return total

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the state consists of fields with the modes of the spectrum."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            self.grid.check(name + jax.tree_util.keystr(path), jnp.shape(leaf))
            shape = jnp.shape(leaf)[jnp.ndim(leaf) - self.ndim :]
            modes = (*shape[:-1], shape[-1] // 2 + 1)
            if self.split is not None:
                transforms.check_split(f"{name}: MeasuredSpectrum", shape, self.grid.periodic, self.split)
            if modes != jnp.shape(self.spectrum):
                raise ShapeError(
                    f"{name}{jax.tree_util.keystr(path)}: MeasuredSpectrum has powers of shape "
                    f"{jnp.shape(self.spectrum)}, but fields of shape {shape} have modes of shape {modes}"
                )

    def _require_inverse(self) -> None:
        known = concrete(self.spectrum)
        if known is not None and not (known > 0).all():
            raise ConfigurationError(
                "MeasuredSpectrum: some modes have no power, so that there is no inverse; give "
                "MeasuredSpectrum.from_samples a floor (say 1e-6)"
            )

    def _filter(self, x: Array, function: Any) -> Array:
        powers = jnp.asarray(self.spectrum, jnp.result_type(x))
        shape, periodic = jnp.shape(x)[jnp.ndim(x) - self.ndim :], self.grid.periodic
        factors = transforms.arranged(function(powers), shape, periodic, self.split)
        return transforms.filtered(x, factors, periodic, self.split)
