"""Runs of Kolmogorov flow on its attractor, sensors of its velocity, and what its symmetries make of both."""

from __future__ import annotations

import math
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffassim.core.pytree import Pytree, static
from diffassim.experiments.framework.twin import states_at
from diffassim.models import NavierStokes
from diffassim.models.numerics.fourier import kept_modes, to_grid, to_modes, wavenumbers

__all__ = ["INTERVAL", "SITES", "WAVES", "Motion", "VelocitySensors", "model", "runs", "steps_per_snapshot"]

WAVES = 4  # of the force along y
SITES = 4  # sensors along each axis: one for each wave of the force
COURANT, FASTEST, FINE, INNER = 0.5, 7.0, 64, 25  # of the protocol's solver
INTERVAL = INNER * COURANT * (2 * math.pi / FINE) / FASTEST  # between snapshots, .175: the same on every grid


def steps_per_snapshot(size: int) -> int:
    """Return how many steps of the fourth-order scheme an interval takes; at 32 points they err by 3e-4 in eleven.

    With a third less, flows as fast as the first eddies can be are unstable.
    """
    return math.ceil(3 * size / 32)


def model(size: int, dtype: Any = float) -> NavierStokes:
    """Return the model with a step for a number of points along each axis, in a precision."""
    viscosity, drag, force, dt = (jnp.asarray(v, dtype) for v in (0.01, 0.1, 1.0, INTERVAL / steps_per_snapshot(size)))
    return NavierStokes(viscosity=viscosity, drag=drag, force=force, wavenumber=WAVES, dt=dt)


def runs(key: jax.Array, count: int, size: int, snapshots: Any, dtype: Any = float) -> Any:
    """Return vorticity of independent runs from random eddies.

    Args:
        key: random key.
        count: number of runs.
        size: points along each axis.
        snapshots: increasing numbers of the wanted snapshots, the first of them after a spin-up.
        dtype: precision.

    Returns:
        Shape (run, snapshot, y, x).

    Example:
        >>> runs(jax.random.key(0), 2, 16, [1, 3]).shape
        (2, 2, 16, 16)
    """
    y, x = wavenumbers((size, size), 2 * math.pi, dtype)
    smooth = jnp.exp(-(jnp.square(x) + jnp.square(y)) / 18) * kept_modes((size, size), dtype)
    modes = to_modes(jax.random.normal(key, (count, size, size), dtype), 2)
    eddies = to_grid(modes * smooth.astype(modes.dtype)[None], (size, size))
    eddies = eddies * (3 / jnp.std(eddies))
    at = steps_per_snapshot(size) * np.asarray(snapshots)
    return jax.vmap(lambda w: states_at(model(size, dtype), w, at))(eddies)


class VelocitySensors(Pytree):
    """Both components of the velocity at every n / 4-th point along y and x.

    Args:
        sites: number of sensors along each axis (static).

    Example:
        >>> VelocitySensors()(jnp.zeros((16, 16))).shape
        (4, 4, 2)
    """

    sites: int = static(default=SITES)

    def __call__(self, vorticity: Any, where: Any = None) -> Any:
        """Return the velocities, shape (..., 4, 4, 2)."""
        apart = vorticity.shape[-1] // self.sites
        velocity = NavierStokes().velocity(vorticity)
        return jnp.moveaxis(velocity[..., ::apart, ::apart], 0, -1)


class Motion(Pytree):
    r"""A symmetry of the flow: what it makes of a solution is one.

    Any translation along x, and along y by waves of the force; reflection of an axis, which changes the sign of the
    vorticity, so that the force has to be moved by half a wave.

    Args:
        at_y: where each row comes from.
        at_x: where each column comes from.
        along_y: sign of v.
        along_x: sign of u.

    Source: Chandler and Kerswell (2013), section 2.1.
    """

    at_y: Int[Array, " n"]
    at_x: Int[Array, " n"]
    along_y: Float[Array, ""]
    along_x: Float[Array, ""]

    @classmethod
    def drawn(cls, key: jax.Array, size: int, dtype: Any = float) -> Self:
        """Return one of all symmetries at random, for fields of a number of points along each axis."""
        keys = jax.random.split(key, 4)
        shift_x = jax.random.randint(keys[0], (), 0, size)
        shift_y = size // WAVES * jax.random.randint(keys[1], (), 0, WAVES)
        sign_x, sign_y = (1 - 2 * jax.random.bernoulli(k).astype(int) for k in keys[2:])
        half = jnp.where(sign_x != sign_y, size // (2 * WAVES), 0)
        place = jnp.arange(size)
        return cls(
            (sign_y * place + shift_y + half) % size, (sign_x * place + shift_x) % size, sign_y.astype(dtype),
            sign_x.astype(dtype),
        )  # fmt: skip

    def vorticity(self, field: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
        """Return what becomes of a vorticity."""
        return self.along_y * self.along_x * self._moved(field, self.at_y, self.at_x)

    def sensed(self, velocity: Float[Array, "2 ... n n"]) -> Float[Array, "... 4 4 2"]:
        """Return what sensors see of what becomes of a flow, from its velocity at all points."""
        apart = velocity.shape[-1] // SITES
        u, v = self._moved(velocity, self.at_y[::apart], self.at_x[::apart])
        return jnp.stack([self.along_x * u, self.along_y * v], axis=-1)

    def _moved(self, field: Array, at_y: Array, at_x: Array) -> Array:
        return jnp.take(jnp.take(field, at_y, axis=-2), at_x, axis=-1)
