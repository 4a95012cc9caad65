"""What the twin experiments on Lorenz-96 have in common: settings, truth, and how its end is told."""

from __future__ import annotations

from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

from diffassim.experiments.framework.base import Configuration
from diffassim.experiments.framework.twin import Draw, on_attractor, random_stream
from diffassim.models import Lorenz96

__all__ = ["Lorenz96Setting", "sound_length"]

SPIN_UP = 1000  # model steps onto the attractor


class Lorenz96Setting(Configuration):
    """Settings of a twin experiment on Lorenz-96; times are in model steps.

    Args:
        n: number of state variables.
        forcing: F of the truth.
        model_forcing: F of the assimilating model; equal to `forcing` in a perfect-model twin.
        dt: time step in model time units.
        observation_interval: steps between observation times.
        observed_fraction: part of the variables observed at each time, drawn anew each time.
        observation_std: standard deviation of the observation errors.
        cycles: number of cycles.
        discarded_cycles: first cycles that do not count in the scores.
    """

    n: Annotated[int, Field(ge=4)] = 40
    forcing: float = 8.0
    model_forcing: float = 8.0
    dt: Annotated[float, Field(gt=0, le=0.1)] = 0.05
    observation_interval: Annotated[int, Field(ge=1)] = 1
    observed_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    observation_std: Annotated[float, Field(gt=0)] = 1.0
    cycles: Annotated[int, Field(ge=1)] = 100
    discarded_cycles: Annotated[int, Field(ge=0)] = 20

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.discarded_cycles >= self.cycles:
            raise ValueError(
                f"discarded_cycles: {self.discarded_cycles} leaves nothing of {self.cycles} cycles to score"
            )
        return self

    @property
    def truth_model(self) -> Lorenz96:
        """The model that makes the truth."""
        return Lorenz96(self.forcing, self.dt)

    @property
    def model(self) -> Lorenz96:
        """The model that assimilates."""
        return Lorenz96(self.model_forcing, self.dt)

    def starts(self) -> tuple[Any, Any]:
        """Return a truth on the attractor, and a first background one observation error away from it."""
        rest = jnp.full(self.n, self.forcing, self.dtype)
        first, second = jax.random.split(random_stream(self.seed, Draw.TRUTH))
        truth = on_attractor(self.truth_model, rest + jax.random.normal(first, rest.shape, rest.dtype), SPIN_UP)
        return truth, truth + self.observation_std * jax.random.normal(second, rest.shape, rest.dtype)

    def bytes_of(self, numbers: float) -> float:
        """Return the memory of so many numbers."""
        return numbers * np.dtype(self.dtype).itemsize


def sound_length(fields: Any, count: int) -> int:
    """Return how many of the first times (of `count`, equally long) are finite in all fields."""
    finite = np.ones(count, bool)
    for field in fields:
        finite &= np.isfinite(np.asarray(field)).reshape(count, -1).all(axis=1)
    return count if finite.all() else int(np.argmin(finite))
