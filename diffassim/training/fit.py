"""Minimize a loss over minibatches with optax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from diffassim.core import tree
from diffassim.core.errors import AssimilationError, ConfigurationError

__all__ = ["Fit", "TrainingError", "fit"]


class TrainingError(AssimilationError):
    """The loss or its gradient stopped being finite; `fit` holds the last sound trainable and the history."""

    def __init__(self, message: str, fit: Fit) -> None:
        super().__init__(message)
        self.fit = fit


class Fit(NamedTuple):
    """Trained pytree, loss of every step, and gradient norm of every step."""

    trained: Any
    losses: np.ndarray
    gradient_norms: np.ndarray


def fit(
    loss: Callable[[Any, Any], Any],
    trainable: Any,
    data: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    key: jax.Array,
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Train a pytree on random minibatches.

    One compiled step draws a batch, evaluates loss and gradient (through whatever the loss contains: forecasts,
    minimizations, whole assimilation cycles) and updates. Another call with the same loss and optimizer objects, and
    data of the same shapes, uses the compiled step again.

    Args:
        loss: (trainable, batch) -> scalar.
        trainable: pytree of floating-point arrays, for example a `Network` or its weights.
        data: pytree of arrays with a leading sample axis.
        optimizer: optax transformation.
        steps: number of updates.
        batch_size: samples in each batch, drawn without replacement.
        key: random key.
        progress: called as progress(step, loss) after each update.

    Returns:
        `Fit`.

    Raises:
        ConfigurationError: if `batch_size` exceeds the number of samples.
        TrainingError: if loss or gradient is not finite; what was learned until then is kept in it.

    Example:
        >>> found = fit(lambda w, x: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.full(8, 3.0),
        ...     optimizer=optax.sgd(0.5), steps=3, batch_size=4, key=jax.random.key(0))
        >>> float(found.trained)
        3.0
    """
    samples = jax.tree.leaves(data)[0].shape[0]
    if not 1 <= batch_size <= samples:
        raise ConfigurationError(f"fit: batch_size={batch_size} must lie between 1 and the {samples} samples")

    memory = optimizer.init(trainable)
    losses, norms = [], []
    for step in range(steps):
        following, memory, value, norm = _update(
            loss, optimizer, batch_size, trainable, memory, jax.random.fold_in(key, step), data
        )
        losses.append(float(value))
        norms.append(float(norm))
        if not (np.isfinite(losses[-1]) and np.isfinite(norms[-1])):
            so_far = Fit(trainable, np.array(losses), np.array(norms))
            raise TrainingError(
                f"fit: at step {step} the loss is {losses[-1]} and the gradient norm {norms[-1]}. Lower the learning "
                "rate, clip the gradient, or check that the minimizations inside the loss converge.",
                so_far,
            )
        trainable = following
        if progress is not None:
            progress(step, losses[-1])
    return Fit(trainable, np.array(losses), np.array(norms))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _update(
    loss: Any, optimizer: Any, batch_size: int, trainable: Any, memory: Any, key: jax.Array, data: Any
) -> tuple[Any, Any, Any, Any]:
    samples = jax.tree.leaves(data)[0].shape[0]
    rows = jax.random.choice(key, samples, (batch_size,), replace=False)
    batch = jax.tree.map(lambda leaf: leaf[rows], data)
    value, gradient = jax.value_and_grad(loss)(trainable, batch)
    with jax.numpy_dtype_promotion("standard"):  # optax schedules multiply integers with floats
        updates, memory = optimizer.update(gradient, memory, trainable)
    return optax.apply_updates(trainable, updates), memory, value, tree.norm(gradient)
