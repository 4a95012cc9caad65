"""Runs of Lorenz-96 on its attractor, which several rows of the benchmark learn from and are tested on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.experiments.framework.twin import states_at
from diffassim.models import Lorenz96

__all__ = ["CENTER", "SPREAD", "N", "model", "runs"]

N = 40
CENTER, SPREAD = 2.34, 3.64  # climate of every variable, F = 8


def model(dt: float, dtype: Any = float, forcing: float = 8.0) -> Lorenz96:
    """Return the model in a precision."""
    return Lorenz96(forcing=jnp.asarray(forcing, dtype), dt=dt)


def runs(key: jax.Array, count: int, at: Any, dt: float, dtype: Any = float, forcing: float = 8.0) -> Any:
    """Return states of independent runs.

    Args:
        key: random key.
        count: number of runs.
        at: increasing step numbers, the first of them after a spin-up.
        dt: length of a step.
        dtype: precision.
        forcing: F.

    Returns:
        Shape (run, step, variable).

    Example:
        >>> runs(jax.random.key(0), 2, [100, 101], 0.05).shape
        (2, 2, 40)
    """
    starts = 8 + jax.random.normal(key, (count, N), dtype)
    return jax.vmap(lambda x: states_at(model(dt, dtype, forcing), x, at))(starts)
