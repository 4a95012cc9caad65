"""Sound in a fluid, or P waves in the earth: the acoustic wave equation in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete, require_positive
from diffassim.core.pytree import static
from diffassim.grids.grid import Grid
from diffassim.models.base import Model, Parameter, Variable
from diffassim.models.numerics.point_sources import PointSources, point_weights
from diffassim.models.numerics.staggered import (
    LARGEST_SYMBOL,
    SMALLEST_AXIS,
    Ends,
    divergence,
    face_weights,
    gradient,
)

__all__ = ["AcousticState", "AcousticWaves"]

REFLECTION = 1e-6  # of a wave that meets the default layer at right angles, without the grid; grazing ones need it


class AcousticState(NamedTuple):
    """Pressure in two parts, of which the sum counts, and the flux of mass, half a step before the pressure.

    Args:
        pressure_z: part that the divergence along the first axis made, at the centers of the cells, (..., nz, nx).
        pressure_x: part of the second axis.
        flux_z: across the faces before the centers along the first axis, of the same shape.
        flux_x: along the second.
    """

    pressure_z: Any
    pressure_x: Any
    flux_z: Any
    flux_x: Any

    @property
    def pressure(self) -> Any:
        """Sum of the two parts."""
        return self.pressure_z + self.pressure_x


class AcousticWaves(Model):
    r"""The acoustic wave equation with a velocity that varies, point sources and absorbing edges.

    .. math::
        \partial_t \mathbf{u} = -\nabla p, \qquad
        \partial_t p = c^2\, \big(-\nabla \cdot \mathbf{u} + \textstyle\sum_s q_s(t)\, \delta(\mathbf{x} -
        \mathbf{x}_s)\big)

    and so \(\partial_t^2 p / c^2 - \Delta p = \sum_s \dot q_s\, \delta_s\). Leapfrog on a staggered grid: second
    order in time, fourth in space. Without sources and layer an energy is conserved to rounding, and source and
    receiver are exchangeable to rounding in any medium, away from the layer. Bounded axes end with rigid walls, or with
    a free surface (p = 0) at the first face of the first axis; a perfectly matched layer of `layer` cells before the
    walls lets waves leave at any angle. There the pressure is held in two parts, each damped along its own axis.

    State: `AcousticState`, fields on the cells of the grid, axes (z, x); cell (i, j) has its center at
    ((i + 1/2) h_z, (j + 1/2) h_x). Step t injects the strengths at time (t + 1/2) dt.

    Args:
        velocity: c, a number or a field (nz, nx); m/s.
        sources: `PointSources`, their strengths in kg/(m s) (per meter of the third dimension), or None.
        grid: spacing and which axes wrap around; m.
        dt: time step, s.
        damping: rate at the outer end of the layer, 1/s; None: so that less than a thousandth is reflected, of grazing
            waves a few.
        layer: cells of the absorbing layer (static); 0: none.
        free_surface: whether the first axis begins with p = 0 instead of wall and layer (static).

    Raises:
        ConfigurationError: if `courant_number()` is not below one, or a velocity is not positive.
        ShapeError: if the grid has not two axes, or a field does not fit it.
        DataError: if a source lies outside of the grid, where its extent is known.

    Example:
        >>> from diffassim.models.numerics.point_sources import Ricker
        >>> from diffassim.models.rollout import rollout
        >>> source = PointSources(jnp.array([[150.0, 200.0]]), Ricker(frequency=10.0, time=0.1))
        >>> model = AcousticWaves(2000.0, source, Grid((10.0, 10.0), (False, False)), dt=0.002, layer=8)
        >>> end = rollout(model, model.at_rest((30, 40)), 50, at=[50])
        >>> end.pressure.shape, bool(jnp.abs(end.pressure).max() > 1)
        ((1, 30, 40), True)

    Source: Virieux (1984) and Levander (1988); layer: Berenger (1994), for sound Liu and Tao (1997).
    """

    velocity: Any
    sources: PointSources | None = None
    grid: Grid = Grid(periodic=(False, False))
    dt: Any = 1.0
    damping: Any = None
    layer: int = static(default=0)
    free_surface: bool = static(default=False)

    time_units: ClassVar[str] = "s"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "velocity": Parameter("m s-1", (0.0, float("inf")), "speed of the waves"),
        "damping": Parameter("s-1", (0.0, float("inf")), "rate at the outer end of the absorbing layer"),
    }

    def __post_init__(self) -> None:
        if self.grid.ndim != 2:
            raise ShapeError(f"AcousticWaves: the grid must have two axes, found {self.grid.ndim}")
        if self.layer < 0:
            raise ConfigurationError(f"AcousticWaves: layer must not be negative, found {self.layer}")
        if self.free_surface and self.grid.periodic[0]:
            raise ConfigurationError("AcousticWaves: a free surface needs a first axis that is not periodic")
        require_positive("AcousticWaves.velocity", self.velocity)
        require_positive("AcousticWaves.dt", self.dt)
        fastest = concrete(self.velocity)
        if self.damping is None:
            self._set(damping=0.0 if not self.layer else self._default_damping(fastest))
        known = [concrete(leaf) for leaf in (*self.grid.spacing, self.dt)]
        if fastest is not None and all(value is not None for value in known):
            number = self.courant_number()
            if not number < 1:
                raise ConfigurationError(
                    f"AcousticWaves: courant_number() is {number:.4g}, and from one on the steps are unstable; take a "
                    f"dt below {float(self.dt) / number:.4g}"
                )

    def courant_number(self) -> float:
        r"""Return \(\tfrac76\, \Delta t\, c_{max} \sqrt{h_z^{-2} + h_x^{-2}}\); known numbers only."""
        inverse = math.sqrt(sum(1 / float(h) ** 2 for h in self.grid.spacing))
        return LARGEST_SYMBOL / 2 * float(self.dt) * float(np.max(np.asarray(self.velocity))) * inverse

    def at_rest(self, shape: tuple[int, int], dtype: Any = float) -> AcousticState:
        """Return the state without a wave on (nz, nx) cells."""
        field = jnp.zeros(shape, dtype)
        x = AcousticState(field, field, field, field)
        self._check(x)
        return x

    def step(self, x: AcousticState, t: Any) -> AcousticState:
        """Advance by dt."""
        self._check(x)
        p = x.pressure
        dt = jnp.asarray(self.dt, p.dtype)
        stretch = dt * jnp.square(self._speed(p))
        source = 0.5 * stretch * self._injected(p, t)
        parts, fluxes = [], []
        for part, flux, axis, h in zip(x[:2], x[2:], (-2, -1), self.grid.spacing, strict=True):
            h, ends = jnp.asarray(h, p.dtype), self._ends(axis)
            keep, gain = self._damped(p, axis, 0.0)
            flux = keep * flux - gain * (dt / h) * gradient(p, axis, ends)
            keep, gain = self._damped(p, axis, 0.5)
            parts.append(keep * part - gain * (stretch / h * divergence(flux, axis, ends) - source))
            fluxes.append(flux)
        return AcousticState(*parts, *fluxes)

    def energy(self, x: AcousticState) -> Float[Array, ...]:
        r"""Return what leapfrog conserves, \(\tfrac12 \int p^2/c^2 + \mathbf{u}^{n-1/2} \cdot \mathbf{u}^{n+1/2}\).

        To rounding, without sources and layer; with a layer it includes what is still in there.
        """
        p = x.pressure
        density = jnp.square(p / self._speed(p))
        for flux, axis, h in zip(x[2:], (-2, -1), self.grid.spacing, strict=True):
            ends = self._ends(axis)
            following = flux - jnp.asarray(self.dt / h, p.dtype) * gradient(p, axis, ends)
            weights = _along(face_weights(p.shape[axis], ends, p.dtype), axis, p.ndim)
            density = density + weights * flux * following
        cell = jnp.asarray(self.grid.spacing[0] * self.grid.spacing[1], p.dtype)
        return 0.5 * cell * jnp.sum(density, axis=(-2, -1))

    def pressure_at(self, x: AcousticState, places: Float[Array, "places 2"]) -> Float[Array, "... places"]:
        """Return the pressure at places between the cells, by the kernel that sources are injected with.

        With it a receiver is the transpose of a source: exchanged, they record the same to rounding.
        """
        p = x.pressure
        rows, columns = self._weights(jnp.asarray(places, p.dtype), p.shape[-2:])
        return jnp.einsum("...zx,sz,sx->...s", p, rows, columns)

    def variables(self) -> AcousticState:
        """Return the metadata of the state."""
        dims = ("z", "x")
        return AcousticState(
            Variable("pressure_z", dims, "Pa", "pressure, part of the first axis"),
            Variable("pressure_x", dims, "Pa", "pressure, part of the second axis"),
            Variable("flux_z", dims, "kg m-2 s-1", "flux of mass along the first axis"),
            Variable("flux_x", dims, "kg m-2 s-1", "flux of mass along the second axis"),
        )

    def _default_damping(self, fastest: Any) -> float:
        spacing = [concrete(h) for h, wraps in zip(self.grid.spacing, self.grid.periodic, strict=True) if not wraps]
        if fastest is None or any(h is None for h in spacing):
            raise ConfigurationError(
                "AcousticWaves: damping depends on velocity and spacing, which are traced here; give a number, such as "
                "that of a model that was made outside"
            )
        thinnest = self.layer * min((float(h) for h in spacing if h is not None), default=math.inf)
        return -1.5 * math.log(REFLECTION) * float(fastest.max()) / thinnest

    def _speed(self, p: Array) -> Array:
        c = jnp.asarray(self.velocity, p.dtype)
        return c.reshape((1,) * (p.ndim - c.ndim) + c.shape)

    def _ends(self, axis: int) -> Ends:
        if self.grid.periodic[axis]:
            return "periodic"
        return "free" if self.free_surface and axis == -2 else "walls"

    def _damped(self, p: Array, axis: int, offset: float) -> tuple[Array | float, Array | float]:
        """Return what a step leaves of a value, and the factor of what it adds; offset 0 on faces, 1/2 at centers."""
        ends = self._ends(axis)
        if not self.layer or ends == "periodic":
            return 1.0, 1.0
        n = p.shape[axis]
        place = jnp.arange(n, dtype=p.dtype) + offset
        depth = place - (n - self.layer)
        if ends == "walls":
            depth = jnp.maximum(depth, self.layer - place)
        share = jnp.square(jnp.maximum(depth, 0) / self.layer)
        half = 0.5 * jnp.asarray(self.dt * self.damping, p.dtype) * share
        return _along((1 - half) / (1 + half), axis, p.ndim), _along(1 / (1 + half), axis, p.ndim)

    def _injected(self, p: Array, t: Any) -> Array:
        """Return the strengths by cell area on the cells at the middle of step t."""
        if self.sources is None:
            return jnp.zeros((1,) * p.ndim, p.dtype)
        time = (jnp.asarray(t).astype(p.dtype) + 0.5) * jnp.asarray(self.dt, p.dtype)
        places = jnp.asarray(self.sources.places, p.dtype).reshape(self.sources.count, -1)
        rows, columns = self._weights(places, p.shape[-2:])
        area = jnp.asarray(self.grid.spacing[0] * self.grid.spacing[1], p.dtype)
        found = jnp.einsum("s,sz,sx->zx", self.sources.strengths(time) / area, rows, columns)
        return found.reshape((1,) * (p.ndim - 2) + found.shape)

    def _weights(self, places: Array, shape: tuple[int, ...]) -> list[Array]:
        images: dict[Ends, Any] = {"periodic": None, "walls": (1.0, 1.0), "free": (-1.0, 1.0)}
        return [
            point_weights(places[:, k] / jnp.asarray(self.grid.spacing[k], places.dtype), n, images[self._ends(k - 2)])
            for k, n in enumerate(shape)
        ]

    def _check(self, x: Any) -> None:
        shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(x)}
        shape = next(iter(shapes))[-2:]
        if len(shapes) != 1 or len(shape) != 2 or min(shape) < SMALLEST_AXIS:
            raise ShapeError(
                f"AcousticWaves: the four fields of the state must have one shape (..., nz, nx) of at least "
                f"{SMALLEST_AXIS} cells along each axis, found {sorted(shapes)}"
            )
        if jnp.ndim(self.velocity) and jnp.shape(self.velocity) != shape:
            raise ShapeError(f"AcousticWaves: velocity of shape {jnp.shape(self.velocity)} on cells of shape {shape}")
        if self.layer and any(2 * self.layer > n for n, w in zip(shape, self.grid.periodic, strict=True) if not w):
            raise ShapeError(f"AcousticWaves: a layer of {self.layer} cells at both ends does not fit cells {shape}")
        if self.sources is None:
            return
        if jnp.shape(self.sources.places)[-1] != 2:
            raise ShapeError(f"AcousticWaves: places have two coordinates, found {jnp.shape(self.sources.places)}")
        places, spacing = concrete(self.sources.places), [concrete(h) for h in self.grid.spacing]
        if places is None or any(h is None for h in spacing):
            return
        extent = np.array([float(h) * n for h, n in zip(spacing, shape, strict=True) if h is not None])
        if not np.all((places >= 0) & (places <= extent)):
            raise DataError(
                f"AcousticWaves: a source lies outside of the grid, 0 to {extent.tolist()}; places: {places.tolist()}"
            )


def _along(values: Array, axis: int, ndim: int) -> Array:
    """Return a vector that lies along an axis of a field of two axes or more."""
    return values.reshape((1,) * (ndim - 2) + ((-1, 1) if axis == -2 else (1, -1)))
