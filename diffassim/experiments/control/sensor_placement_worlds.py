"""Ensembles that know their errors, candidates, and truths to try sensors on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.cycling import cycle
from diffassim.ensemble import ETKF
from diffassim.experiments.framework.twin import observe
from diffassim.grids.grid import Grid
from diffassim.models import Lorenz96, Model, rollout
from diffassim.models.advection_diffusion import AdvectionDiffusion
from diffassim.observations import Subsample

__all__ = ["WORLDS", "World"]

SIDE = 16  # points of the tracer's grid along each axis
POINTS = 40  # of Lorenz-96
SPIN_UP, CYCLES = 500, 40  # steps of the truth, and analyses before sensors are placed


class World(NamedTuple):
    """What is known before sensors are placed.

    Attributes:
        model: whose state is a vector.
        members: ensemble, shape (members, n).
        truths: states that the ensemble cannot be told from, shape (truths, n).
        candidates: components of the state that may be observed, shape (candidates,).
        distance: between them, shape (candidates, candidates).
        std: of the observation errors.
        interval: model steps of a unit of the forecast lead.
    """

    model: Any
    members: Any
    truths: Any
    candidates: np.ndarray
    distance: np.ndarray
    std: float
    interval: int


class FlatField(Model):
    """A model of fields whose state is a vector.

    Args:
        model: of fields of `SIDE` by `SIDE` points.
    """

    model: Any

    @property
    def dt(self) -> Any:
        """Time step of the model."""
        return self.model.dt

    def step(self, x: Any, t: Any) -> Any:
        """Advance by one step."""
        return self.model.step(x.reshape(SIDE, SIDE), t).reshape(-1)


def _plume(key: Any, members: int, truths: int, candidates: int, dtype: Any) -> World:
    """Return a tracer in a steady wind, whose emissions are uncertain around a place that nobody chose."""
    wind, place, noise = jax.random.split(key, 3)
    speed = jax.random.uniform(wind, (2,), dtype, -0.3, 0.3)
    model = FlatField(AdvectionDiffusion((speed[0], speed[1]), 0.05, grid=Grid(periodic=(True, True)), order=1))
    axis = jnp.arange(SIDE, dtype=dtype)
    away = jnp.mod(axis[None] - SIDE * jax.random.uniform(place, (2, 1), dtype) + SIDE / 2, SIDE) - SIDE / 2
    spread = 0.2 + 2 * jnp.exp(-jnp.square(away[0])[:, None] / 18 - jnp.square(away[1])[None] / 18)
    wave = jnp.fft.fftfreq(SIDE).astype(dtype), jnp.fft.rfftfreq(SIDE).astype(dtype)
    smooth = jnp.exp(-20 * (jnp.square(wave[0])[:, None] + jnp.square(wave[1])[None]))
    complex_dtype = jnp.fft.rfft2(jnp.zeros((SIDE, SIDE), dtype)).dtype
    smooth = smooth / jnp.sqrt(jnp.mean(jnp.square(jnp.fft.irfft2(smooth, (SIDE, SIDE)) * SIDE)))

    def one(key: Any) -> Any:
        white = jax.random.normal(key, (SIDE, SIDE), dtype)
        field = jnp.fft.irfft2(smooth.astype(complex_dtype) * jnp.fft.rfft2(white), (SIDE, SIDE))
        return rollout(model, (spread * field).reshape(-1), 8, at=jnp.array([8]))[0]

    drawn = jax.vmap(one)(jax.random.split(noise, members + truths))
    side = int(np.ceil(candidates**0.5))
    nodes = np.round(np.arange(side) * SIDE / side).astype(int)
    places = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)[:candidates]
    apart = np.abs(places[:, None] - places[None])
    distance = np.sqrt((np.minimum(apart, SIDE - apart) ** 2).sum(-1))
    return World(model, drawn[:members], drawn[members:], places @ np.array([SIDE, 1]), distance, 0.5, 1)


def _lorenz96(key: Any, members: int, truths: int, candidates: int, dtype: Any) -> World:
    """Return Lorenz-96 after analyses of every fourth point, so that its uncertainty is of the day."""
    first, own, noise = jax.random.split(key, 3)
    model, interval = Lorenz96(), 4
    start = 8 + jax.random.normal(first, (POINTS,), dtype)
    at = SPIN_UP + interval * jnp.arange(CYCLES + 1)
    path = rollout(model, start, SPIN_UP + interval * CYCLES, at=at)
    y = observe(noise, path[1:], interval * np.arange(1, CYCLES + 1), 1.0, operator=Subsample(4))
    prior = path[:1] + jax.random.normal(own, (members + truths, POINTS), dtype)
    found, _ = cycle(ETKF(inflation=1.05), model, prior, y, key=own)
    before = jax.vmap(lambda x: rollout(model, x, interval, at=jnp.array([interval]))[0])(found)
    order = jax.random.permutation(first, members + truths)  # those of a filter without rotation have an order
    places = np.round(np.arange(candidates) * POINTS / candidates).astype(int)
    apart = np.abs(places[:, None] - places[None])
    distance = np.minimum(apart, POINTS - apart).astype(float)
    drawn = before[order]
    return World(model, drawn[:members], drawn[members:], places, distance, 0.5, interval)


WORLDS: dict[str, Callable[..., World]] = {"plume": _plume, "lorenz96": _lorenz96}
