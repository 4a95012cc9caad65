"""Differentially private training: a loss whose gradient tells little about any single sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

from diffassim.core import tree
from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, ShapeError, concrete, require_positive
from diffassim.core.partition import differentiable, joined, merged, partition
from diffassim.core.pytree import Pytree, static

__all__ = ["Private", "privacy_spent"]


class Private(Pytree):
    r"""A loss for `fit` whose gradient is that of DP-SGD.

    .. math:: g = \frac{1}{B} \Big(\sum_{i=1}^{B} \min\big(1, C / |g_i|\big)\, g_i + \sigma C\, \xi\Big),\qquad
        \xi \sim N(0, I)

    with the gradient \(g_i\) of sample i, so that leaving a sample out changes the sum by no more than C, which the
    noise hides. What is private are the weights after the updates, whatever is made of them. Not private are the values
    of the loss that `fit` records, and a validation on the same samples: keep these, or validate on public ones.

    Args:
        loss: (trainable, batch, key) -> scalar, a mean over the samples of the batch (static).
        clip: C, the largest norm of the gradient of a sample; around the median of their norms is a good start.
        noise: \(\sigma\), standard deviation of the noise in units of the clip; see `privacy_spent`.

    Raises:
        ConfigurationError: if the clip is not positive, or the noise is negative.

    Example:
        >>> from diffassim.training import fit
        >>> loss = Private(lambda w, x, key: jnp.mean((w - x) ** 2), clip=1.0, noise=0.5)
        >>> found = fit(loss, jnp.zeros(()), jnp.full(512, 3.0), optimizer=optax.sgd(0.5), steps=40, batch_size=128,
        ...     key=jax.random.key(0))
        >>> bool(abs(found.trained - 3) < 0.1)
        True

    Source: Abadi et al. (2016), algorithm 1.
    """

    loss: Callable[..., Any] = static()
    clip: Any = 1.0
    noise: Any = 1.0

    def __post_init__(self) -> None:
        require_positive("Private.clip", self.clip)
        _require_noise("Private.noise", self.noise)

    def __call__(self, trainable: Any, batch: Any, key: jax.Array) -> Any:
        """Return the mean loss; its derivative by the trainable is g.

        Args:
            trainable: pytree of floating-point arrays.
            batch: pytree of arrays with a leading axis of samples.
            key: random key of the noise, and of the loss.

        Raises:
            ShapeError: if the loss is no scalar.
        """
        count = jax.tree.leaves(batch)[0].shape[0]
        noise_key, loss_key = jax.random.split(key)

        arrays, rest = partition("the trainable", trainable)
        moving, still = differentiable(arrays)

        def of_one(sample: Any, key: jax.Array) -> tuple[Any, Any]:
            alone = jax.tree.map(lambda leaf: leaf[None], sample)
            return jax.value_and_grad(lambda w: _scalar(self.loss(joined(merged(w, still), rest), alone, key)))(
                stop_gradient(moving)
            )

        values, slopes = jax.vmap(of_one)(batch, jax.random.split(loss_key, count))
        aggregate = optax.contrib.differentially_private_aggregate(self.clip, self.noise, noise_key)
        slope, _ = aggregate.update(slopes, aggregate.init(moving))
        # Zero, with the derivative g: the value is the loss, and reverse mode finds the slope that is wanted.
        moved = jax.tree.map(lambda leaf: leaf - stop_gradient(leaf), moving)
        return jnp.mean(values) + tree.dot(stop_gradient(slope), moved)


def _require_noise(name: str, value: Any) -> None:
    known = concrete(value)
    if known is not None and not (np.ndim(known) == 0 and np.isfinite(known) and known >= 0):
        raise ConfigurationError(f"{name} must be a finite number that is not negative, found {value}")


def _scalar(value: Any) -> Any:
    if jnp.ndim(value):
        raise ShapeError(f"Private: the loss must return one number without metrics, found shape {jnp.shape(value)}")
    return value


def privacy_spent(noise: float, *, samples: int, batch_size: int, steps: int, delta: float) -> float:
    r"""Return the \(\epsilon\) for which a training by `fit` with `Private` is \((\epsilon, \delta)\)-private.

    `fit` takes every sample once in an epoch, so that E epochs are E Gaussian mechanisms for each sample, in whatever
    order they come. Two data sets are neighbors if one has nothing (a gradient of zero) where the other has a sample.
    Drawing every batch at random instead would allow a smaller number, but is not what `fit` does.

    Args:
        noise: standard deviation in units of the clip.
        samples: number of samples of the training.
        batch_size: samples in each batch.
        steps: number of updates.
        delta: probability with which more may be told; well below 1 / samples.

    Raises:
        ConfigurationError: if a number cannot be what it is, or the package dp-accounting is not installed.

    Source: Dwork and Roth (2014), definition 2.4; Kairouz et al. (2021), section 2, for neighbors; Balle and Wang
    (2018), theorem 8, for the Gaussian mechanism.
    """
    _require_noise("privacy_spent: noise", noise)
    samples, steps = count_of("privacy_spent: samples", samples, 1), count_of("privacy_spent: steps", steps)
    batch_size = count_of("privacy_spent: batch_size", batch_size, 1)
    if not 0 < delta < 1:
        raise ConfigurationError(f"privacy_spent: delta={delta} must lie between 0 and 1, well below 1 / samples")
    if batch_size > samples:
        raise ConfigurationError(f"privacy_spent: batch_size={batch_size} is larger than samples={samples}")
    if steps == 0:
        return 0.0
    if noise == 0:
        return math.inf
    try:
        from dp_accounting import GaussianDpEvent
        from dp_accounting.pld import PLDAccountant
    except ImportError:
        raise ConfigurationError(
            "privacy_spent: the package dp-accounting keeps the account; run: pip install 'diffassim[privacy]'"
        ) from None
    epochs = math.ceil(steps / (samples // batch_size))
    return float(PLDAccountant().compose(GaussianDpEvent(float(noise)), epochs).get_epsilon(delta))
