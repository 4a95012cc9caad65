"""Filters of observations that were taken at different times of a window."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete
from diffassim.ensemble.base import EnsembleMethod
from diffassim.ensemble.inflation import as_inflation
from diffassim.methods.account import AnalysisInfo, account
from diffassim.methods.departures import along_window, departures_of
from diffassim.methods.members import check_ensemble
from diffassim.methods.sequential import require_key
from diffassim.methods.windows import EnsembleWindowMethod
from diffassim.observations.container import as_streams

__all__ = ["AsynchronousFilter"]


class AsynchronousFilter(EnsembleWindowMethod):
    r"""An ensemble filter whose observations were taken at different times of a window: 4D-ETKF, 4D-LETKF, AEnKF.

    Innovations and observed anomalies are those of the members' trajectories at the times of the observations. The
    weights that the filter finds hold at all times of the window (as far as the dynamics is linear), so the model is
    run once: \(x_{a,i}(t) = \bar x_f(t) + \sum_j W_{ij} x_{f,j}'(t)\), for a local method with weights of each point.

    Args:
        filter: any `EnsembleMethod`; its inflation and rotation act once, on the whole trajectories.

    Raises:
        ConfigurationError: if `filter` is something else.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0], [3.0]]), [0, 1], error=da.covariances.Diagonal(std=1.0))
        >>> doubling = da.models.FunctionModel(lambda x, t: 2 * x)
        >>> method = AsynchronousFilter(da.ETKF())
        >>> _, x_a, _ = method.analyze(None, doubling, jnp.array([[-1.0], [0.0], [1.0]]), y, 0, 1, [0, 1])
        >>> x_a.mean(0).ravel().round(4).tolist()  # 3 + 2 * 3 of the innovations, over 1 + 1 + 4 of the precisions
        [1.5, 3.0]

    Source: Hunt et al. (2004); Hunt, Kostelich and Szunyogh (2007), section 4; Sakov, Evensen and Bertino (2010).
    """

    filter: Any

    def __post_init__(self) -> None:
        if not isinstance(self.filter, EnsembleMethod):
            raise ConfigurationError(
                f"AsynchronousFilter: filter must be an ensemble filter like ETKF(), found {type(self.filter).__name__}"
            )
        require_perfect_model("AsynchronousFilter", self.filter)
        self.filter.require_departures("AsynchronousFilter")
        if self.filter.replace_failed:
            raise ConfigurationError("AsynchronousFilter: failed members cannot be replaced along a window")

    @property
    def random(self) -> bool:
        """Whether the filter draws random numbers."""
        return self.filter.random

    def prepared(self, ensemble: Any, windows: tuple[Any, ...]) -> tuple[Any, Any]:
        """Return the method whose filter is prepared; all rows of a window are analysed together."""
        streams = tuple(_rows_of_windows(stream) for stream in windows)
        if any(stream is None for stream in streams):
            return self, None
        rows = [np.arange(stream.steps.size).reshape(stream.steps.shape) for stream in windows]
        prepared, numbers = self.filter.prepared(ensemble, streams, rows, [np.ones(own.shape, bool) for own in rows])
        return self.replace(filter=prepared), numbers

    def check(self, ensemble: Any, observations: Any, steps: int) -> None:
        """Check what the window needs, and what the filter needs."""
        super().check(ensemble, observations, steps)
        self.filter.check(ensemble, observations)

    def at(self, number: Any) -> Any:
        """Return the method whose filter is that of a window with this number."""
        return self.replace(filter=self.filter.at(number))

    def analyze(
        self, key: Any, model: Any, ensemble: Any, observations: Any, start: Any, steps: int, rows: Any
    ) -> tuple[Any, Any, AnalysisInfo]:
        """Analyse one window; see `EnsembleWindowMethod.analyze`.

        Raises:
            ShapeError: if the ensemble has fewer than two members or does not fit the observations.
            ConfigurationError: if a key is needed and missing.
        """
        name = type(self).__name__
        require_key(name, self.random, key)
        prior, streams = prior_of(name, self.filter.inflation, ensemble, observations)
        self.check(prior, streams, steps)
        path = along_window(model, streams, start, steps)
        background, innovations = jax.vmap(path, (0, None))(prior, rows)
        departures = departures_of(innovations, streams)
        posterior, _ = self.filter.posterior(key, background, None, departures, streams)
        posterior = tree.select(departures.count > 0, posterior, background)
        density = self.filter.log_likelihood(departures, streams)
        return background, posterior, account(ensemble, background, posterior, departures, density)


class _Rows(NamedTuple):
    """Rows of all windows one after the other, as far as places depend on them."""

    operator: Any
    values: Any
    mask: Any
    where: Any
    steps: Any


def _rows_of_windows(stream: Any) -> _Rows | None:
    """Return the rows of all windows of a stream; None where its operator is traced or differs between windows."""
    numbers = [concrete(leaf) for leaf in jax.tree.leaves(stream.operator)]
    if any(leaf is None or not np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)) for leaf in numbers):
        return None
    operator = jax.tree.map(lambda leaf: leaf[0], stream.operator)
    joined = [
        jax.tree.map(lambda leaf: jnp.reshape(leaf, (-1, *jnp.shape(leaf)[2:])), part)
        for part in (stream.values, stream.mask, stream.where, stream.steps)
    ]
    return _Rows(operator, *joined)


def require_perfect_model(name: str, method: EnsembleMethod) -> None:
    """Raise `ConfigurationError` if a filter has a Q, which a method that runs the model itself would leave out."""
    if method.Q is not None:
        raise ConfigurationError(
            f"{name}: the filter's Q would be left out here; use AdditiveInflation(Q) in its place"
        )


def prior_of(name: str, inflation: Any, ensemble: Any, observations: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the checked ensemble after prior inflation (none where nothing is observed), and the streams."""
    ensemble, streams = check_ensemble(name, ensemble), as_streams(observations)
    observed = jnp.asarray(sum(stream.count() for stream in streams)) > 0
    return tree.select(observed, as_inflation(inflation).before(ensemble), ensemble), streams
