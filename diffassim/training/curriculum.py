"""Curricula: stages of a training that differ in numbers and run in one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.training.fit import Fit, fit

__all__ = ["Stage", "fit_stages"]


class Stage(NamedTuple):
    """A stage of a curriculum.

    Attributes:
        steps: updates in it.
        carry: pytree that the loss gets: a horizon, a lead, the share of the observations that it may see.
    """

    steps: int
    carry: Any


def fit_stages(
    loss: Callable[..., Any], trainable: Any, data: Any, stages: Sequence[Stage], *, state: Any = None, **options: Any
) -> Fit:
    """Train through the stages of a curriculum, one after the other.

    The settings of a stage are run-time numbers: a window has the length of the longest stage, and `horizon` says how
    much of it counts; all observations are there, and a random number below the stage's share says which are seen. So
    all stages are one compiled program. A training that stopped goes on in its stage.

    Args:
        loss: (trainable, batch, key, carry) -> (scalar, metrics, carry); see `fit`.
        trainable: see `fit`.
        data: see `fit`.
        stages: the stages.
        state: where to go on, or None.
        options: what else `fit` takes, but for `steps` and `carry`.

    Returns:
        `Fit` with the account of all stages of this call; the trained pytree is that of the last one.

    Raises:
        ConfigurationError: if there is no stage, or one has no updates.
        ShapeError: if the settings of the stages differ in structure, shape or type: that would compile anew.

    Example:
        >>> import optax
        >>> def loss(w, x, key, horizon):
        ...     seen = jnp.arange(x.shape[1]) < horizon
        ...     return jnp.mean(jnp.where(seen, (w - x) ** 2, 0)), {"horizon": horizon}, horizon
        >>> found = fit_stages(loss, jnp.zeros(()), jnp.ones((8, 5)), [Stage(2, 1), Stage(2, 5)],
        ...     optimizer=optax.sgd(0.5), batch_size=8, key=jax.random.key(0))
        >>> found.metrics["horizon"].tolist()
        [1, 1, 5, 5]
    """
    if not stages or any(stage.steps < 1 for stage in stages):
        raise ConfigurationError("fit_stages: give at least one stage, each with at least one update")
    settings = [jax.tree.map(jnp.asarray, stage.carry) for stage in stages]
    for k, carry in enumerate(settings):
        kinds = [jax.tree.map(lambda leaf: leaf.dtype, each) for each in (carry, settings[0])]
        if not tree.same_shapes(carry, settings[0]) or kinds[0] != kinds[1]:
            raise ShapeError(
                f"fit_stages: the settings of stage {k} have the shapes {tree.describe_shapes(carry)} and types "
                f"{kinds[0]}, those of stage 0 {tree.describe_shapes(settings[0])} and {kinds[1]}: it would be "
                "compiled anew. Give what changes as numbers of one shape (a mask, a horizon)"
            )
    ends = np.cumsum([stage.steps for stage in stages])
    found = []
    for k, (carry, end) in enumerate(zip(settings, ends, strict=True)):
        if state is not None and int(state.step) >= end:
            continue
        if state is None:
            found.append(fit(loss, trainable, data, steps=int(end), carry=carry, **options))
            options.pop("key", None)
        else:
            if int(state.stage) != k:  # a stage that was begun keeps what its loss has handed on
                state = state.replace(carry=carry, stage=jnp.asarray(k, state.stage.dtype), stale=state.stale * 0)
            found.append(fit(loss, None, data, steps=int(end), state=state, **options))
        state = found[-1].state
    if not found:
        return fit(loss, None, data, steps=int(ends[-1]), state=state, **options)
    parts = [(f.losses, f.gradient_norms, f.metrics, f.validation) for f in found]
    losses, norms, metrics, validation = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return Fit(found[-1].trained, losses, norms, metrics, validation, found[-1].state)
