"""Scores: how far the states of a route are from observations, withheld observations or a truth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.diagnostics.crps import crps
from diffassim.methods.likelihood import innovation_log_ratio
from diffassim.training.routes import Route, WindowSample

__all__ = ["CRPS", "EnergyScore", "GaussianLikelihood", "Loss", "MeanSquare", "Score", "Spectral"]

PAIRS = 2**24  # departures of members from each other that are held at a time


class Score(Pytree):
    r"""Base of all scores, of whitened departures \(d = R^{-1/2} (y - H(x))\), zero where nothing was observed.

    Args:
        of: field of the sample with the stream to compare with, 'future' or 'window' (static).

    A subclass defines `measure`.
    """

    of: str = static(default="future", kw_only=True)

    @property
    def ensemble(self) -> bool | None:
        """Whether it scores members (True), a single state (False), or either (None)."""
        return None

    def measure(self, d: Float[Array, "N row m"], count: Any, key: Any) -> Float[Array, ""]:
        """Return the score of the departures of N members (one for a single state).

        Args:
            d: whitened departures, shape (N, row, m).
            count: number of observed values, at least one.
            key: random key, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define measure(d, count, key)")


class MeanSquare(Score):
    """Mean squared departure, of the mean of an ensemble.

    Example:
        >>> MeanSquare().measure(jnp.array([[[3.0, 0.0]], [[1.0, 0.0]]]), 1, None).item()
        4.0
    """

    def measure(self, d: Any, count: Any, key: Any) -> Any:
        """Return the mean of d^2."""
        return jnp.sum(jnp.mean(d, axis=0) ** 2) / count


class Spectral(Score):
    r"""Mean squared departure of each wavenumber along the last axis of the values, weighted.

    .. math:: \frac1m \sum_k w_k |\hat d_k|^2,\qquad \hat d = \mathrm{FFT}(d) / \sqrt{n}

    Weights of one give `MeanSquare` (Parseval); larger ones for small scales keep a network from smoothing them.

    Args:
        weights: one for each wavenumber of a real transform, shape (n // 2 + 1,).

    Example:
        >>> round(Spectral(jnp.ones(3)).measure(jnp.array([[[3.0, 0.0, 0.0, 1.0]]]), 4, None).item(), 6)
        2.5
    """

    weights: Any

    def measure(self, d: Any, count: Any, key: Any) -> Any:
        """Return the weighted sum of the power of d."""
        n = d.shape[-1]
        power = jnp.abs(jnp.fft.rfft(jnp.mean(d, axis=0), axis=-1)) ** 2 / n
        twice = jnp.full(n // 2 + 1, 2.0, d.dtype).at[0].set(1.0)  # wavenumbers k and -k
        twice = twice.at[-1].set(1.0) if n % 2 == 0 else twice
        return jnp.sum(power * (twice * jnp.asarray(self.weights, d.dtype))[None]) / count


class GaussianLikelihood(Score):
    r"""Minus the log likelihood of the observations for each value, up to a constant: N(d, I + S^T S / (N - 1)).

    .. math:: \frac1{2m} \sum_t \left( d_t^\top C_t^{-1} d_t + \log\det C_t \right)

    with the whitened departures \(d_t\) of the mean and the members' covariance at each time t. For a single state,
    half the mean square.

    Example:
        >>> round(GaussianLikelihood().measure(jnp.array([[[3.0]], [[1.0]]]), 1, None).item(), 4)  # variance 1 + 2
        1.216

    Source: Chen, Sanz-Alonso and Willett (2022), equation 15.
    """

    def measure(self, d: Any, count: Any, key: Any) -> Any:
        """Return the mean over the observed values."""
        N = d.shape[0]
        mean = jnp.mean(d, axis=0)
        if N == 1:
            return 0.5 * jnp.sum(mean**2) / count
        S = jnp.swapaxes(d - mean[None], 0, 1)  # (row, N, m)

        return -jnp.sum(jax.vmap(innovation_log_ratio)(S, mean)) / count


class CRPS(Score):
    """Mean of the fair continuous ranked probability score over all values, in units of the observation error.

    Args:
        noise: whether members get draws of the observation error first, so that the score is least for the true
            distribution and not for a narrower one; False against a truth (static).

    Example:
        >>> CRPS(noise=False).measure(jnp.array([[[1.0]], [[-1.0]]]), 1, None).item()
        0.0
    """

    noise: bool = static(default=True)

    @property
    def ensemble(self) -> bool:
        """It scores members."""
        return True

    def measure(self, d: Any, count: Any, key: Any) -> Any:
        """Return the mean over the observed values."""
        d = _with_noise(self, d, key)
        return jnp.sum(crps(d, jnp.zeros(d.shape[1:], d.dtype))) / count


class EnergyScore(Score):
    r"""Fair energy score of all values as one vector, over the root of their number.

    .. math:: \frac1{\sqrt m} \left( \frac1N \sum_i |d_i| - \frac1{2N(N-1)} \sum_{i,j} |d_i - d_j| \right)

    Args:
        noise: as in `CRPS` (static).

    Example:
        >>> EnergyScore(noise=False).measure(jnp.array([[[1.0]], [[-1.0]]]), 1, None).item()
        0.0

    Source: Gneiting and Raftery (2007), section 4.3.
    """

    noise: bool = static(default=True)

    @property
    def ensemble(self) -> bool:
        """It scores members."""
        return True

    def measure(self, d: Any, count: Any, key: Any) -> Any:
        """Return the score."""
        d = _with_noise(self, d, key)
        N = d.shape[0]
        flat = d.reshape(N, -1)
        sizes = safe_sqrt(jnp.sum(flat**2, axis=1))
        if N < 2:
            raise ConfigurationError("EnergyScore: one member has no spread; give two or more")

        def from_one(member: Any) -> Any:
            return jnp.sum(safe_sqrt(jnp.sum((member[None] - flat) ** 2, axis=1)))

        # Large ensembles of long windows one member after the other: all pairs at once would fill the memory.
        many = N * flat.size > PAIRS
        apart = lax.map(jax.checkpoint(from_one), flat) if many else jax.vmap(from_one)(flat)
        return (jnp.mean(sizes) - jnp.sum(apart) / (2 * N * (N - 1))) / safe_sqrt(jnp.asarray(count, d.dtype))


def _with_noise(score: Any, d: Any, key: Any) -> Any:
    if not score.noise:
        return d
    if key is None:
        raise ConfigurationError(f"{type(score).__name__}: noise is drawn; give a key, or noise=False against a truth")
    # Where nothing was observed all departures are zero, and stay it.
    observed = jnp.any(d != 0, axis=0, keepdims=True)
    return d + jnp.where(observed, jax.random.normal(key, d.shape, d.dtype), 0)


class Loss(Pytree):
    """A route and a score of where it leads: a loss for `fit`.

    Args:
        route: (model, sample, rows, key) -> states.
        score: of their departures from one of the sample's streams.

    Raises:
        ConfigurationError: if a score of members meets a route to a single state.

    Example:
        >>> import diffassim as da
        >>> from diffassim.training import Forecast
        >>> y = da.Observations(jnp.array([[3.0]]), [1], error=da.covariances.Diagonal(std=1.0))
        >>> model = da.models.FunctionModel(lambda x, t, rate: rate * x, arguments=2.0)
        >>> loss = Loss(Forecast(1), MeanSquare())
        >>> jax.value_and_grad(loss)(model, WindowSample(jnp.ones(1), future=y))[0].item()
        1.0
    """

    route: Route
    score: Score

    def __post_init__(self) -> None:
        if self.score.ensemble and not self.route.ensemble:
            raise ConfigurationError(
                f"Loss: {type(self.score).__name__} scores members, but {type(self.route).__name__} leads to one state"
            )

    def __call__(self, model: Any, sample: WindowSample, key: Any = None) -> Float[Array, ""]:
        """Return the loss of one sample."""
        stream = getattr(sample, self.score.of)
        route_key, score_key = (None, None) if key is None else jax.random.split(key)
        states = self.route(model, sample, stream.rows, route_key)
        many = states if self.route.ensemble else jax.tree.map(lambda leaf: leaf[None], states)
        departures = jax.vmap(stream.innovation)(many)
        d = jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(departures)], axis=-1)
        return self.score.measure(d, jnp.maximum(stream.count(), 1).astype(d.dtype), score_key)

    def batch(self, model: Any, samples: WindowSample, key: Any = None) -> Float[Array, ""]:
        """Return the mean loss of samples with a leading axis; as it stands, a loss for `fit`."""
        if key is None:
            return jnp.mean(jax.vmap(self, in_axes=(None, 0))(model, samples))
        count = jax.tree.leaves(samples)[0].shape[0]
        return jnp.mean(jax.vmap(self, in_axes=(None, 0, 0))(model, samples, jax.random.split(key, count)))
