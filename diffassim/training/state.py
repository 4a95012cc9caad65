"""All that a training needs in order to go on, as one pytree."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from diffassim.core.partition import Rest, differentiable, partition
from diffassim.core.pytree import Pytree, static

__all__ = ["TrainingState"]


class TrainingState(Pytree):
    """What a training knows after some updates; `fit` goes on from it as if it had never stopped.

    Args:
        trainable: the arrays of the pytree that is trained.
        memory: state of the optimizer.
        step: number of updates made.
        key: random key of the whole training; update k draws from it folded with k.
        best: the trainable with the lowest validation loss so far (the start before the first validation).
        best_loss: that loss.
        stale: validations since then.
        stage: number of the current stage of a curriculum.
        carry: what the loss hands on from update to update, or None.
        rest: what of that pytree is no array (functions and flags in modules of Equinox), or None.
        position: where the iterator of the data stands, as JSON, if it can tell (those of grain can); or None.

    Example:
        >>> state = TrainingState.create(jnp.zeros(3), optax.adam(0.1), jax.random.key(0))
        >>> int(state.step), float(state.best_loss)
        (0, inf)
    """

    trainable: Any
    memory: Any
    step: Int[Array, ""]
    key: Any
    best: Any
    best_loss: Float[Array, ""]
    stale: Int[Array, ""]
    stage: Int[Array, ""]
    carry: Any = None
    position: str | None = static(default=None)
    rest: Rest | None = static(default=None)

    @classmethod
    def create(
        cls, trainable: Any, optimizer: optax.GradientTransformation, key: jax.Array, carry: Any = None
    ) -> TrainingState:
        """Return the state before the first update.

        Args:
            trainable: pytree of arrays; those of floating-point numbers are trained.
            optimizer: optax transformation.
            key: random key.
            carry: what the loss gets in the first update, or None.
        """
        trainable, rest = partition("the trainable", trainable)
        # Copies: weakly typed numbers would change their type in the first update.
        trainable, carry = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype), (trainable, carry))
        none = jnp.zeros((), jnp.int32)
        infinite = jnp.asarray(jnp.inf, jnp.result_type(float))
        memory = optimizer.init(differentiable(trainable)[0])
        return cls(trainable, memory, none, key, trainable, infinite, none, none, carry, rest=rest)
