"""Training that goes on while a system runs: small steps, quicker after a drift, and back if it gets worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.partition import compilable, differentiable, merged
from diffassim.core.pytree import Pytree, static
from diffassim.training.drift import DriftDetector

__all__ = ["OnlineState", "OnlineTraining"]


class OnlineState(Pytree):
    """What an online training knows.

    Args:
        current: the pytree that learns.
        anchor: the last one that has proved itself, to which it is rolled back.
        memory: state of the optimizer.
        current_score: running mean of the withheld loss of the one that learns.
        anchor_score: likewise of the anchor.
        total: sum of the drift detector.
        boost: factor of the step length.
        age: windows since the anchor was set.
        rollbacks: how often it was rolled back.
        alarms: how often a drift was found.
    """

    current: Any
    anchor: Any
    memory: Any
    current_score: Any
    anchor_score: Any
    total: Any
    boost: Any
    age: Any
    rollbacks: Any
    alarms: Any


class OnlineTraining(Pytree):
    r"""One gradient step for each window that comes, beside an anchor that is the last proven state.

    On every window the withheld observations score both, before either has learned from the window:

    .. math:: \bar L \leftarrow \lambda \bar L + (1 - \lambda) L(\theta; y_{\text{withheld}})

    After `trial` windows the one that learns becomes the anchor if its mean score is lower. If its score rises above
    the anchor's by more than the tolerance at any time, it is rolled back to the anchor, with an empty optimizer. A
    window whose withheld loss is not finite even for the anchor (nothing was withheld) tells nothing. A drift, found in
    innovations with a known rate of false alarms, lengthens the steps by `boost`, which then decays.

    It is the gradient form of adaptation. Two other forms need nothing from here: parameters or weights in the state
    of a filter (`models.WithParameters` with Q, any ensemble method), and in the control vector of cycled 4D-Var
    (`parameters={"network": ...}` of the cost).

    Args:
        loss: (trainable, sample, key) -> scalar; what is learned from.
        score: likewise, of the withheld observations; default: the loss.
        optimizer: optax transformation (static).
        detector: `DriftDetector`, or None.
        boost: factor of the step length after an alarm.
        decay: share of the boost that is left after a window.
        tolerance: relative excess over the anchor's score at which it is rolled back.
        forget: lambda, weight of the past in the mean scores.
        trial: windows after which the anchor may move (static).

    Raises:
        ConfigurationError: if a setting lies outside of its range.

    Example:
        >>> online = OnlineTraining(lambda w, y, key: (w - y) ** 2, optimizer=optax.sgd(0.1), trial=5)
        >>> state = online.init(jnp.zeros(()))
        >>> state, _ = online.run(state, jnp.full(60, 3.0), jnp.full(60, 3.0), jax.random.key(0))
        >>> round(float(state.current), 2), int(state.rollbacks)
        (3.0, 0)
    """

    loss: Callable[..., Any] = static()
    score: Callable[..., Any] | None = static(default=None)
    optimizer: Any = static(default=optax.sgd(1e-2))
    detector: Any = None
    boost: Any = 5.0
    decay: Any = 0.9
    tolerance: Any = 0.2
    forget: Any = 0.9
    trial: int = static(default=20)

    def __post_init__(self) -> None:
        if self.trial < 1:
            raise ConfigurationError(f"OnlineTraining: trial={self.trial} must be at least 1")
        for name, low, high in (("boost", 1, 1e6), ("decay", 0, 1), ("tolerance", 0, 1e6), ("forget", 0, 1)):
            value = getattr(self, name)
            if isinstance(value, int | float) and not low <= value <= high:
                raise ConfigurationError(f"OnlineTraining: {name}={value} must lie between {low} and {high}")
        if self.detector is not None and not isinstance(self.detector, DriftDetector):
            raise ConfigurationError("OnlineTraining: the detector must be a DriftDetector")

    def init(self, trainable: Any) -> OnlineState:
        """Return the state before the first window."""
        trainable = compilable("the trainable", trainable)
        trainable = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype), trainable)
        zero, none = jnp.zeros((), jnp.result_type(float)), jnp.zeros((), jnp.int32)
        unknown = jnp.full((), jnp.nan, zero.dtype)
        memory = self.optimizer.init(differentiable(trainable)[0])
        return OnlineState(trainable, trainable, memory, unknown, unknown, zero, zero + 1, none, none, none)

    def update(self, state: OnlineState, sample: Any, withheld: Any, key: Any, z: Any = jnp.nan) -> Any:
        """Learn from one window.

        Args:
            state: see `OnlineState`.
            sample: what is learned from.
            withheld: what scores, of the same window and not in the sample.
            key: random key.
            z: drift statistic of the window, see `innovation_statistic`.

        Returns:
            The state, and a dict with the withheld scores of both, and whether it was rolled back or alarmed.
        """
        score = self.loss if self.score is None else self.score
        fresh = score(state.current, withheld, key), score(state.anchor, withheld, key)
        means = self._averaged(state.current_score, fresh[0]), self._averaged(state.anchor_score, fresh[1])
        told = jnp.isfinite(fresh[1])  # a window that tells nothing even of the anchor has no values, or is not sound
        means = jax.tree.map(
            lambda mean, old: jnp.where(told, mean, old), means, (state.current_score, state.anchor_score)
        )
        worse = told & ~(means[0] <= means[1] * (1 + self.tolerance))  # or not finite
        proven = ~worse & (state.age >= self.trial) & (means[0] < means[1])
        total, alarm = state.total, jnp.asarray(False)
        if self.detector is not None:
            total, alarm = self.detector.update(state.total, jnp.asarray(z, state.total.dtype))
        boost = jnp.where(alarm, self.boost, 1 + (state.boost - 1) * self.decay).astype(state.boost.dtype)

        current, memory = tree.select(
            worse, (state.anchor, self.optimizer.init(differentiable(state.anchor)[0])), (state.current, state.memory)
        )
        anchor = tree.select(proven, current, state.anchor)
        current_score = jnp.where(worse, means[1], means[0])
        moving, still = differentiable(current)
        gradient = jax.grad(lambda moving: self.loss(merged(moving, still), sample, key))(moving)
        with jax.numpy_dtype_promotion("standard"):
            changes, following = self.optimizer.update(gradient, memory, moving)
            changes = jax.tree.map(lambda leaf: (boost * leaf).astype(leaf.dtype), changes)
        moved = merged(optax.apply_updates(moving, changes), still)
        sound = tree.all_finite(gradient)
        current, memory = tree.select(sound, (moved, following), (current, memory))
        fine = OnlineState(
            current, anchor, memory, current_score, jnp.where(proven, means[0], means[1]), total, boost,
            age=jnp.where(proven | worse, 0, state.age + 1),
            rollbacks=state.rollbacks + worse.astype(jnp.int32),
            alarms=state.alarms + alarm.astype(jnp.int32),
        )  # fmt: skip
        return fine, {"score": fresh[0], "anchor": fresh[1], "rolled_back": worse, "alarm": alarm}

    def run(self, state: OnlineState, samples: Any, withheld: Any, key: Any, z: Any = None) -> Any:
        """Learn from windows with a leading axis, one after the other; see `update`."""
        count = jax.tree.leaves(samples)[0].shape[0]
        z = jnp.full(count, jnp.nan, state.total.dtype) if z is None else z

        def step(state: OnlineState, item: Any) -> Any:
            return self.update(state, *item)

        return lax.scan(step, state, (samples, withheld, jax.random.split(key, count), z))

    def _averaged(self, mean: Any, new: Any) -> Any:
        return jnp.where(jnp.isnan(mean), new, self.forget * mean + (1 - self.forget) * new)
