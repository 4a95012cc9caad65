"""A truth whose parameter drifts, as rows of a table."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from diffassim.covariances import Diagonal
from diffassim.experiments.framework.twin import Draw, observe, on_attractor, random_stream, states_at
from diffassim.models import Lorenz96, Model
from diffassim.models.base import Variable

__all__ = ["DriftingTruth", "twin_rows"]

SPIN_UP = 500  # steps


class DriftingTruth(Model):
    r"""Lorenz-96 with a forcing that drifts, and a damping that no model here knows.

    .. math:: \dot x_i = (x_{i+1} - x_{i-2})\,x_{i-1} - x_i + F_0 + \dot F\, t - c\,x_i^3

    Args:
        forcing: F at step 0.
        drift: change of F with every step.
        damping: c.
        dt: time step.

    Example:
        >>> DriftingTruth(forcing=8.0, damping=0.0).step(jnp.full(5, 8.0), 0).tolist()
        [8.0, 8.0, 8.0, 8.0, 8.0]
    """

    forcing: Any = 8.0
    drift: Any = 0.0
    damping: Any = 0.0
    dt: Any = 0.05

    def step(self, x: Any, t: Any) -> Any:
        """Advance by dt."""
        forcing = self.forcing + self.drift * jnp.asarray(t, x.dtype)
        following = Lorenz96(forcing=forcing, dt=self.dt).step(x, t)
        return following - self.dt * self.damping * x**3

    def variables(self) -> Variable:
        """Return those of Lorenz-96."""
        return Lorenz96().variables()


def twin_rows(config: Any, interval: int, start: str) -> pd.DataFrame:
    """Return noisy observations of all sites, one row for each 12 hours.

    Args:
        config: of the twin, see `TwinLoopConfiguration`.
        interval: model steps from row to row.
        start: first time.
    """
    months = config.first_months + (config.rounds - 1) * config.period_months
    begin = pd.Timestamp(start)
    times = pd.date_range(begin, begin + pd.DateOffset(months=months), freq="12h", inclusive="left")
    per_row = config.drift / 730.5  # of a year of rows
    truth = DriftingTruth(config.forcing, per_row / interval, config.damping)
    still = truth.replace(drift=0.0)
    x = config.forcing + Diagonal(std=1.0).sample(random_stream(config.seed, Draw.TRUTH), np.zeros(config.sites))
    x = on_attractor(still, x.astype(config.dtype), SPIN_UP)
    states = states_at(truth, x, interval * np.arange(1, len(times) + 1))
    parts = []
    for first in range(0, len(times), 256):  # the noise of a row does not depend on how many there are
        key = random_stream(config.seed, Draw.OBSERVATIONS, first)
        part = observe(key, np.pad(states, ((0, 256), (0, 0)))[first : first + 256], np.arange(256), config.std)
        parts.append(np.asarray(part.values))
    values = np.concatenate(parts)[: len(times)]
    names = [f"x{k:02d}" for k in range(config.sites)]
    return pd.DataFrame(values, index=pd.DatetimeIndex(times, name="time"), columns=names)
