"""What all generative priors share: normalization, the network's view of a noisy state, and draws."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.checks import count_of, real_array
from diffassim.core.errors import ConfigurationError, ShapeError, require_finite, require_positive
from diffassim.core.partition import compilable
from diffassim.core.pytree import Pytree, static, untrained
from diffassim.ensemble.score.reverse import geometric_levels, normal_like, reverse_diffusion

__all__ = ["NOISE_FEATURES", "GenerativePrior", "noise_features"]

NOISE_FEATURES = 5  # inputs or channels by which a network is told how much noise there is


def noise_features(sigma: Any) -> Float[Array, " 5"]:
    """Return what a network is told of the noise level: its logarithm, and waves of it."""
    u = jnp.log(sigma) / 4
    return jnp.stack([u, jnp.sin(2 * u), jnp.cos(2 * u), jnp.sin(4 * u), jnp.cos(4 * u)])


class GenerativePrior(Pytree):
    r"""Base of the priors that know the mean of a state behind noise, \(D(z, \sigma) = E(x \mid x + \sigma \eta = z)\).

    In normalized units, x = (state - center) / spread. A subclass defines `denoise`, from the network's output; the
    score of the noisy states is \((D - z) / \sigma^2\) (Tweedie's formula), so that this is all that draws, posterior
    draws and costs ask for. The state is one array, or a whole trajectory with the time axis first.

    Args:
        network: callable pytree, see `space`.
        center: mean of the states, an array like one.
        spread: standard deviation, likewise.
        space: how the network sees a state (static). 0: as a vector, n inputs and `NOISE_FEATURES` more, n outputs.
            1 or 2: so many trailing axes are space, all others channels, last; `NOISE_FEATURES` constant channels more.
            A trajectory then has its times as channels.
        trajectory: whether the first axis of a state is time (static).
        largest: largest noise level (static).
        smallest: smallest level, below which a state counts as without noise (static).

    Raises:
        ConfigurationError: if a spread is not positive, or the levels are not in order.
    """

    network: Any
    center: Any = untrained()
    spread: Any = untrained()
    space: int = static(default=0)
    trajectory: bool = static(default=False)
    largest: float = static(default=30.0)
    smallest: float = static(default=0.005)

    def __post_init__(self) -> None:
        name = type(self).__name__
        self._set(network=compilable(f"{name}: network", self.network))
        if len(jax.tree.leaves(self.center)) != 1 or jax.tree.structure(self.center) != jax.tree.structure(0):
            raise ShapeError(
                f"{name}: the state must be one array, found {tree.describe_shapes(self.center)}; ravel it with "
                "jax.flatten_util.ravel_pytree, and let model and operators unravel it"
            )
        require_positive(f"{name}: spread", self.spread, "Leave out components that never change.")
        if not 0 < self.smallest < self.largest:
            raise ConfigurationError(f"{name}: noise levels from {self.largest} to {self.smallest} are not in order")
        if jnp.ndim(self.center) < self.space:
            raise ShapeError(f"{name}: a state of shape {jnp.shape(self.center)} has no {self.space} space axes")

    @classmethod
    def fit(cls, network: Any, samples: Float[Array, "sample ..."], axes: Any = 0, **fields: Any) -> Self:
        """Take center and spread from samples.

        Args:
            network: callable pytree.
            samples: states or trajectories with a leading sample axis.
            axes: axes over which mean and standard deviation are taken, counted with the sample axis: (0, 1) for fields
                whose statistics are the same everywhere.
            **fields: the other fields.

        Raises:
            DataError: if samples are not finite.
            ShapeError: if there are fewer than two.
        """
        samples = jnp.asarray(real_array(f"{cls.__name__}.fit: samples", samples))
        require_finite(f"{cls.__name__}.fit: samples", samples, "Leave out or fill what is missing.")
        if samples.ndim < 2 or samples.shape[0] < 2:
            raise ShapeError(f"{cls.__name__}.fit: samples of shape {samples.shape} hold no two states")
        shape = samples.shape[1:]
        center, spread = (
            jnp.broadcast_to(found(samples, axis=axes, keepdims=True)[0], shape) for found in (jnp.mean, jnp.std)
        )
        return cls(network, center, spread, **fields)

    def normalized(self, state: Any) -> Any:
        """Return states in units of the spread; the constants are not trained."""
        center, spread = (self._constant(c, state) for c in (self.center, self.spread))
        return (state - center) / spread

    def physical(self, x: Any) -> Any:
        """Return states from normalized ones."""
        center, spread = (self._constant(c, x) for c in (self.center, self.spread))
        return center + spread * x

    def denoise(self, z: Any, sigma: Any) -> Any:
        """Return D(z, sigma), all in normalized units."""
        raise NotImplementedError(f"{type(self).__name__} does not define denoise(z, sigma)")

    def evaluate(self, x: Any, sigma: Any) -> Any:
        """Return the network's output for a scaled noisy state, shaped like it.

        Raises:
            ShapeError: if it has another size.
        """
        features = noise_features(sigma).astype(x.dtype)
        if self.space == 0:
            out = self.network(jnp.concatenate([x.ravel(), features]))
            expected: tuple[int, ...] = (x.size,)
        else:
            grid = x.shape[x.ndim - self.space :]
            fields = jnp.moveaxis(x.reshape(-1, *grid), 0, -1)
            told = jnp.broadcast_to(features.reshape((1,) * self.space + (-1,)), (*grid, features.size))
            out = self.network(jnp.concatenate([fields, told], axis=-1))
            expected = fields.shape
        if out.shape != expected:
            raise ShapeError(
                f"{type(self).__name__}: the network returns the shape {out.shape} for a state of shape {x.shape}, but "
                f"{expected} is needed (inputs: the state's values or channels and {NOISE_FEATURES} of the noise)"
            )
        out = out if self.space == 0 else jnp.moveaxis(out, -1, 0)
        return out.reshape(x.shape).astype(x.dtype)

    def levels(self, steps: int, largest: float | None = None) -> Float[Array, " steps"]:
        """Return noise levels from the largest to the smallest."""
        steps = count_of(f"{type(self).__name__}: steps", steps, least=2)
        dtype = jnp.result_type(self.center)
        return geometric_levels(self.largest if largest is None else largest, jnp.asarray(self.smallest, dtype), steps)

    def noise(self, key: Any) -> Any:
        """Return a standard normal draw like a normalized state."""
        return normal_like(key, self.center)

    def decode(self, w: Any, steps: int = 32) -> Any:
        r"""Return the state that the flow of the probability makes of a standard normal field w, differentiable.

        Args:
            w: like a state.
            steps: noise levels (static).

        Returns:
            A state, in its own unit; distributed like the prior if w is like N(0, I).
        """
        levels = self.levels(steps)
        z = jnp.sqrt(1 + levels[0] ** 2) * jnp.asarray(w, levels.dtype)
        return self.physical(reverse_diffusion(self.denoise, z, levels))

    def sample(self, key: Any, count: int, *, steps: int = 32, churn: float = 0.0) -> Any:
        """Return draws from the prior.

        Args:
            key: random key.
            count: how many (static).
            steps: noise levels, one evaluation of the network each (static).
            churn: 0: by the flow, nothing drawn on the way; 1: by the reverse diffusion, which forgets errors of
                earlier levels and needs more of them (static).

        Returns:
            States with a leading axis.
        """
        return _sample(self, key, count_of("sample: count", count, least=1), steps, churn)

    def _constant(self, value: Any, like: Any) -> Any:
        constant = jax.lax.stop_gradient(jnp.asarray(value, like.dtype))
        return constant.reshape((1,) * (like.ndim - constant.ndim) + constant.shape)


def _draw(prior: GenerativePrior, key: Any, steps: int, churn: float) -> Any:
    levels, keys = prior.levels(steps), jax.random.split(key, steps + 1)
    z = jnp.sqrt(1 + levels[0] ** 2) * prior.noise(keys[0])
    return prior.physical(reverse_diffusion(prior.denoise, z, levels, churn=churn, noise=prior.noise, keys=keys[1:]))


def _samples(prior: GenerativePrior, key: Any, count: int, steps: int, churn: float) -> Any:
    return jax.vmap(lambda k: _draw(prior, k, steps, churn))(jax.random.split(key, count))


_sample = jax.jit(_samples, static_argnums=(2, 3, 4))
