"""The protocol of ensemble methods, and what is the same in all of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.ensemble.departures import Departures, whitened_departures
from diffassim.ensemble.inflation import as_inflation
from diffassim.ensemble.members import check_ensemble, finite_members, total_spread, transformed
from diffassim.ensemble.rotation import mean_preserving_rotation
from diffassim.observations.container import as_streams

__all__ = ["AnalysisInfo", "EnsembleMethod", "GlobalFilter"]


class AnalysisInfo(Pytree):
    r"""What an ensemble analysis reports.

    Args:
        count: number of observed values that were used.
        chi_square: mean over the observed values of innovation squared over its expected variance,
            \(\frac1m \sum_j d_j^2 / (1 + \mathrm{var}\, S_j)\) in units of the observation error; about one where the
            spread and R are right, 0 without observations.
        background_spread: root of the prior's sample variance averaged over the state (after prior inflation).
        analysis_spread: the same of the posterior (after inflation).
        non_finite: number of prior members that hold something not finite.
        result: `Result` code: `DIVERGED` where the prior or the posterior is not finite.
    """

    count: Int[Array, ""]
    chi_square: Float[Array, ""]
    background_spread: Float[Array, ""]
    analysis_spread: Float[Array, ""]
    non_finite: Int[Array, ""]
    result: Int[Array, ""]


class EnsembleMethod(Pytree):
    """Base of all methods that analyse an ensemble at one time: (key, ensemble, observations) -> (ensemble, info).

    A subclass defines `update`. What is the same for all is done here: inflation, the rotation, statistics, and the
    rule that without any observed value the posterior is the prior, bit by bit, also with inflation.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).
    """

    inflation: Any = 1.0
    rotation: bool = static(default=False)

    def __post_init__(self) -> None:
        as_inflation(self.inflation)  # for its checks

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers."""
        return self.rotation

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation.

        Args:
            key: random key; None where the method draws nothing.
            ensemble: prior ensemble, a pytree with a leading member axis.
            departures: its whitened departures from the observations.
            streams: the observations themselves, a tuple of `Observations`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define update(key, ensemble, departures, streams)")

    def analyze(self, key: Any, ensemble: Any, observations: Any) -> tuple[Any, AnalysisInfo]:
        """Analyse one time.

        A member that is not finite makes the whole posterior not finite; the info counts such members and carries the
        code `DIVERGED`. An ensemble without spread (identical members) stays as it is: it claims to have no error.

        Args:
            key: random key; may be None where nothing is drawn.
            ensemble: prior ensemble, a pytree with a leading member axis, N >= 2.
            observations: `Observations` whose rows all hold now (their `steps` do not matter), or a tuple of streams.

        Returns:
            The posterior ensemble and `AnalysisInfo`.

        Raises:
            ShapeError: if the ensemble has fewer than two members or does not fit the observations.
            ConfigurationError: if a key is needed and missing.
        """
        name = type(self).__name__
        ensemble = check_ensemble(name, ensemble)
        if self.random and key is None:
            raise ConfigurationError(f"{name}: this method draws random numbers; give key=jax.random.key(...)")
        return _analyze(self, key, ensemble, as_streams(observations))


class GlobalFilter(EnsembleMethod):
    """Base of the filters whose posterior members are weighted sums of the prior ones, the same at every place.

    A subclass defines `weights`.
    """

    def weights(self, key: Any, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, "N N"]:
        r"""Return W with \(x_{a,i} = \bar x_f + \sum_j W_{ij} x_{f,j}'\).

        Args:
            key: random key; None where the method draws nothing.
            S: whitened observed anomalies, shape (N, m).
            d: whitened mean innovation, shape (m,).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define weights(key, S, d)")

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        return transformed(ensemble, self.weights(key, departures.S, departures.d))


@jax.jit
def _analyze(method: EnsembleMethod, key: Any, ensemble: Any, streams: tuple[Any, ...]) -> tuple[Any, AnalysisInfo]:
    update_key, rotation_key = jax.random.split(key) if method.random else (None, None)
    inflation = as_inflation(method.inflation)
    prior = inflation.before(ensemble)
    departures = whitened_departures(prior, streams)
    posterior = inflation.after(prior, method.update(update_key, prior, departures, streams))
    if method.rotation:
        N, dtype = departures.S.shape[0], departures.S.dtype
        posterior = transformed(posterior, mean_preserving_rotation(rotation_key, N, dtype))
    posterior = tree.select(departures.count > 0, posterior, ensemble)
    finite = finite_members(ensemble)
    sound = jnp.all(finite) & jnp.all(finite_members(posterior))
    return posterior, AnalysisInfo(
        count=departures.count,
        chi_square=departures.chi_square(),
        background_spread=total_spread(prior),
        analysis_spread=total_spread(posterior),
        non_finite=jnp.sum(~finite),
        result=jnp.where(sound, Result.CONVERGED, Result.DIVERGED),
    )
