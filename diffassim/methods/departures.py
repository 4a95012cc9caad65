"""What an ensemble method sees of the observations: whitened innovations and anomalies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.methods.likelihood import chi_square
from diffassim.methods.members import check_ensemble
from diffassim.models.rollout import rollout
from diffassim.observations.container import as_streams, observed_rows, on_steps, rows_by_stream

__all__ = [
    "Departures",
    "along_window",
    "departures_of",
    "innovation_along",
    "whitened_departures",
    "whitened_innovation",
]


class Departures(Pytree):
    r"""Innovation and observed anomalies in units of the observation error, all streams in one vector.

    .. math:: d = R^{-1/2} (y - \overline{H(x)}),\qquad S_i = R^{-1/2} (H(x_i) - \overline{H(x)})

    Args:
        d: mean innovation, shape (m,); zero where nothing was observed.
        S: observed anomalies, shape (N, m); zero where nothing was observed.
        observed: which entries were observed, shape (m,).
    """

    d: Float[Array, " m"]
    S: Float[Array, "N m"]
    observed: Bool[Array, " m"]

    @property
    def count(self) -> Int[Array, ""]:
        """Number of observed values."""
        return jnp.sum(self.observed)

    def chi_square(self) -> Float[Array, ""]:
        r"""Return \(\frac1m \sum_j d_j^2 / (1 + \mathrm{var}\, S_j)\): about one where spread and R explain d."""
        variance = 1 + jnp.sum(jnp.square(self.S), axis=0) / (self.S.shape[0] - 1)
        return chi_square(self.d, variance, self.count)


def whitened_departures(ensemble: Any, observations: Any, any_loss: bool = False) -> Departures:
    """Compare an ensemble with the observations of one time.

    A masked or missing (NaN) value has exactly no influence, on values and gradients. Correlated errors are whitened
    as far as their covariance can (`Covariance.whiten`, `Covariance.masked`).

    Args:
        ensemble: pytree with a leading member axis, N >= 2.
        observations: `Observations` whose rows all hold for the time of the ensemble (their `steps` do not matter), or
            a tuple of such streams.
        any_loss: whether a robust loss is taken: departures then have twice the loss as their square.

    Returns:
        `Departures`.

    Raises:
        ShapeError: if the ensemble has fewer than two members, or H(x) is shaped unlike the values.
        ConfigurationError: if a stream has a robust loss, or lies between two steps.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[2.0, jnp.nan]]), [0], error=da.covariances.Diagonal(std=0.5))
        >>> found = whitened_departures(jnp.array([[0.0, 1.0], [1.0, 1.0]]), y)
        >>> found.d.tolist(), found.S.tolist(), int(found.count)
        ([3.0, 0.0], [[-1.0, 0.0], [1.0, 0.0]], 1)
    """
    ensemble = check_ensemble("whitened_departures", ensemble)
    streams = as_streams(observations)
    return departures_of(jax.vmap(whitened_innovation(streams, any_loss))(ensemble), streams)


def departures_of(innovations: Float[Array, "N m"], streams: tuple[Any, ...]) -> Departures:
    """Return the departures of an ensemble whose members have these whitened innovations."""
    d = jnp.mean(innovations, axis=0)
    return Departures(d, d[None] - innovations, flat([stream.mask for stream in streams]))


def whitened_innovation(streams: tuple[Any, ...], any_loss: bool = False) -> Callable[[Any], Float[Array, " m"]]:
    r"""Return the function \(x \mapsto R^{-1/2} (y - H(x))\) of one state, all streams in one vector.

    Args:
        streams: the observations of one time, a tuple of `Observations`.
        any_loss: whether a robust loss is taken.

    Raises:
        ConfigurationError: if a stream has a robust loss, or lies between two steps.
    """
    _require_gaussian(streams, any_loss)
    streams = tuple(on_steps("an ensemble analysis", stream) for stream in streams)

    def innovation(x: Any) -> Any:
        return flat([stream.innovation(_repeated(x, stream.steps.shape[0])) for stream in streams])

    return innovation


def innovation_along(streams: tuple[Any, ...], any_loss: bool = False) -> Callable[[Any], Float[Array, " m"]]:
    r"""Return the function from states at the `observed_rows` of the streams to \(R^{-1/2} (y - H(x(t)))\).

    Args:
        streams: observations of several times, a tuple of `Observations`.
        any_loss: whether a robust loss is taken.

    Raises:
        ConfigurationError: if a stream has a robust loss.
    """
    _require_gaussian(streams, any_loss)

    def innovation(states: Any) -> Any:
        parts = rows_by_stream(streams, states)
        return flat([stream.innovation(rows) for stream, rows in zip(streams, parts, strict=True)])

    return innovation


def along_window(
    model: Any, streams: tuple[Any, ...], start: Any, steps: int
) -> Callable[[Any], tuple[Any, Float[Array, " m"]]]:
    r"""Return the function from a state at the window start to \(R^{-1/2} (y - H(x(t)))\), each value at its own time.

    Args:
        model: forward model.
        streams: the observations of the window, a tuple of `Observations`.
        start: number of the window's first step, passed to the model as t.
        steps: window length.

    Returns:
        Function (x, rows) -> (states at these steps of the window, with a leading axis; whitened innovations). Without
        rows there are no states.

    Raises:
        ConfigurationError: if a stream has a robust loss.
    """
    innovation, observed = innovation_along(streams), observed_rows(streams)
    count = observed.shape[0]

    def path(x: Any, rows: Any = None) -> tuple[Any, Any]:
        asked = [] if rows is None else [jnp.asarray(rows, jnp.int32)]
        states = rollout(model, x, steps, start=start, at=jnp.concatenate([observed, *asked]))
        at_observations, at_rows = (
            jax.tree.map(lambda leaf, s=s: leaf[s], states) for s in (slice(count), slice(count, None))
        )
        return at_rows, innovation(at_observations)

    return path


def _require_gaussian(streams: tuple[Any, ...], any_loss: bool) -> None:
    robust = [type(stream.loss).__name__ for stream in streams if stream.loss is not None]
    if robust and not any_loss:
        raise ConfigurationError(
            f"an ensemble analysis needs Gaussian observation errors, found the loss {robust[0]}; leave `loss` out, or "
            "weight members (NETF, LNETF, LETPF, ParticleFilter)"
        )


def flat(values: Any) -> Float[Array, " m"]:
    """Return all leaves one after the other as one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(values)])


def _repeated(member: Any, rows: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (rows, *leaf.shape)), member)
