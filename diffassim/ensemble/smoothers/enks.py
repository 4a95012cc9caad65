"""The ensemble Kalman smoother, of fixed lag or over a fixed interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static
from diffassim.ensemble.base import EnsembleMethod
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.members import check_ensemble, mean, spread
from diffassim.methods.sequential import SequentialMethod

__all__ = ["EnKS", "Lagged"]


class Lagged(Pytree):
    """Members now and at earlier analysis times, what `EnKS` hands on.

    Args:
        members: pytree of leaves (N, lag + 1, ...); row l holds the members l analysis times ago.
    """

    members: Any


class EnKS(SequentialMethod):
    r"""Ensemble Kalman smoother: what a filter does to the members now is done to those of earlier times as well.

    The filter's weights W at time k are those of the whole history of a member,
    \(x_{i}(t_l) \leftarrow \bar x(t_l) + \sum_j W_{ij} x_j'(t_l)\) for the `lag` analysis times \(t_l\) before; those
    still further back are left as they are. Any filter serves; with a `LETKF` an earlier state gets the weights of its
    own grid point. Inflation acts on the members now alone, for a sum over many analyses it has no reason.

    Cycled (`da.cycle`), moments and members have an axis of lag + 1 rows after that of time: row 0 is the filter, row l
    the estimate for l analysis times before, from all observations until now. The last row is the smoother of fixed
    lag. With a lag of one less than the number of analysis times, the last analysis is the smoother over a fixed
    interval, with its rows backward in time. Rows from before the first analysis hold the initial ensemble.

    Args:
        filter: any `EnsembleMethod`.
        lag: analysis times that an observation acts back on, at least 1 (static).

    Raises:
        ConfigurationError: if `filter` is no ensemble filter, or the lag is below 1.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[jnp.nan], [3.0]]), [0, 1], error=da.covariances.Diagonal(std=1.0))
        >>> doubling = da.models.FunctionModel(lambda x, t: 2 * x)
        >>> _, history = da.cycle(EnKS(da.ETKF(), lag=1), doubling, jnp.array([[-1.0], [0.0], [1.0]]), y)
        >>> history.analysis.mean[-1].ravel().round(4).tolist()  # x(1) = 2 x(0)
        [2.4, 1.2]

    Source: Evensen and van Leeuwen (2000); Evensen (2003), section 4.3.4; localized: Khare et al. (2008).
    """

    filter: Any
    lag: int = static(default=1)

    def __post_init__(self) -> None:
        if not isinstance(self.filter, EnsembleMethod):
            raise ConfigurationError(
                f"EnKS: filter must be an ensemble filter like ETKF(), found {type(self.filter).__name__}"
            )
        if self.lag < 1:
            raise ConfigurationError(f"EnKS: lag={self.lag} must be at least 1; without a lag use the filter itself")

    @property
    def random(self) -> bool:
        """Whether the filter draws random numbers."""
        return self.filter.random

    def init(self, belief: Any) -> Lagged:
        """Return what is cycled.

        Args:
            belief: ensemble at the start, or the `Lagged` members that a cycle returned.

        Raises:
            ShapeError: if there are fewer than two members, or another number of rows than the lag asks for.
        """
        rows = self.lag + 1
        if not isinstance(belief, Lagged):
            ensemble = check_ensemble("EnKS", belief)
            return Lagged(jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], rows, axis=1), ensemble))
        members = check_ensemble("EnKS", belief.members)
        found = {leaf.shape[1:2] for leaf in jax.tree.leaves(members)}
        if found != {(rows,)}:
            raise ShapeError(f"EnKS: a lag of {self.lag} needs {rows} rows of each member, found {sorted(found)}")
        return Lagged(members)

    def check(self, belief: Lagged, observations: Any) -> None:
        """Check what the filter needs."""
        self.filter.check(jax.tree.map(lambda leaf: leaf[:, 0], belief.members), observations)

    def prepared(self, belief: Lagged, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> tuple[Any, Any]:
        """Return the smoother whose filter is prepared."""
        now = jax.tree.map(lambda leaf: leaf[:, 0], belief.members)
        prepared, numbers = self.filter.prepared(now, streams, rows, real)
        return self.replace(filter=prepared), numbers

    def at(self, number: Any) -> Any:
        """Return the smoother whose filter is that of a time with this number."""
        return self.replace(filter=self.filter.at(number))

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Lagged) -> Lagged:
        """Return the members at the next analysis time in front of the earlier ones, without the oldest."""
        now = self.filter.forecast(key, propagate, jax.tree.map(lambda leaf: leaf[:, 0], belief.members))
        return Lagged(_in_front(now, jax.tree.map(lambda leaf: leaf[:, :-1], belief.members)))

    def analyze(self, key: Any, belief: Lagged, observations: Any) -> tuple[Lagged, AnalysisInfo]:
        """Return the members of all rows after the observations of the time of row 0, and the filter's account.

        Args:
            key: random key; may be None where nothing is drawn.
            belief: `Lagged` members, or an ensemble whose past is not known.
            observations: `Observations` whose rows all hold now, or a tuple of streams.

        Raises:
            ShapeError, ConfigurationError: as `init`, and as the filter's `analyze`.
        """
        belief = self.init(belief)
        now, past = (jax.tree.map(lambda leaf, k=k: leaf[:, k], belief.members) for k in (0, slice(1, None)))
        now, past, info = self.filter.analyze_with(key, now, past, observations)
        return Lagged(_in_front(now, past)), info

    def moments(self, belief: Lagged) -> tuple[Any, Any]:
        """Return mean and standard deviation of every row and component."""
        return mean(belief.members), spread(belief.members)


def _in_front(now: Any, past: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:, None], b], axis=1), now, past)
