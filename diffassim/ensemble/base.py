"""The protocol of ensemble methods, and what is the same in all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.layout import Layout
from diffassim.core.pytree import static
from diffassim.ensemble.inflation import as_inflation
from diffassim.ensemble.model_error import SquareRootNoise, checked_model_error, draws_model_error, forecast_members
from diffassim.ensemble.rotation import rotated
from diffassim.methods.account import AnalysisInfo, account
from diffassim.methods.departures import Departures, departures_of, innovation_along, whitened_innovation
from diffassim.methods.likelihood import innovation_log_ratio, log_density
from diffassim.methods.members import check_ensemble, mean, spread, transformed, without_failed
from diffassim.methods.sequential import SequentialMethod, require_key
from diffassim.observations.container import as_streams

__all__ = ["EnsembleMethod", "GlobalFilter"]

REPAIR, INFLATION = 1_000_033, 1_000_037  # keys far from the numbers that a split would use


class EnsembleMethod(SequentialMethod):
    """Base of all methods that analyse an ensemble at one time: (key, ensemble, observations) -> (ensemble, info).

    A subclass defines `update`. What is the same for all is done here: inflation, the rotation, statistics, and the
    rule that without any observed value the posterior is the prior, bit by bit, also with inflation.

    Every ensemble method takes these arguments, the last three by name only.

    Args:
        inflation: an `Inflation`, a number that multiplies the posterior anomalies, or a tuple of several in turn.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).
        Q: covariance of the model error that is gathered from one analysis to the next, drawn at the end of each
            forecast of a cycle, or `SquareRootNoise` of it; `EveryStep` of either: the error of every model step; None:
            a perfect model.
        replace_failed: whether members that are not finite are replaced before an analysis, by draws from the
            distribution of the others (static); two have to be left. They are counted all the same. Derivatives through
            the forecast of a failed member are not finite.
        layout: how the ensemble lies on several devices (static); taken from the ensemble where it is None.
    """

    inflation: Any = 1.0
    rotation: bool = static(default=False)
    Q: Any = dataclasses.field(default=None, kw_only=True)
    replace_failed: bool = static(default=False, kw_only=True)
    layout: Layout | None = static(default=None, kw_only=True)

    by_departures: ClassVar[bool] = True  # `update` asks nothing of the streams about other members than the prior's

    def __post_init__(self) -> None:
        as_inflation(self.inflation)  # for its checks
        name = type(self).__name__
        kind = checked_model_error(name, self.Q)
        if self.replace_failed and isinstance(kind, SquareRootNoise):
            raise ConfigurationError(
                f"{name}: SquareRootNoise mixes the members before failed ones are replaced; give Q as a covariance"
            )

    @property
    def random(self) -> bool:
        """Whether the forecast or the analysis draw random numbers."""
        drawn = as_inflation(self.inflation).random or draws_model_error(self.Q)
        return self.rotation or self.replace_failed or drawn

    @property
    def any_loss(self) -> bool:
        """Whether observations may have a robust loss: where only the likelihoods of members count."""
        return False

    def state_like(self, belief: Any) -> Any:
        """Return the shapes of one member."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), belief)

    def check(self, belief: Any, observations: Any) -> None:
        """Raise an error if Q, an inflation, operators or places do not fit the state."""
        super().check(belief, observations)
        x = self.state_like(belief)
        if self.Q is not None:
            self.Q.check(f"{type(self).__name__}: Q", x)
        as_inflation(self.inflation).check(f"{type(self).__name__}: inflation", x)

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> tuple[Any, Any]:
        """Return the method that knows how the ensemble lies on several devices; see `SequentialMethod`."""
        layout = Layout.of(belief) if self.layout is None else self.layout
        return (self if layout is self.layout else self.replace(layout=layout)), None

    def across(self, ensemble: Any) -> Any:
        """Return an ensemble with all members of a place on one device, if it lies in parts."""
        return ensemble if self.layout is None else self.layout.turned(ensemble)

    def across_innovations(self, innovations: Float[Array, "N m"]) -> Float[Array, "N m"]:
        """Return the whitened innovations of all members, as they should lie on several devices for `update`."""
        return innovations

    def moments(self, belief: Any) -> tuple[Any, Any]:
        """Return mean and standard deviation of every component of the state."""
        belief = self.across(belief)
        return mean(belief), spread(belief)

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Any) -> Any:
        """Return the ensemble at the next analysis time, model error included."""
        return forecast_members(self.Q, key, propagate, belief, self.layout)

    def repaired(self, key: Any, ensemble: Any) -> Any:
        """Return the ensemble without failed members, if they are to be replaced; `key` is that of the analysis."""
        return without_failed(jax.random.fold_in(key, REPAIR), ensemble) if self.replace_failed else ensemble

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation.

        Args:
            key: random key; None where the method draws nothing.
            ensemble: prior ensemble with its companions (see `analyze_with`), a pytree with a leading member axis.
            departures: whitened departures of the ensemble from the observations.
            streams: the observations themselves, a tuple of `Observations`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define update(key, ensemble, departures, streams)")

    def log_ratio(self, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, ""]:
        """Return the log density of whitened departures under the forecast, relative to errors of zero.

        Args:
            S: whitened observed anomalies, shape (N, m).
            d: whitened mean innovation, shape (m,).
        """
        return innovation_log_ratio(S, d, self.layout)

    def log_likelihood(self, departures: Departures, streams: tuple[Any, ...]) -> Float[Array, ""]:
        """Return the log density of the observed values under the forecast; see `AnalysisInfo`."""
        return log_density(self.log_ratio(departures.S, departures.d), streams)

    def analyze(self, key: Any, ensemble: Any, observations: Any) -> tuple[Any, AnalysisInfo]:
        """Analyse one time.

        A member that is not finite makes the whole posterior not finite, unless such members are replaced; the info
        counts them, and carries the code `DIVERGED` where something is not finite at the end. An ensemble without
        spread (identical members) stays as it is: it claims to have no error.

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
        posterior, _, info = self.analyze_with(key, ensemble, None, observations)
        return posterior, info

    def analyze_with(
        self, key: Any, ensemble: Any, companions: Any, observations: Any
    ) -> tuple[Any, Any, AnalysisInfo]:
        """Analyse one time, and what belongs to the same members but was not observed, for instance earlier states.

        The companions get the same weights and the same rotation as the ensemble. Inflation leaves them as they are,
        and a failed member's are kept.

        Args:
            key: random key; may be None where nothing is drawn.
            ensemble: prior ensemble, a pytree with a leading member axis, N >= 2.
            companions: pytree with the same leading member axis (for a local method, and the same grid axes), or None.
            observations: `Observations` whose rows all hold now, or a tuple of streams.

        Returns:
            The posterior ensemble, its companions, and `AnalysisInfo`.

        Raises:
            ShapeError: if the ensemble has fewer than two members or does not fit the observations.
            ConfigurationError: if a key is needed and missing.
        """
        name = type(self).__name__
        ensemble = check_ensemble(name, ensemble)
        require_key(name, self.random, key)
        self.check(ensemble, observations)
        streams = as_streams(observations)
        return _analyze(self.prepared(ensemble, streams)[0], key, ensemble, companions, streams)

    def analyze_along(self, key: Any, ensemble: Any, states: Any, observations: Any) -> tuple[Any, AnalysisInfo]:
        """Analyse one time by the observations of other times, which the members' trajectories pass (4D).

        Args:
            key: random key; may be None where nothing is drawn.
            ensemble: prior ensemble at the time to be analysed.
            states: states of each member at the `observed_rows` of the streams, leading axes (member, row).
            observations: `Observations` with one row for each of them, or a tuple of streams.

        Returns:
            As `analyze`.

        Raises:
            ShapeError, ConfigurationError: as `analyze`.

        Source: Hunt et al. (2004); Sakov, Evensen and Bertino (2010), section 2.
        """
        name = type(self).__name__
        self.require_departures(name)
        ensemble = check_ensemble(name, ensemble)
        require_key(name, self.random, key)
        self.check(ensemble, observations)
        streams = as_streams(observations)
        return _analyze_along(self.prepared(ensemble, streams)[0], key, ensemble, states, streams)

    def require_departures(self, name: str) -> None:
        """Raise `ConfigurationError`, naming `name`, unless departures are all that the update sees of H."""
        if not self.by_departures:
            raise ConfigurationError(
                f"{name}: {type(self).__name__} evaluates H anew between prior and posterior, and cannot do so along "
                "trajectories that are given; use a filter of departures such as ETKF() or LETKF()"
            )

    def posterior(
        self, key: Any, prior: Any, companions: Any, departures: Departures, streams: tuple[Any, ...]
    ) -> tuple[Any, Any]:
        """Return posterior ensemble and companions, inflated and rotated, for given departures."""
        update_key = jax.random.split(key)[0] if self.random else None
        return self.finished(key, prior, *self.update(update_key, (prior, companions), departures, streams))

    def finished(self, key: Any, prior: Any, posterior: Any, companions: Any = None) -> tuple[Any, Any]:
        """Return what `update` has found, inflated and rotated."""
        inflation = as_inflation(self.inflation)
        own = jax.random.fold_in(key, INFLATION) if inflation.random else None
        posterior = inflation.after(prior, posterior, own)
        if not self.rotation:
            return posterior, companions
        return rotated(jax.random.split(key)[1], (posterior, companions))  # type: ignore[no-any-return]


class GlobalFilter(EnsembleMethod):
    """Base of the filters whose posterior members are weighted sums of the prior ones, the same at every place.

    A subclass defines `weights`.
    """

    by_parts: ClassVar[bool] = False  # whether `weights` takes parts of the observations, and the axes to sum over

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
        if self.layout is None:
            return transformed(ensemble, self.weights(key, departures.S, departures.d))
        if self.by_parts:
            columns = departures.S, departures.d
            return self.layout.everywhere(_weighted_by_parts, ensemble, self, key, columns=columns)
        return self.layout.everywhere(_weighted, ensemble, self, key, departures.S, departures.d)

    def across_innovations(self, innovations: Float[Array, "N m"]) -> Float[Array, "N m"]:
        """Return the members' innovations, all members of an observation on one device where parts are summed."""
        return self.across(innovations) if self.by_parts else innovations  # type: ignore[no-any-return]


def _weighted_by_parts(ensemble: Any, method: Any, key: Any, S: Any, d: Any) -> Any:
    return transformed(ensemble, method.weights(key, S, d, over=method.layout.names))


def _weighted(ensemble: Any, method: GlobalFilter, key: Any, S: Any, d: Any) -> Any:
    return transformed(ensemble, method.weights(key, S, d))


@jax.jit
def _analyze(
    method: EnsembleMethod, key: Any, ensemble: Any, companions: Any, streams: tuple[Any, ...]
) -> tuple[Any, Any, AnalysisInfo]:
    given, ensemble = ensemble, method.repaired(key, ensemble)
    prior = as_inflation(method.inflation).before(ensemble)
    innovations = method.across_innovations(jax.vmap(whitened_innovation(streams, method.any_loss))(prior))
    departures = departures_of(innovations, streams)
    given, ensemble, prior, companions = map(method.across, (given, ensemble, prior, companions))
    found = method.posterior(key, prior, companions, departures, streams)
    posterior, companions = tree.select(departures.count > 0, found, (ensemble, companions))
    posterior = method.across(posterior)
    density = method.log_likelihood(departures, streams)
    info = account(given, prior, posterior, departures, density)
    if method.layout is not None:
        posterior, companions = method.layout.returned(posterior), method.layout.returned(companions)
    return posterior, companions, info


@jax.jit
def _analyze_along(
    method: EnsembleMethod, key: Any, ensemble: Any, states: Any, streams: tuple[Any, ...]
) -> tuple[Any, AnalysisInfo]:
    given, (ensemble, states) = ensemble, method.repaired(key, (ensemble, states))
    prior, states = as_inflation(method.inflation).before((ensemble, states))
    innovations = method.across_innovations(jax.vmap(innovation_along(streams, method.any_loss))(states))
    departures = departures_of(innovations, streams)
    given, ensemble, prior = map(method.across, (given, ensemble, prior))
    posterior, _ = method.posterior(key, prior, None, departures, streams)
    posterior = tree.select(departures.count > 0, posterior, ensemble)
    info = account(given, prior, posterior, departures, method.log_likelihood(departures, streams))
    return (posterior if method.layout is None else method.layout.returned(posterior)), info
