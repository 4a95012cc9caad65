"""Distillation: a small student learns from what a large teacher, or an ensemble of teachers, returns."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static

__all__ = ["Distillation"]


class Distillation(Pytree):
    r"""Loss of a student that imitates a teacher, mixed with the loss on targets where there are any.

    .. math:: L(\theta) = w\, \langle |S_\theta(x) - T(x)|^2 \rangle + (1 - w)\, \langle |S_\theta(x) - y|^2 \rangle

    The teacher says more than noisy targets do: it is what an average over many of them would be. Its inputs need no
    targets, so that any number of them may be made. It has no gradient. It is evaluated in the loss, for samples that
    are new in every update; for samples that come again, `taught` evaluates it once.

    Args:
        teacher: callable pytree, sample -> output; with `ensemble` the outputs have a leading member axis and their
            mean is imitated. None: its outputs come with the samples.
        weight: w, between 0 and 1; 1 needs no targets.
        ensemble: whether the teacher returns members (static).

    Raises:
        ConfigurationError: if the weight lies outside [0, 1].
        ShapeError: (when called) if student and teacher return other shapes.

    Example:
        >>> loss = Distillation(lambda x: 2 * x)
        >>> student = jax.tree_util.Partial(jnp.multiply, jnp.array(1.0))
        >>> float(jax.grad(loss)(student, jnp.ones(4)).args[0])
        -2.0
        >>> float(Distillation(None)(student, loss.taught(jnp.ones(4))))
        1.0

    Source: Hinton, Vinyals and Dean (2015), section 2, for square errors.
    """

    teacher: Any
    weight: Any = 1.0
    ensemble: bool = static(default=False)

    def __post_init__(self) -> None:
        if isinstance(self.weight, int | float) and not 0 <= self.weight <= 1:
            raise ConfigurationError(f"Distillation: weight={self.weight} must lie between 0 and 1")

    def __call__(self, student: Any, batch: Any, key: Any = None) -> Any:
        """Return the loss.

        Args:
            student: callable pytree, sample -> output.
            batch: samples with a leading axis; with a weight below 1 a tuple of them and their targets. Without a
                teacher its outputs are the second part, and the targets the third.
            key: not used.
        """
        only = isinstance(self.weight, int | float) and self.weight == 1
        if self.teacher is None:
            samples, shown, *more = batch
            targets = more[0] if more else None
        else:
            samples, targets = (batch, None) if only else batch
            shown = jax.vmap(self._shown)(samples)
        shown = stop_gradient(shown)
        found = jax.vmap(student)(samples)
        if not tree.same_shapes(found, shown):
            raise ShapeError(
                f"Distillation: the student returns {tree.describe_shapes(found)}, the teacher "
                f"{tree.describe_shapes(shown)}"
            )
        imitation = _mean_square(tree.subtract(found, shown))
        return (
            imitation
            if only
            else self.weight * imitation + (1 - self.weight) * _mean_square(tree.subtract(found, targets))
        )

    def taught(self, batch: Any, batch_size: int = 256) -> Any:
        """Return samples with what the teacher says of them: data for `Distillation(None, weight)`.

        Args:
            batch: as for the loss.
            batch_size: number of samples that the teacher sees at a time.
        """
        only = isinstance(self.weight, int | float) and self.weight == 1
        samples, *targets = (batch,) if only else batch
        return samples, jax.lax.map(self._shown, samples, batch_size=batch_size), *targets

    def _shown(self, sample: Any) -> Any:
        shown = self.teacher(sample)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), shown) if self.ensemble else shown


def _mean_square(x: Any) -> Any:
    return tree.squared_norm(x) / tree.size(x)
