"""The problems that are timed: windows of the model of Lorenz (1996) with everything observed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import diffassim as da

__all__ = ["DT", "EVERY", "load_window", "lorenz96_arrays", "lorenz96_cost", "lorenz96_window"]

DT = 0.01
EVERY = 5  # steps between observation times


def lorenz96_arrays(times: int, seed: int, n: int = 40, every: int = EVERY, dt: float = DT) -> dict[str, Any]:
    """Draw a window: truth on the attractor, observations of everything every few steps, and R = B = I.

    Args:
        times: number of observation times; the first is the window start.
        seed: of the random numbers.
        n: number of variables.
        every: model steps between observation times.
        dt: time step.

    Returns:
        NumPy arrays `x_true` and `x_background` (n,), `observations` (times, n), `observation_steps` (times,).
    """
    rng = np.random.default_rng(seed)
    model = da.models.Lorenz96(dt=dt)
    spun_up = da.rollout(model, jnp.asarray(rng.normal(size=n) + 2.0), 2000, at=[2000])[0]
    steps = every * np.arange(times)
    truth = np.asarray(da.rollout(model, spun_up, int(steps[-1]), at=steps))
    observations = truth + rng.normal(size=truth.shape)
    background = truth[0] + rng.normal(size=n)
    return {
        "x_true": truth[0],
        "x_background": background,
        "observations": observations,
        "observation_steps": steps,
    }


def lorenz96_cost(arrays: dict[str, Any], dt: float = DT) -> da.StrongConstraint4DVar:
    """Return the strong-constraint cost of a drawn or loaded window."""
    identity = da.covariances.Diagonal(std=1.0)
    obs = da.Observations(arrays["observations"], arrays["observation_steps"], error=identity)
    return da.StrongConstraint4DVar(da.models.Lorenz96(dt=dt), arrays["x_background"], identity, obs)


def lorenz96_window(times: int, seed: int, **options: Any) -> tuple[da.StrongConstraint4DVar, Any]:
    """Return the cost of a drawn window, and its true initial state; options as in `lorenz96_arrays`."""
    arrays = lorenz96_arrays(times, seed, **options)
    return lorenz96_cost(arrays, options.get("dt", DT)), arrays["x_true"]


def load_window(problem: Path | None, times: int, seed: int) -> dict[str, Any]:
    """Return the arrays of a stored window (keys as in `lorenz96_arrays`), or draw one where no file is given."""
    if problem is None:
        return lorenz96_arrays(times, seed)
    with np.load(problem) as stored:
        return dict(stored)
