"""How the variance of a field is spread over scales: on periodic lines and planes, and on the sphere."""

from __future__ import annotations

import importlib.util
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, require_positive
from diffassim.models.numerics.fourier import to_modes

__all__ = ["Spectrum", "power_spectrum", "spherical_power_spectrum"]


class Spectrum(NamedTuple):
    """Power by wavenumber; its sum is the mean square of the field.

    Args:
        wavenumber: of each bin, shape (bins,): radians per unit of length, or the degree on a sphere.
        power: shape (..., bins), in the squared unit of the field; the first bin holds the squared mean.
    """

    wavenumber: Float[Array, " bins"]
    power: Float[Array, "... bins"]


def power_spectrum(x: Float[Array, ...], ndim: int, length: Any = 2 * math.pi) -> Spectrum:
    r"""Return the isotropic spectrum of fields on a periodic line, plane or box.

    .. math::
        P_j = \sum_{k \in B_j} |\hat x_k|^2, \quad \hat x_k = \tfrac1N \sum_i x_i e^{-\mathrm{i} k \cdot r_i},
        \quad B_j = \{k : j - \tfrac12 \le |k| / \Delta k < j + \tfrac12\}, \quad \Delta k = 2 \pi / \max L

    All modes are counted, those in the corners of wavenumber space as well, so that \(\sum_j P_j = \overline{x^2}\)
    to rounding (Parseval). For the kinetic energy add half of the spectra of the velocity components; for a density by
    wavenumber divide by \(\Delta k\). Differentiable.

    Args:
        x: real fields on the last `ndim` axes; those in front are kept (members, times, layers).
        ndim: number of axes, 1 to 3 (static).
        length: period, a number or one for each axis.

    Returns:
        `Spectrum`; the wavenumber is that of the middle of each bin.

    Raises:
        ShapeError: if there are fewer axes than `ndim`, or another number of lengths.
        ConfigurationError: if `ndim` is not 1, 2 or 3, or a length is not positive.

    Example:
        >>> wave = 2.0 * jnp.cos(2 * math.pi * 3 / 16 * jnp.arange(16.0))
        >>> power_spectrum(wave, 1).power.round(5).tolist()
        [0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    Source: Durran, Weyn and Menchaca (2017), section 2, for the sums over shells.
    """
    x = jnp.asarray(x)
    if ndim not in (1, 2, 3):
        raise ConfigurationError(f"power_spectrum: ndim must be 1, 2 or 3, found {ndim}")
    lengths = tuple(length) if isinstance(length, tuple | list) else (length,) * ndim
    require_positive("power_spectrum: length", lengths)
    if x.ndim < ndim or len(lengths) != ndim:
        raise ShapeError(
            f"power_spectrum: {ndim} axes and as many lengths are needed, found shape {x.shape} and {len(lengths)}"
        )
    shape = x.shape[x.ndim - ndim :]
    longest = max(map(float, lengths))
    squared: Any = 0.0
    for axis, (n, L) in enumerate(zip(shape, lengths, strict=True)):
        index = np.arange(n // 2 + 1) if axis == ndim - 1 else np.abs(np.fft.fftfreq(n, 1 / n))
        squared = squared + (index * longest / float(L)).reshape((-1,) + (1,) * (ndim - 1 - axis)) ** 2
    bins = np.floor(np.sqrt(squared) + 0.5).astype(int).ravel()
    last = np.arange(shape[-1] // 2 + 1)
    twice = np.where((last == 0) | (2 * last == shape[-1]), 1.0, 2.0)
    weights = jnp.asarray(np.broadcast_to(twice, (*shape[:-1], last.size)).ravel() / math.prod(shape) ** 2, x.dtype)
    modes = to_modes(x, ndim).reshape(*x.shape[: x.ndim - ndim], -1)
    power = (jnp.square(modes.real) + jnp.square(modes.imag)) * weights.reshape((1,) * (modes.ndim - 1) + (-1,))
    count = int(bins.max()) + 1
    sums = jnp.zeros((*power.shape[:-1], count), x.dtype).at[..., bins].add(power)
    return Spectrum(jnp.arange(count, dtype=x.dtype) * (2 * math.pi / longest), sums)


def spherical_power_spectrum(x: Float[Array, "... lat lon"], truncation: int) -> Spectrum:
    r"""Return the spectrum by degree of fields on the Gaussian grid of `spherical_shallow_water`.

    .. math:: P_l = \tfrac{1}{4 \pi} \sum_m |\hat x_{lm}|^2, \qquad \sum_l P_l = \tfrac{1}{4 \pi} \int x^2 \, d\Omega

    with orthonormal spherical harmonics; the sum is the mean square over the sphere of what the truncation represents.

    Args:
        x: real fields, shape (..., latitude, longitude).
        truncation: of the grid: 21, 31, 42 or 85.

    Returns:
        `Spectrum`; the wavenumber is the degree, 0 to truncation + 1.

    Raises:
        ConfigurationError: if the library dinosaur (extra `sphere`) is not installed, or the truncation is another.
        ShapeError: if the fields do not fit the grid.
    """
    if importlib.util.find_spec("dinosaur") is None:
        raise ConfigurationError("spherical_power_spectrum needs dinosaur: pip install 'diffassim[sphere]'")
    from diffassim.models.library import library_rules
    from diffassim.models.spherical_shallow_water import spectral_grid

    grid = spectral_grid(truncation)
    longitudes, latitudes = grid.nodal_shape
    if x.shape[-2:] != (latitudes, longitudes):
        raise ShapeError(
            f"spherical_power_spectrum: the grid of truncation {truncation} has {latitudes} latitudes and {longitudes} "
            f"longitudes, but the fields have shape {x.shape}"
        )
    with library_rules():
        modes = grid.to_modal(jnp.swapaxes(x, -1, -2))
        power = jnp.sum(jnp.square(modes), axis=-2) / (4 * math.pi)
    return Spectrum(jnp.arange(power.shape[-1], dtype=x.dtype), power.astype(x.dtype))
