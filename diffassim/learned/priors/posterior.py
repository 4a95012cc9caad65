"""Draws from the posterior of a generative prior, given any observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.checks import count_of, start_step
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.ensemble.score.guidance import guided_mean
from diffassim.ensemble.score.reverse import reverse_diffusion
from diffassim.learned.priors.base import GenerativePrior
from diffassim.methods.departures import along_window, innovation_along, whitened_innovation
from diffassim.observations.container import as_streams, observed_rows
from diffassim.observations.operators import check_operator

__all__ = ["Guidance", "PosteriorSampler", "normalized_innovation", "sample_posterior"]


class PosteriorSampler(Pytree):
    """Base of the ways to draw from a posterior: `draw(prior, innovation, key)` returns one normalized state."""

    def draw(self, prior: GenerativePrior, innovation: Callable[[Any], Any], key: Any) -> Any:
        """Return one draw, normalized.

        Args:
            prior: generative prior.
            innovation: function of a normalized state, whitened departures of the observations.
            key: random key.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define draw(prior, innovation, key)")


class Guidance(PosteriorSampler):
    r"""The reverse diffusion, guided by the observations with the covariance of what is left to be known.

    At every level x behind z counts as Gaussian with the moments that the prior knows, which match the true ones:

    .. math:: E(x \mid z, y) \approx D + V H'^\top (R + H' V H'^\top)^{-1} (y - H(D)),\qquad
        V = \mathrm{cov}(x \mid z) = \sigma^2 \frac{\partial D}{\partial z}

    Exact for a Gaussian prior and linear H. Otherwise approximate at large noise, where x behind z is far from
    Gaussian; where that matters, `SplitGibbs` starts from it.

    Args:
        steps: noise levels (static).
        iterations: of the conjugate gradients, one product with V each (static).
        churn: 1: by the reverse diffusion, 0: by the flow (static).
        largest: noise level of the start (static). At larger ones nothing is seen of the prior's shape, and errors of
            the network count for much in V.

    Raises:
        ConfigurationError: if there are fewer than two levels or one iteration.

    Source: Rozet et al. (2024), section 4 (moment matching); Rozet and Louppe (2023), section 3.2, and Chung et al.
    (2023) take V as a number, or as zero.
    """

    steps: int = static(default=48)
    iterations: int = static(default=3)
    churn: float = static(default=1.0)
    largest: float = static(default=8.0)

    def __post_init__(self) -> None:
        count_of("Guidance: steps", self.steps, least=2)
        count_of("Guidance: iterations", self.iterations, least=1)

    def draw(self, prior: GenerativePrior, innovation: Callable[[Any], Any], key: Any) -> Any:
        """Return one draw, normalized."""
        levels, keys = prior.levels(self.steps, self.largest), jax.random.split(key, self.steps + 1)

        def denoise(z: Any, sigma: Any) -> Any:
            mean, pull = jax.vjp(lambda z: prior.denoise(z, sigma), z)
            return guided_mean(innovation, mean, lambda u: sigma**2 * pull(u)[0], self.iterations)

        z = jnp.sqrt(1 + levels[0] ** 2) * prior.noise(keys[0])
        return reverse_diffusion(denoise, z, levels, churn=self.churn, noise=prior.noise, keys=keys[1:])


def sample_posterior(
    prior: GenerativePrior,
    observations: Any,
    count: int,
    key: Any,
    *,
    method: PosteriorSampler | None = None,
    model: Any = None,
    start: Any = 0,
    steps: int | None = None,
) -> Any:
    r"""Return draws from \(p(x \mid y) \propto p(x) \exp(-\tfrac12 |R^{-1/2}(y - H(x))|^2)\), p a generative prior.

    Args:
        prior: of states, or of trajectories, whose rows are the steps of the observations.
        observations: `Observations` or a tuple of streams, with any differentiable operator and R. Of a prior of states
            and without a model, all hold for that state.
        count: number of draws (static).
        key: random key.
        method: `Guidance()` by default, or `SplitGibbs(...)`.
        model: forward model; then the prior is that of the state at the window start, and observations are compared
            with the trajectory from it.
        start: number of the window's first step, passed to the model as t.
        steps: window length; default: the last observed step.

    Returns:
        States with a leading axis, the member axis of everything else.

    Raises:
        ConfigurationError: if a prior of trajectories meets a model, or a stream has a robust loss.
        ShapeError: if an observation lies outside of the trajectory or window.

    Example:
        >>> import diffassim as da
        >>> from diffassim.learned import Network
        >>> from diffassim.learned.priors import DiffusionPrior
        >>> gaussian = DiffusionPrior(Network(lambda w, x: 0 * x[:1], None), jnp.array([1.0]), jnp.array([1.0]))
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> found = sample_posterior(gaussian, y, 2000, jax.random.key(0))
        >>> bool(abs(found.mean() - 2) < 0.1), bool(abs(found.var() - 0.5) < 0.1)
        (True, True)
    """
    streams = as_streams(observations)
    steps = _checked(prior, streams, model, steps)
    start = start_step("sample_posterior", start)
    count = count_of("sample_posterior: count", count, least=1)
    return _sample(prior, streams, count, key, Guidance() if method is None else method, model, start, steps)


def normalized_innovation(
    prior: GenerativePrior, streams: tuple[Any, ...], model: Any, start: Any, steps: int
) -> Callable[[Any], Float[Array, " m"]]:
    """Return the whitened innovation as a function of a normalized state or trajectory."""
    if model is not None:
        path = along_window(model, streams, start, steps)
        return lambda x: path(prior.physical(x))[1]
    if prior.trajectory:
        rows, whitened = observed_rows(streams), innovation_along(streams)
        return lambda x: whitened(prior.physical(x)[rows])
    whitened = whitened_innovation(streams)
    return lambda x: whitened(prior.physical(x))


def _run(
    prior: Any, streams: Any, count: int, key: Any, method: Any, model: Any, start: Any, steps: int
) -> Float[Array, "count ..."]:
    innovation = normalized_innovation(prior, streams, model, start, steps)
    keys = jax.random.split(key, count)
    return prior.physical(jax.vmap(lambda k: method.draw(prior, innovation, k))(keys))


_sample = jax.jit(_run, static_argnums=(2, 7))


def _checked(prior: GenerativePrior, streams: tuple[Any, ...], model: Any, steps: int | None) -> int:
    """Return the length of the window, or raise if the observations do not fit."""
    state = jnp.asarray(prior.center)
    if prior.trajectory and model is not None:
        raise ConfigurationError("sample_posterior: a prior of trajectories needs no model; leave `model` out")
    if prior.trajectory:
        state, steps = state[0], state.shape[0] - 1
    for stream in streams:
        check_operator(stream.operator, "sample_posterior", state, stream.where)
    if model is None and not prior.trajectory:
        return 0
    known = [concrete(stream.last_rows) for stream in streams]
    last = [int(rows.max()) for rows in known if rows is not None and rows.size]
    if steps is None:
        if any(rows is None for rows in known):
            raise ShapeError("sample_posterior: give `steps`; the observation steps are traced here")
        steps = max(last, default=0)
    if any(row > steps for row in last):
        raise ShapeError(f"sample_posterior: an observation at step {max(last)} lies outside of the {steps} steps")
    return steps
