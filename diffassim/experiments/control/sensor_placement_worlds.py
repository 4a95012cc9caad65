"""Ensembles that know their errors, candidates, and truths to try sensors on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
CARRIED = 16  # steps of the plume
INTERVAL = 4  # steps of Lorenz-96 between analyses
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
    """Return a tracer in a steady wind, which is uncertain around a place that nobody chose."""
    model, drawn = _plumes(key, members + truths, np.dtype(dtype))
    side = int(np.ceil(candidates**0.5))
    nodes = np.round(np.arange(side) * SIDE / side).astype(int)
    places = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)[:candidates]
    apart = np.abs(places[:, None] - places[None])
    distance = np.sqrt((np.minimum(apart, SIDE - apart) ** 2).sum(-1))
    return World(model, drawn[:members], drawn[members:], places @ np.array([SIDE, 1]), distance, 0.5, 4)


@partial(jax.jit, static_argnums=(1, 2))
def _plumes(key: Any, count: int, dtype: Any) -> tuple[Any, Any]:
    """Return a model, and states of it: smooth noise, stronger around a place, that the wind has carried."""
    wind, place, noise = jax.random.split(key, 3)
    speed = jax.random.uniform(wind, (2,), dtype, -0.35, 0.35)
    model = FlatField(AdvectionDiffusion((speed[0], speed[1]), 0.05, grid=Grid(periodic=(True, True)), dt=0.5, order=1))
    away = jnp.arange(SIDE, dtype=dtype)[None] - SIDE * jax.random.uniform(place, (2, 1), dtype)
    near = jnp.exp(-jnp.square(jnp.mod(away + SIDE / 2, SIDE) - SIDE / 2) / 18)
    spread = 0.2 + 2 * near[0][:, None] * near[1][None]
    waves = jnp.fft.fftfreq(SIDE).astype(dtype)[:, None], jnp.fft.rfftfreq(SIDE).astype(dtype)[None]
    smooth = jnp.exp(-20 * (jnp.square(waves[0]) + jnp.square(waves[1])))

    def one(key: Any) -> Any:
        white = jnp.fft.rfft2(jax.random.normal(key, (SIDE, SIDE), dtype))
        field = jnp.fft.irfft2(smooth.astype(white.dtype) * white, (SIDE, SIDE))
        return (spread * field).reshape(-1)

    fields = jax.vmap(one)(jax.random.split(noise, count))
    fields = fields * (jnp.mean(spread) / jnp.std(fields))
    carried = jax.vmap(lambda x: rollout(model, x, CARRIED, at=jnp.array([CARRIED]))[0])(fields)
    return model, carried


def _lorenz96(key: Any, members: int, truths: int, candidates: int, dtype: Any) -> World:
    """Return Lorenz-96 after analyses of every fourth point, so that its uncertainty is of the day."""
    drawn = _forecasts(key, members + truths, np.dtype(dtype))
    places = np.round(np.arange(candidates) * POINTS / candidates).astype(int)
    apart = np.abs(places[:, None] - places[None])
    distance = np.minimum(apart, POINTS - apart).astype(float)
    return World(Lorenz96(), drawn[:members], drawn[members:], places, distance, 0.5, INTERVAL)


@partial(jax.jit, static_argnums=(1, 2))
def _forecasts(key: Any, count: int, dtype: Any) -> Any:
    """Return forecasts from the last of many analyses, in an order of chance."""
    first, own, noise = jax.random.split(key, 3)
    model, start = Lorenz96(), 8 + jax.random.normal(first, (POINTS,), dtype)
    at = SPIN_UP + INTERVAL * np.arange(CYCLES + 1)
    path = rollout(model, start, int(at[-1]), at=jnp.asarray(at))
    y = observe(noise, path[1:], INTERVAL * np.arange(1, CYCLES + 1), 1.0, operator=Subsample(4))
    prior = path[:1] + jax.random.normal(own, (count, POINTS), dtype)
    found, _ = cycle(ETKF(inflation=1.05), model, prior, y, key=own)
    ahead = jax.vmap(lambda x: rollout(model, x, INTERVAL, at=jnp.array([INTERVAL]))[0])(found)
    return ahead[jax.random.permutation(first, count)]  # those of a filter without rotation have an order


WORLDS: dict[str, Callable[..., World]] = {"plume": _plume, "lorenz96": _lorenz96}
