"""Ensemble Kalman inversion: parameters of any forward map, without its derivative."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree
from diffassim.core.results import Result
from diffassim.ensemble.base import GlobalFilter
from diffassim.ensemble.enkf import EnKF
from diffassim.methods.departures import whitened_departures
from diffassim.methods.members import check_ensemble, finite_members, transformed
from diffassim.observations.container import as_streams

__all__ = ["Inversion", "ensemble_inversion"]


class Inversion(Pytree):
    """What `ensemble_inversion` returns.

    Args:
        ensemble: the parameters, a pytree with a leading member axis.
        misfit: half the squared whitened departure, mean over the members, before each iteration.
        step: pseudo-time step of each iteration; 0 after the end.
        time: sum of the steps.
        result: `Result` code: `DIVERGED` where a member is not finite, `MAX_ITERATIONS` where an adaptive inversion has
            not reached time 1.
    """

    ensemble: Any
    misfit: Float[Array, " iteration"]
    step: Float[Array, " iteration"]
    time: Float[Array, ""]
    result: Int[Array, ""]


def ensemble_inversion(
    ensemble: Any,
    observations: Any,
    *,
    iterations: int,
    key: Any = None,
    method: GlobalFilter | None = None,
    step: Any = None,
) -> Inversion:
    r"""Analyse the same observations again and again, each time with a part of their information.

    In iteration k the ensemble is analysed with the error covariance \(R / h_k\). At pseudo-time \(\sum_k h_k = 1\) the
    observations have been used once: for a linear map this is the posterior, to the sampling error of the method.
    Beyond it the ensemble contracts to the least-squares solution in the span of its members. The prior becomes a
    Tikhonov term of that solution if it is one more stream: the prior mean as values, its covariance as error.

    Args:
        ensemble: draws from the prior, a pytree with a leading member axis.
        observations: `Observations` of one row whose operator is the forward map of the parameters, or a tuple.
        iterations: greatest number of iterations (static).
        key: random key; each iteration draws from the key folded with its number.
        method: the update, of which only the weights are used (neither inflation nor rotation): `EnKF` (default)
            perturbs the observations, `ETKF` draws nothing.
        step: every \(h_k\). Default: from mean and variance over the members of the misfit \(\Phi\) of the m observed
            values, \(\min(\max(m / 2 \bar\Phi, \sqrt{m / 2 \mathrm{var} \Phi}), 1 - t)\), until time 1.

    Returns:
        `Inversion`.

    Raises:
        ConfigurationError: if the step is not positive, `iterations` below 1, the method has no weights, or a needed
            key is missing.
        ShapeError: if the ensemble has fewer than two members or does not fit the observations.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[8.0]]), [0], lambda u: u**3, da.covariances.Diagonal(std=0.1))
        >>> prior = 1.5 + 0.5 * jax.random.normal(jax.random.key(0), (50, 1))
        >>> found = ensemble_inversion(prior, y, iterations=50, method=da.ETKF())
        >>> round(float(found.ensemble.mean()), 1), round(float(found.time), 3)
        (2.0, 1.0)

    Source: Iglesias, Law and Stuart (2013), section 2; steps: Iglesias and Yang (2021), equation 38; Tikhonov: Chada,
    Stuart and Tong (2020).
    """
    method = EnKF() if method is None else method
    if not isinstance(method, GlobalFilter):
        raise ConfigurationError(f"ensemble_inversion: {type(method).__name__} has no weights; use EnKF or ETKF")
    if iterations < 1:
        raise ConfigurationError(f"ensemble_inversion: iterations = {iterations} must be at least 1")
    if step is not None:
        require_positive("ensemble_inversion: step", step, "None chooses it by the misfit.")
    if method.replace(rotation=False).random and key is None:
        raise ConfigurationError(
            f"ensemble_inversion: {type(method).__name__} draws random numbers; give key=jax.random.key(...)"
        )
    return _invert(
        method, check_ensemble("ensemble_inversion", ensemble), as_streams(observations), key, step, iterations
    )


def _run(method: Any, ensemble: Any, streams: tuple[Any, ...], key: Any, step: Any, iterations: int) -> Inversion:
    def iterate(carry: Any, k: Any) -> tuple[Any, Any]:
        ensemble, time = carry
        departures = whitened_departures(ensemble, streams)
        S, d = departures.S, departures.d
        misfit = 0.5 * jnp.sum(jnp.square(d[None] - S), axis=1)
        h = _adaptive(misfit, departures.count, 1 - time) if step is None else jnp.asarray(step, d.dtype)
        more = h > 0
        root = safe_sqrt(jnp.where(more, h, 0))  # what is left may round to less than zero
        W = method.weights(None if key is None else jax.random.fold_in(key, k), root * S, root * d)
        following = tree.select(more & (departures.count > 0), transformed(ensemble, W), ensemble)
        return (following, time + h), (jnp.mean(misfit), h)

    start = (ensemble, jnp.zeros((), jax.tree.leaves(ensemble)[0].dtype))
    (ensemble, time), (misfit, steps) = lax.scan(iterate, start, jnp.arange(iterations))
    unfinished = jnp.asarray(step is None) & (time < 1 - 1e-4)
    result = jnp.where(unfinished, Result.MAX_ITERATIONS, Result.CONVERGED)
    result = jnp.where(jnp.all(finite_members(ensemble)), result, Result.DIVERGED)
    return Inversion(ensemble, misfit, steps, time, result)


def _adaptive(misfit: Any, count: Any, left: Any) -> Any:
    m = jnp.maximum(count, 1).astype(misfit.dtype)
    variance = jnp.var(misfit, ddof=1)
    flat = variance == 0
    by_spread = jnp.where(flat, jnp.inf, jnp.sqrt(m / (2 * jnp.where(flat, 1, variance))))
    mean = jnp.mean(misfit)
    by_mean = jnp.where(mean == 0, jnp.inf, m / (2 * jnp.where(mean == 0, 1, mean)))
    return jnp.clip(jnp.maximum(by_mean, by_spread), 0, left)


_invert = jax.jit(_run, static_argnums=5)
