"""What the methods with a background covariance that does not depend on the flow share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError, require_positive
from diffassim.gaussian.base import GaussianMethod
from diffassim.gaussian.belief import Gaussian

__all__ = ["StaticMethod"]


class StaticMethod(GaussianMethod):
    """Base of the methods whose background covariance is always the same.

    A subclass defines `background`.

    Args:
        climatology: a `Gaussian`, for instance `Gaussian.from_samples` of states of a long run.
        scale: number that multiplies its covariance.

    Raises:
        ConfigurationError: if the climatology is not a `Gaussian`, or the scale is not positive.
    """

    climatology: Gaussian
    scale: Any = 1.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.climatology, Gaussian):
            raise ConfigurationError(
                f"{name}: the climatology is a Gaussian, found {type(self.climatology).__name__}; use "
                "da.gaussian.Gaussian.from_samples(states) or Gaussian.from_covariance(mean, B)"
            )
        require_positive(f"{name}: scale", self.scale)

    def background(self, mean: Any, prior: Gaussian) -> Gaussian:
        """Return what is known before an analysis, from the forecast mean and the scaled climatology."""
        raise NotImplementedError(f"{type(self).__name__} does not define background(mean, prior)")

    def init(self, belief: Any) -> Gaussian:
        """Return the background that belongs to a state, or to the mean of a `Gaussian`."""
        mean = jax.tree.map(jnp.asarray, belief.mean if isinstance(belief, Gaussian) else belief)
        if not tree.same_shapes(mean, self.climatology.mean):
            raise ShapeError(
                f"{type(self).__name__}: the state has shape {tree.describe_shapes(mean)}, but the climatology "
                f"{tree.describe_shapes(self.climatology.mean)}"
            )
        root = jnp.sqrt(jnp.asarray(self.scale))
        prior = self.climatology.replace(columns=tree.scale(root, self.climatology.columns))
        return super().init(self.background(mean, prior))

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Gaussian) -> Gaussian:
        """Return the background at the next analysis time."""
        return self.init(propagate(belief.mean))
