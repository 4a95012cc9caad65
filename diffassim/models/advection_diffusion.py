"""Transport of a tracer by given winds, with diffusion, emissions and decay: conservative and positive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.kernels import kernel
from diffassim.core.pytree import static
from diffassim.grids.grid import Grid
from diffassim.models.base import Model, Parameter, Variable

__all__ = ["AdvectionDiffusion"]


class AdvectionDiffusion(Model):
    r"""Finite volumes for \(\partial_t c + \nabla \cdot (\mathbf{w} c) = \nabla \cdot (K \nabla c) + e - \lambda c\).

    .. math::
        F_{k} = w_k^+ \big(c_{k-1} + \tfrac12 s_{k-1}\big) + w_k^- \big(c_k - \tfrac12 s_k\big)
            - K \frac{c_k - c_{k-1}}{h}, \qquad
        s = \frac{8 a^2 b^2}{(a + b)^3} \text{ where } a b > 0, \text{ else } 0

    Face k lies between the cells k - 1 and k; a and b are the differences of c to both sides, and s the limited slope.
    Second order where the field is smooth; no new extrema; mass changes by emission, decay and open boundaries alone.
    The limiter lies below van Leer's harmonic mean, and unlike it (or minmod, or superbee) has a continuous derivative
    where a or b changes sign, so that tangent and adjoint do not jump at the extrema of c. Steps are two Euler stages
    averaged (SSP Runge-Kutta 2), which keep c positive while `courant_number()` does not exceed one. With order 1 s is
    zero: upwind differences, much more diffusive, with which a step is exactly linear in c, emissions and inflow.

    State: concentration in the cells of a grid of one to three axes, shape (..., *grid). What varies in time (wind,
    emissions) has a leading axis of records, of which each holds for `hold` steps; they repeat.

    Args:
        wind: one entry per axis, the velocity across the faces of that axis in spacings' unit per time unit: a number,
            or an array shaped like the field, or like the field with one more point along that axis if it is bounded
            (the outer faces included).
        diffusivity: K, a number or one entry per axis; in the spacings' unit squared per time unit.
        emissions: e, a number, or a field, in concentration per time unit; with `patterns` the strength of each of
            them, shape (sectors,).
        patterns: fields that the strengths multiply, shape (sectors, *grid).
        decay: rate in 1 per time unit, a number or a field.
        inflow: concentration of what enters through the open ends of bounded axes; None: they are closed walls.
        grid: spacing and boundaries of the trailing axes.
        dt: time step.
        hold: number of steps for which a record holds (static).
        order: of the advection in space, 2 or 1 (static).

    Raises:
        ConfigurationError: if `courant_number()` exceeds one, where the numbers are known, or the order is another.
        ShapeError: if a field does not fit the grid of the state.

    Example:
        >>> model = AdvectionDiffusion(wind=(0.5,), grid=Grid())
        >>> model.step(jnp.array([0.0, 1.0, 0.0, 0.0]), 0).round(3).tolist()
        [0.0, 0.625, 0.25, 0.125]

    Source: van Leer (1977); positivity: Shu and Osher (1988); adjoints of limiters: Thuburn and Haine (2001).
    """

    wind: Any = (0.0, 0.0)
    diffusivity: Any = 0.0
    emissions: Any = 0.0
    patterns: Any = None
    decay: Any = 0.0
    inflow: Any = None
    grid: Grid = Grid(periodic=(True, True))
    dt: Any = 1.0
    hold: int = static(default=1)
    order: int = static(default=2)

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "diffusivity": Parameter(bounds=(0.0, float("inf")), long_name="diffusivity"),
        "emissions": Parameter(long_name="emission rate, or strengths of the patterns"),
        "decay": Parameter(bounds=(0.0, float("inf")), long_name="decay rate"),
    }

    def __post_init__(self) -> None:
        if not isinstance(self.wind, tuple | list) or len(self.wind) != self.grid.ndim:
            raise ShapeError(
                f"AdvectionDiffusion: wind must be a tuple of one entry for each of the {self.grid.ndim} axes of grid"
            )
        if self.hold < 1:
            raise ConfigurationError(f"AdvectionDiffusion: hold must be at least 1, found {self.hold}")
        if self.order not in (1, 2):
            raise ConfigurationError(f"AdvectionDiffusion: order must be 1 or 2, found {self.order}")
        self._set(wind=tuple(self.wind))
        known = [concrete(leaf) for leaf in jax.tree.leaves((self.wind, self.diffusivity, self.decay, self.dt))]
        if all(value is not None for value in known):
            number = self.courant_number()
            if not number <= 1 + 1e-12:
                raise ConfigurationError(
                    f"AdvectionDiffusion: courant_number() is {number:.3g}, above one the concentration may become "
                    f"negative; take a dt of at most {float(self.dt) / number:.3g}, or several steps for one"
                )

    def courant_number(self) -> float:
        r"""Return \(\Delta t \max (2 \sum_d |w_d| / h_d + 2 \sum_d K_d / h_d^2 + \lambda)\); known numbers only."""
        total = float(np.max(np.asarray(self.decay)))
        for wind, K, h in zip(self.wind, self._diffusivities(), self.grid.spacing, strict=True):
            total += float(2 * np.max(np.abs(np.asarray(wind))) / h + 2 * np.max(np.asarray(K)) / h**2)
        return total * float(self.dt)

    def source(self, t: Any, dtype: Any = float) -> Array:
        """Return the emission rate in step t, a number or a field."""
        if self.patterns is None:
            return _record(self.emissions, t, self.grid.ndim, self.hold, dtype)
        strengths = _record(self.emissions, t, 1, self.hold, dtype)
        return jnp.tensordot(strengths, jnp.asarray(self.patterns, dtype), axes=1)

    def tendency(self, c: Float[Array, ...], t: Any) -> Float[Array, ...]:
        """Return dc/dt in step t."""
        winds, source = self._at(c, t)
        return self._slope(c, winds, source)

    def step(self, c: Float[Array, ...], t: Any) -> Float[Array, ...]:
        """Advance by dt."""
        winds, source = self._at(c, t)
        dt = jnp.asarray(self.dt, c.dtype)
        first = c + dt * self._slope(c, winds, source)
        return 0.5 * (c + first + dt * self._slope(first, winds, source))

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("c", ("z", "y", "x")[3 - self.grid.ndim :], "1", "tracer concentration")

    def _diffusivities(self) -> tuple[Any, ...]:
        K = self.diffusivity
        return tuple(K) if isinstance(K, tuple | list) else (K,) * self.grid.ndim

    def _at(self, c: Array, t: Any) -> tuple[list[Array], Array]:
        """Return winds with both outer faces, and the source, in step t."""
        self.grid.check("AdvectionDiffusion: the state", c.shape)
        shape = c.shape[c.ndim - self.grid.ndim :]
        winds = []
        for axis, (wind, periodic) in enumerate(zip(self.wind, self.grid.periodic, strict=True)):
            faces = (*shape[:axis], shape[axis] + (not periodic), *shape[axis + 1 :])
            w = _record(wind, t, self.grid.ndim, self.hold, c.dtype)
            if w.ndim and w.shape != faces:
                raise ShapeError(
                    f"AdvectionDiffusion: the wind across axis {axis} has shape {w.shape}, but there are {faces} faces"
                )
            w = jnp.broadcast_to(w, faces)
            winds.append(jnp.concatenate([w, _cut(w, axis, 0, 1)], axis=axis) if periodic else w)
        source = self.source(t, c.dtype)
        if source.ndim and source.shape != shape:
            raise ShapeError(f"AdvectionDiffusion: emissions of shape {source.shape} on a grid of shape {shape}")
        return winds, source

    def _slope(self, c: Array, winds: list[Array], source: Array) -> Array:
        total = source - jnp.asarray(self.decay, c.dtype) * c
        for axis, (w, K, h) in enumerate(zip(winds, self._diffusivities(), self.grid.spacing, strict=True)):
            h, place = jnp.asarray(h, c.dtype), c.ndim - self.grid.ndim + axis
            flux = self._flux(c, w, jnp.asarray(K, c.dtype) / h, axis, place)
            total = total - (_cut(flux, place, 1) - _cut(flux, place, 0, -1)) / h
        return total

    def _flux(self, c: Array, w: Array, conductance: Array, axis: int, place: int) -> Array:
        """Return the flux through all faces of an axis, both outer ones included."""
        if self.grid.periodic[axis]:
            around = _around(c, place=place)
            return _inner_flux(around, w, conductance, place, self.order)
        n = c.shape[place]
        first, last = _cut(c, place, 0, 1), _cut(c, place, n - 1)
        edges = jnp.concatenate([first, c, last], axis=place)
        inner = _inner_flux(edges, _cut(w, axis, 1, -1), conductance, place, self.order)
        if self.inflow is None:
            outer = jnp.zeros_like(first), jnp.zeros_like(last)
        else:
            outside = jnp.asarray(self.inflow, c.dtype)
            before, behind = _cut(w, axis, 0, 1), _cut(w, axis, n)
            outer = (
                jnp.maximum(before, 0) * outside + jnp.minimum(before, 0) * first,
                jnp.maximum(behind, 0) * last + jnp.minimum(behind, 0) * outside,
            )
        return jnp.concatenate([outer[0], inner, outer[1]], axis=place)


def _inner_flux(c: Array, w: Array, conductance: Array, place: int, order: int) -> Array:
    """Return the flux through the faces between cells, from cells with one more at either side."""
    inside = _cut(c, place, 1, -1)
    left, right = _cut(inside, place, 0, -1), _cut(inside, place, 1)
    toward, back = left, right
    if order == 2:
        s = _half_slopes(c, place=place)
        toward, back = left + _cut(s, place, 0, -1), right - _cut(s, place, 1)
    return jnp.maximum(w, 0) * toward + jnp.minimum(w, 0) * back - conductance * (right - left)


@kernel("place")
def _around(c: Array, *, place: int) -> Array:
    """Return a periodic field with two more cells at either side, stored."""
    n = c.shape[place]
    return jnp.concatenate([_cut(c, place, n - 2), c, _cut(c, place, 0, 2)], axis=place)


@kernel("place")
def _half_slopes(c: Array, *, place: int) -> Array:
    """Return half of the limited slope of all cells but the outer two, stored: every flux reads it twice."""
    difference = _cut(c, place, 1) - _cut(c, place, 0, -1)
    return _limited(_cut(difference, place, 0, -1), _cut(difference, place, 1))


@jax.custom_jvp
def _limited(a: Array, b: Array) -> Array:
    """Return 4 a^2 b^2 / (a + b)^3 where a and b have the same sign, else 0."""
    share = _share(a, b)
    return 4 * (a + b) * jnp.square(share * (1 - share))


@_limited.defjvp
def _limited_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Two stored coefficients are all that the linearized model keeps of a slope.
    share = _share(*primals)
    other = 1 - share
    by_a, by_b = 4 * share * other**2 * (2 - 3 * share), 4 * other * share**2 * (2 - 3 * other)
    return _limited(*primals), by_a * tangents[0] + by_b * tangents[1]


def _share(a: Array, b: Array) -> Array:
    """Return a / (a + b), 0 where the signs differ or the sum is too small for derivatives of the quotient."""
    total = a + b
    sound = (a * b > 0) & (jnp.abs(total) > float(jnp.finfo(a.dtype).tiny) ** (1 / 3))
    return jnp.where(sound, a, 0) / jnp.where(sound, total, 1)


def _record(value: Any, t: Any, ndim: int, hold: int, dtype: Any) -> Array:
    value = jnp.asarray(value, dtype)
    return value if value.ndim <= ndim else value[(jnp.asarray(t) // hold) % value.shape[0]]


def _cut(x: Array, axis: int, start: int, stop: int | None = None) -> Array:
    n = x.shape[axis]
    stop = n if stop is None else stop
    return lax.slice_in_dim(x, start, stop + n if stop < 0 else stop, axis=axis)
