"""A covariance of fields on circles of latitude that is the same at all longitudes, measured from samples."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError, require_finite
from diffassim.core.fourier import Split, transformed
from diffassim.core.pytree import static
from diffassim.core.sharding import mapped_over
from diffassim.covariances.base import Covariance, NotAvailableError

__all__ = ["ZonallyHomogeneous"]


class ZonallyHomogeneous(Covariance):
    r"""\(B = S F^{-1} \,\mathrm{blockdiag}(C_m)\, F S\): one matrix for each zonal wavenumber m.

    F is the Fourier transform along the last axis of all fields, a circle of latitude; S a scale for each row; and

    .. math:: C_m = \frac{1}{N} \sum_{i=1}^{N} \hat s^{(i)}_m \hat s^{(i)*}_m

    the covariance, between all rows (latitudes, levels, variables), of the m-th coefficient of the scaled samples.
    If statistics do not depend on longitude these matrices say everything: variances and lengths that change with
    latitude and height, and the balance between variables. Increments stay in the space of the samples: what no sample
    holds, such as waves beyond a truncation, has no variance. `sqrt` is \(S F^{-1} C_m^{1/2} F\) with the Hermitian
    root, and the control vector is a state.

    Longitudes count alike: N samples at n longitudes are nearly as good as many more without this symmetry.

    Args:
        roots: real and imaginary part of the roots, shape (2, n // 2 + 1, K, K), for all K rows of all fields.
        scale: S, standard deviations, a pytree like the state with one entry on the last axis.
        longitudes: n, number of points on the circle (static).
        split: how fields lie in parts on several devices, put here by `da.covariances.in_parts`; None: whole (static).

    Raises:
        ShapeError: if roots, scale and number of longitudes do not fit each other.

    Example:
        >>> samples = jnp.array([[[1.0, 0.0, -1.0, 0.0]], [[0.0, 1.0, 0.0, -1.0]]])
        >>> B = ZonallyHomogeneous.from_samples(samples)
        >>> B.apply(jnp.array([[1.0, 0.0, 0.0, 0.0]])).round(6).tolist()
        [[0.5, 0.0, -0.5, 0.0]]

    Source: Boer (1983), section 2, for the coefficients of homogeneous fields; Parrish and Derber (1992), section 4,
    and Berre (2000), section 2, for covariances by wavenumber.
    """

    roots: Float[Array, "2 waves K K"]
    scale: Any
    longitudes: int = static()
    split: Split | None = static(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(self.scale)]
        rows = sum(math.prod(shape[:-1]) for shape in shapes if shape)
        wanted = (2, self.longitudes // 2 + 1, rows, rows)
        if any(not shape or shape[-1] != 1 for shape in shapes) or jnp.shape(self.roots) != wanted:
            raise ShapeError(
                f"ZonallyHomogeneous: for scales of shapes {shapes} (one on the last axis) and {self.longitudes} "
                f"longitudes the roots have shape {wanted}, found {jnp.shape(self.roots)}; from_samples makes them"
            )

    @classmethod
    def from_samples(cls, samples: Any, floor: float = 0.0) -> Self:
        """Return the covariance of samples around a mean that has been subtracted.

        Args:
            samples: departures (of members from their mean, `forecast_differences`), the state's pytree with a leading
                axis of N samples; the last axis of every leaf is the circle.
            floor: least standard deviation of a row as a share of the largest of its field, for rows without variance.

        Returns:
            The covariance.

        Raises:
            ShapeError: if leaves disagree on samples or longitudes.
            DataError: if a value is missing.
            ConfigurationError: if the floor is not in [0, 1].
        """
        leaves, structure = jax.tree.flatten(samples)
        ends = {(jnp.shape(leaf)[0], jnp.shape(leaf)[-1]) if jnp.ndim(leaf) > 1 else None for leaf in leaves}
        if len(ends) != 1 or None in ends:
            raise ShapeError(
                "ZonallyHomogeneous.from_samples: every leaf needs the same number of samples on the first axis and of "
                f"longitudes on the last, found {tree.describe_shapes(samples)}"
            )
        if not 0 <= floor <= 1:
            raise ConfigurationError(f"ZonallyHomogeneous.from_samples: floor={floor} must be a share, in [0, 1]")
        require_finite("ZonallyHomogeneous.from_samples: samples", samples)
        ((_, longitudes),) = ends  # type: ignore[misc]
        scales = [_deviation(jnp.asarray(leaf), floor) for leaf in leaves]
        scaled = [leaf / jnp.where(s > 0, s, 1)[None] for leaf, s in zip(leaves, scales, strict=True)]
        modes = _forward(scaled, 1)
        waves = jnp.moveaxis(modes, -1, 0)  # (m, samples, K)
        C = jnp.einsum("mnk,mnl->mkl", waves, jnp.conj(waves)) / modes.shape[0]
        values, vectors = jnp.linalg.eigh(C)
        weighted = vectors * jnp.sqrt(jnp.maximum(values, 0)).astype(vectors.dtype)[:, None, :]
        roots = jnp.einsum("mkr,mlr->mkl", weighted, jnp.conj(vectors))
        return cls(jnp.stack([roots.real, roots.imag]), structure.unflatten(scales), int(longitudes))

    def sqrt(self, v: Any) -> Any:
        """Return L v = S F^(-1) C_m^(1/2) F v."""
        return jax.tree.map(self._scaled, self._rooted(v), self.scale)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x = F^(-1) C_m^(1/2) F S x."""
        return self._rooted(jax.tree.map(self._scaled, x, self.scale))

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the state consists of fields like the samples."""
        own = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((*jnp.shape(s)[:-1], self.longitudes), jnp.result_type(s)), self.scale
        )
        if not tree.same_shapes(own, x):
            raise ShapeError(
                f"{name}: ZonallyHomogeneous has fields of shape {tree.describe_shapes(own)}, the state has "
                f"{tree.describe_shapes(x)}"
            )
        if self.split is not None and self.split.axis == -1:
            raise ConfigurationError(
                f"{name}: ZonallyHomogeneous transforms along the last axis, and fields are split there; split another "
                "one (latitude)"
            )

    def _unavailable(self, operation: str, advice: str = "") -> NotAvailableError:
        return super()._unavailable(operation, "It is singular where samples hold no waves; B + Diagonal(...) is not.")

    def _scaled(self, leaf: Array, scale: Any) -> Array:
        scale = jnp.asarray(scale, leaf.dtype)
        return leaf * scale.reshape((1,) * (leaf.ndim - scale.ndim) + scale.shape)

    def _rooted(self, v: Any) -> Any:
        leaves, structure = jax.tree.flatten(v)
        shapes = [jnp.shape(s) for s in jax.tree.leaves(self.scale)]
        batch = leaves[0].ndim - len(shapes[0])
        if self.split is not None:
            return structure.unflatten(self._rooted_in_parts(leaves, batch, self.split))
        modes = _forward(leaves, batch)
        turned = self._multiplied(modes, jnp.asarray(self.roots, modes.real.dtype))
        rows = jnp.fft.irfft(turned, self.longitudes, axis=-1, norm="ortho")
        ends = np.cumsum([math.prod(shape[:-1]) for shape in shapes])[:-1]
        parts = jnp.split(rows, ends.tolist(), axis=-2)
        return structure.unflatten(
            [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
        )

    def _multiplied(self, modes: Array, roots: Array) -> Array:
        return jnp.einsum("mkl,...lm->...km", jax.lax.complex(roots[0], roots[1]), modes)

    def _rooted_in_parts(self, leaves: list[Array], batch: int, split: Split) -> list[Array]:
        """Return what `_rooted` does: each device has some rows for the transforms, and some waves for the product."""
        roots = split.padded(jnp.asarray(self.roots, leaves[0].dtype), -3)
        forward = partial(jnp.fft.rfft, norm="ortho")
        backward = partial(jnp.fft.irfft, n=self.longitudes, norm="ortho")

        def of_part(roots: Array, *parts: Array) -> tuple[Array, ...]:
            waves = [
                split.turned(split.padded(transformed(forward, part), -1), whole=split.axis, split=-1) for part in parts
            ]
            rows = [wave.reshape((*wave.shape[:batch], -1, wave.shape[-1])) for wave in waves]
            turned = self._multiplied(jnp.concatenate(rows, axis=-2), roots)
            ends = np.cumsum([row.shape[-2] for row in rows])[:-1]
            back = [
                split.turned(one.reshape(wave.shape), whole=-1, split=split.axis)[..., : self.longitudes // 2 + 1]
                for one, wave in zip(jnp.split(turned, ends.tolist(), axis=-2), waves, strict=True)
            ]
            return tuple(transformed(backward, one).astype(part.dtype) for one, part in zip(back, parts, strict=True))

        places = tuple(split.spec(leaf, split.axis) for leaf in leaves)
        run = mapped_over(of_part, split.mesh, {split.name}, (split.spec(roots, -3), *places), places)
        return list(run(roots, *leaves))


def _forward(leaves: list[Any], batch: int) -> Array:
    """Return the coefficients of all rows, shape (*batch, K, waves)."""
    rows = [leaf.reshape((*leaf.shape[:batch], -1, leaf.shape[-1])) for leaf in leaves]
    return jnp.fft.rfft(jnp.concatenate(rows, axis=-2), axis=-1, norm="ortho")


def _deviation(leaf: Array, floor: float) -> Array:
    """Return the standard deviation of each row over samples and longitudes, shape (..., 1)."""
    deviation = jnp.sqrt(jnp.mean(jnp.square(leaf), axis=(0, -1)))[..., None]
    return jnp.maximum(deviation, jnp.asarray(floor, leaf.dtype) * jnp.max(deviation))
