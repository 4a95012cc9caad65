"""Training against the worst errors that observations may have."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import stop_gradient

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.core.partition import joined, partition
from diffassim.core.pytree import Pytree, static
from diffassim.observations.container import as_streams

__all__ = ["Adversarial", "perturbed", "worst_errors"]


def perturbed(streams: Any, errors: Any) -> Any:
    r"""Return observations with errors added to them, \(y + R^{1/2} \delta\).

    Args:
        streams: `Observations`, or a tuple of them.
        errors: \(\delta\), shaped like the values; a tuple where the streams are one.

    Returns:
        Like `streams`. What is missing stays missing.
    """
    if isinstance(streams, tuple | list):
        return tuple(perturbed(stream, error) for stream, error in zip(streams, errors, strict=True))
    moved = jax.tree.map(
        lambda y, e, m: y + jnp.where(m, e, 0).astype(y.dtype), streams.values, streams.error.sqrt(errors), streams.mask
    )
    return streams.replace(values=moved, mask=streams.mask)


def worst_errors(cost: Any, like: Any, count: Any, *, radius: Any, steps: int, rate: Any, key: jax.Array) -> Any:
    r"""Return errors in a ball at which a function is large, by projected gradient ascent.

    .. math:: \delta \leftarrow P\big(\delta + \alpha \rho \sqrt m\; g / |g|\big),\qquad |\delta| \le \rho \sqrt m

    Args:
        cost: errors -> scalar.
        like: pytree of errors, for shapes and types.
        count: m, number of observed values.
        radius: rho.
        steps: number of steps (static).
        rate: alpha, the length of a step in radii.
        key: random key of the first errors, which lie on a small sphere: at zero the gradient may vanish.

    Returns:
        The best errors met, those of the start included.
    """
    size = radius * safe_sqrt(jnp.asarray(count, jax.tree.leaves(like)[0].dtype))
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    start = _on_sphere(jax.tree.unflatten(structure, drawn), 0.1 * size)

    def ascend(carry: Any, _: Any) -> tuple[Any, None]:
        errors, best, highest = carry
        value, slope = jax.value_and_grad(cost)(errors)
        better = jnp.isfinite(value) & (value > highest)
        best, highest = tree.select(better, (errors, value), (best, highest))
        moved = tree.add(errors, _on_sphere(slope, rate * size))
        length = tree.norm(moved)
        inside = tree.scale(jnp.where(length > size, size / jnp.where(length > 0, length, 1), 1), moved)
        return (tree.select(tree.all_finite(inside), inside, errors), best, highest), None

    lowest = jnp.asarray(-jnp.inf, jax.eval_shape(cost, start).dtype)
    (last, best, highest), _ = lax.scan(ascend, (start, start, lowest), length=steps)
    value = cost(last)
    return tree.select(jnp.isfinite(value) & (value > highest), last, best)


def _on_sphere(x: Any, length: Any) -> Any:
    size = tree.norm(x)
    return tree.scale(length / jnp.where(size > 0, size, 1), x)


class Adversarial(Pytree):
    r"""A loss at the worst additional errors of the assimilated observations, within a ball measured by R.

    .. math:: \max_{|\delta| \le \rho \sqrt m} L\big(\theta;\; y + R^{1/2} \delta\big)

    With \(\rho = 1\) the added error is as large as observation errors are, but as harmful as it can be made in a few
    steps of gradient ascent through the whole assimilation. By Danskin's theorem its derivative is that of L at the
    maximum, so that the ascent has none. Mixed with the loss itself, skill on clean observations is kept.

    Args:
        loss: `Loss`, or any (model, sample, key) -> scalar of one sample whose `window` holds what is assimilated.
        radius: rho.
        share: weight of the worst case; the rest is that of the observations as they are.
        steps: steps of the ascent (static).
        rate: length of a step, in radii.

    Raises:
        ConfigurationError: if the radius is not positive, there is no step, or the share lies outside [0, 1].

    Example:
        >>> import diffassim as da
        >>> from diffassim.training import WindowSample
        >>> y = da.Observations(jnp.array([[3.0]]), [1], error=da.covariances.Diagonal(std=0.5))
        >>> worst = Adversarial(lambda model, sample, key: (sample.window.values[0, 0] - model) ** 2, share=1.0)
        >>> round(float(worst(jnp.array(1.0), WindowSample(jnp.ones(1), y), jax.random.key(0))), 4)  # (2 + .5)^2
        6.25

    Source: Madry et al. (2018), section 2.
    """

    loss: Any
    radius: Any = 1.0
    share: Any = 0.5
    steps: int = static(default=5)
    rate: Any = 0.5

    def __post_init__(self) -> None:
        require_positive("Adversarial: the radius", self.radius)
        if self.steps < 1:
            raise ConfigurationError(f"Adversarial: steps={self.steps} must be at least 1")
        if isinstance(self.share, int | float) and not 0 <= self.share <= 1:
            raise ConfigurationError(f"Adversarial: share={self.share} must lie between 0 and 1")

    def worst(self, model: Any, sample: Any, key: jax.Array) -> Any:
        """Return the sample with the worst errors found in its window."""
        streams = sample.window
        like = (
            tuple(stream.values for stream in streams) if isinstance(streams, tuple | list) else streams.values
        )  # fmt: skip
        count = sum((stream.count() for stream in as_streams(streams)), jnp.asarray(0))
        arrays, rest = partition("the model", model)
        still = joined(stop_gradient(arrays), rest)
        start, use = jax.random.split(key)

        def harm(errors: Any) -> Any:
            return self.loss(still, sample.replace(window=perturbed(streams, errors)), use)

        options = {"radius": self.radius, "steps": self.steps, "rate": self.rate}
        errors = worst_errors(harm, like, count, key=start, **options)
        return sample.replace(window=perturbed(streams, stop_gradient(errors)))

    def __call__(self, model: Any, sample: Any, key: jax.Array) -> Any:
        """Return the loss of one sample."""
        _, use = jax.random.split(key)
        harmed = self.loss(model, self.worst(model, sample, key), use)
        return self.share * harmed + (1 - self.share) * self.loss(model, sample, use)

    def batch(self, model: Any, samples: Any, key: jax.Array) -> Any:
        """Return the mean over samples with a leading axis: a loss for `fit`."""
        count = jax.tree.leaves(samples)[0].shape[0]
        return jnp.mean(jax.vmap(self, in_axes=(None, 0, 0))(model, samples, jax.random.split(key, count)))
