"""Truth and observations of the two-scale model of Lorenz (1996), for the learned correction."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.covariances import Diagonal
from diffassim.cycling import split_windows
from diffassim.experiments.framework.twin import on_attractor
from diffassim.models import Lorenz96, TwoScaleLorenz96, TwoScaleState, rollout
from diffassim.observations import Observations

__all__ = [
    "N_FAST",
    "N_SLOW",
    "RATIO",
    "Record",
    "full_model",
    "make_record",
    "observe",
    "random_truth",
    "slow_part",
    "subgrid_tendency",
    "truncated_model",
    "windows_of",
]

N_SLOW, N_FAST = 36, 10
RATIO = 2  # steps of the full model in one of the truncated model
SPIN_UP = 2000  # steps of the full model onto the attractor


class Record(NamedTuple):
    """Truth at the observation times (first: before all observations) and observed values, NaN where there are none.

    Axes: (member, time, ...), one row more for the truth. Members are independent experiments.
    """

    truth: TwoScaleState
    values: Any


def full_model(config: Any) -> TwoScaleLorenz96:
    """Return the model that makes the truth."""
    return TwoScaleLorenz96(forcing=config.forcing, dt=config.dt / RATIO)


def truncated_model(config: Any) -> Lorenz96:
    """Return the model that knows the slow variables only."""
    return Lorenz96(forcing=config.forcing, dt=config.dt)


def slow_part(x: Any) -> Any:
    """Return the slow variables of a state of either model."""
    return x.slow if isinstance(x, TwoScaleState) else x


def subgrid_tendency(config: Any, truth: TwoScaleState) -> Any:
    """Return what the fast variables add to the tendency of the slow ones: -(h c / b) sum_j Y_j."""
    model = full_model(config)
    return -model.coupling * model.time_scale / model.space_scale * jnp.sum(truth.fast, axis=-1)


def random_truth(config: Any, key: jax.Array) -> TwoScaleState:
    """Return one state on the attractor for each member."""
    slow, fast = jax.random.split(key)
    shape = (config.members, N_SLOW)
    state = TwoScaleState(
        2.5 + 4 * jax.random.normal(slow, shape, config.dtype),
        0.1 * jax.random.normal(fast, (*shape, N_FAST), config.dtype),
    )
    return jax.vmap(lambda x: on_attractor(full_model(config), x, SPIN_UP))(state)


@partial(jax.jit, static_argnums=2)
def truth_rows(model: TwoScaleLorenz96, x: TwoScaleState, steps: int, rows: Any) -> TwoScaleState:
    """Return rows of the full model's run from each member's state."""
    return jax.vmap(lambda x: rollout(model, x, steps, at=rows))(x)


def observe(config: Any, truth: Any, key: jax.Array) -> Any:
    """Return noisy values of the observed slow variables, NaN elsewhere; shape of `truth`, (..., n)."""
    observed = np.zeros(N_SLOW, bool)
    observed[np.arange(config.observed) * N_SLOW // config.observed] = True
    noise = config.observation_std * jax.random.normal(key, truth.shape, truth.dtype)
    return jnp.where(observed, truth + noise, jnp.nan)


def make_record(config: Any, truth: TwoScaleState, windows: int, key: jax.Array) -> Record:
    """Run the full model from `truth` over so many windows and observe it."""
    every, steps = RATIO * config.observation_interval, RATIO * config.window * windows
    rows = truth_rows(full_model(config), truth, steps, jnp.arange(0, steps + 1, every))
    return Record(rows, observe(config, rows.slow[:, 1:], key))


def windows_of(config: Any, values: Any, full: bool) -> Any:
    """Return observations cut into windows, with leading axes (member, window).

    Args:
        config: configuration.
        values: observed values, shape (member, time, n).
        full: whether the steps are those of the full model, and its state is observed.
    """
    factor = RATIO if full else 1
    times = values.shape[1]
    steps = factor * config.observation_interval * np.arange(1, times + 1)
    count = times * config.observation_interval // config.window
    error = Diagonal(std=config.observation_std)

    def cut(values: Any) -> Any:
        observations = Observations(values, steps, operator=slow_part, error=error)
        return split_windows(observations, factor * config.window, count)

    return jax.vmap(cut)(values)
