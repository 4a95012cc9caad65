"""Twin experiments: a truth that a model makes itself, and noisy, partial observations of it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete
from diffassim.covariances import Diagonal
from diffassim.models import Model, rollout
from diffassim.observations import Identity, Observations

__all__ = ["LAWS", "Draw", "Perturbed", "observe", "on_attractor", "random_stream", "states_at"]


_EVERYTHING = Identity()

# Draws of unit variance, (key, shape, dtype). The methods are told the variance, not the law.
LAWS: dict[str, Callable[..., Any]] = {
    "normal": jax.random.normal,
    "laplace": lambda key, shape, dtype: jax.random.laplace(key, shape, dtype) / 2**0.5,
}


class Draw(enum.IntEnum):
    """What a random stream is for: the first number of `random_stream` in an experiment with one truth."""

    TRUTH = 1
    BACKGROUND = 2
    OBSERVATIONS = 3
    ANALYSIS = 4


class Perturbed(Model):
    r"""A model whose every step ends with a random error, \(x_{k+1} = M(x_k) + \eta_k,\ \eta_k \sim N(0, Q)\).

    It makes the truth that an imperfect model follows.

    Args:
        model: the model.
        Q: covariance of the error of a step.
        key: random key; the error of step t is drawn from the key folded with t.

    Example:
        >>> from diffassim.models import Lorenz63
        >>> noisy = Perturbed(Lorenz63(), Diagonal(std=0.1), jax.random.key(0))
        >>> x = jnp.asarray([1.0, 1.0, 1.0])
        >>> bool(0 < jnp.max(jnp.abs(noisy.step(x, 0) - Lorenz63().step(x, 0))) < 1)
        True
    """

    model: Any
    Q: Any
    key: Any

    @property
    def dt(self) -> Any:
        """Time step of the model."""
        return self.model.dt

    def step(self, x: Any, t: Any) -> Any:
        """Advance by one step, and add the error."""
        following = self.model.step(x, t)
        return tree.add(following, self.Q.sample(jax.random.fold_in(self.key, t), following))

    def variables(self) -> Any:
        """Return those of the model."""
        return self.model.variables()


def random_stream(seed: int, *numbers: int) -> jax.Array:
    """Return the random key of one purpose.

    Streams with other numbers or another seed share nothing; seed + 1 must not be the next purpose of the same seed.

    Args:
        seed: of the experiment, below 2^63 also where JAX computes in single precision.
        numbers: what the stream is for, and the number of the chunk, member or time.

    Example:
        >>> one, other = random_stream(0, Draw.TRUTH), random_stream(0, Draw.OBSERVATIONS, 5)
        >>> bool(jnp.any(jax.random.key_data(one) != jax.random.key_data(other)))
        True
    """
    # In single precision JAX drops the upper half of a seed without a word.
    low, high = seed & 0xFFFFFFFF, seed >> 32
    key = jax.random.key(low)
    if high:
        key = jax.random.fold_in(key, high)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def on_attractor(model: Any, x: Any, steps: int) -> Any:
    """Return the state after a spin-up of so many steps.

    Raises:
        ConfigurationError: if the model blows up on the way.

    Example:
        >>> from diffassim.models import Lorenz63
        >>> x = on_attractor(Lorenz63(), jnp.asarray([1.0, 1.0, 1.0]), 100)
        >>> bool(jnp.all(jnp.isfinite(x)))
        True
    """
    end = jax.tree.map(lambda leaf: leaf[0], states_at(model, x, [steps]))
    if not all(np.isfinite(known).all() for leaf in jax.tree.leaves(end) if (known := concrete(leaf)) is not None):
        raise ConfigurationError(
            f"the truth is not finite after a spin-up of {steps} steps: the model is unstable with these parameters; "
            "choose a smaller time step dt, or a weaker forcing"
        )
    return end


def states_at(model: Any, x: Any, steps: Any) -> Any:
    """Return the states of a run at increasing step numbers, which may begin with 0.

    Args:
        model: that makes the truth.
        x: state at step 0.
        steps: of the wanted rows, shape (rows,).

    Returns:
        States with a leading axis of rows.
    """
    rows = np.asarray(steps)
    return _rows(model, x, int(rows[-1]), jnp.asarray(rows))


def observe(
    key: jax.Array,
    truth: Any,
    steps: Any,
    std: Any,
    *,
    operator: Any = _EVERYTHING,
    fraction: float = 1.0,
    law: str = "normal",
    where: Any = None,
) -> Observations:
    """Return observations y = H(x) + std * noise of the truth, and of these a part at random, drawn anew each time.

    Args:
        key: random key.
        truth: states at the observation times, with a leading axis of times.
        steps: model steps of these times, counted from wherever the assimilation starts.
        std: standard deviation of the errors.
        operator: what is observed of a state.
        fraction: part of the values that are observed at each time; at least one is.
        law: of the noise, one of `LAWS`.
        where: places of each time, for an operator that takes some.

    Returns:
        `Observations`; what is not observed is masked.

    Example:
        >>> y = observe(jax.random.key(0), jnp.ones((3, 4)), [1, 2, 3], 0.1, fraction=0.5)
        >>> y.mask.sum(axis=1).tolist()
        [2, 2, 2]
    """
    exact = jax.vmap(operator)(truth) if where is None else jax.vmap(operator)(truth, where)
    noise, places = (key, None) if fraction >= 1 else jax.random.split(key)
    values = exact + std * LAWS[law](noise, exact.shape, exact.dtype)
    mask = None if places is None else _some(places, values.shape, fraction)
    return Observations(values, steps, operator=operator, error=Diagonal(std=std), mask=mask, where=where)


def _some(key: jax.Array, shape: tuple[int, ...], fraction: float) -> Any:
    """Return a mask that is true for so large a part of each row."""
    order = jnp.argsort(jax.random.uniform(key, shape).reshape(shape[0], -1), axis=1)
    return (order < max(1, round(fraction * order.shape[1]))).reshape(shape)


@partial(jax.jit, static_argnums=2)
def _rows(model: Any, x: Any, steps: int, rows: Any) -> Any:
    return rollout(model, x, steps, at=rows)
