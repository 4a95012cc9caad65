"""The stochastic ensemble Kalman filter with localized covariances."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.ensemble.enkf import perturbations
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.methods.departures import Departures
from diffassim.methods.members import anomalies

__all__ = ["LocalEnKF"]


class LocalEnKF(LocalizedMethod):
    r"""An EnKF whose sample covariances are multiplied by a taper, all observations at once.

    With the coefficients \(\rho_{xy}\) between state and observations, \(\rho_{yy}\) among the observations, and
    perturbations \(\varepsilon_i \sim N(0, I)\),

    .. math::
        x_{a,i} = x_{f,i} + \Big(\rho_{xy} \circ \frac{X^\top S}{N - 1}\Big)
        \Big(\rho_{yy} \circ \frac{S^\top S}{N - 1} + I\Big)^{-1} (d - S_i + \varepsilon_i)

    It solves a system of the order m and keeps the coefficients of all points and observations; where both are many,
    the `SerialEnKF` or the `LETKF` serve. Derivatives hold for fixed draws (the key).

    Args:
        inflation, rotation, localization, grid, places: as for `LocalizedMethod`.

    Raises:
        ConfigurationError: if there is no localization.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((1, 40), 8.0), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (7, 40))
        >>> method = LocalEnKF(localization=da.ensemble.GaspariCohn(4.0))
        >>> posterior, info = method.analyze(jax.random.key(1), ensemble, y)
        >>> bool(info.analysis_spread < info.background_spread)
        True

    Source: Houtekamer and Mitchell (2001), for one batch of all observations; Hamill, Whitaker and Snyder (2001).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_localization("EnKF")

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers: always."""
        return True

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        S, shape = departures.S, self.grid_shape(ensemble)
        N, count = S.shape
        places = jnp.where(departures.observed[:, None], self.stream_places(streams, shape), 0)
        among = self.taper(places[:, None], places[None], shape, S.dtype)
        expected = jnp.eye(count, dtype=S.dtype) + among * (S.T @ S) / (N - 1)
        # Not by Cholesky: along a periodic axis, a long taper is not quite positive.
        weights = jnp.linalg.solve(expected, (departures.d[None] - S + perturbations(key, S)).T)
        to_state = self.taper(self.grid.points(shape)[:, None], places[None], shape, S.dtype)

        def moved(leaf: Any, X: Any) -> Any:
            columns = X.reshape(N, -1, to_state.shape[0])
            gain = jnp.einsum("ncp,nm,pm->cpm", columns, S.astype(leaf.dtype), to_state.astype(leaf.dtype)) / (N - 1)
            return leaf + jnp.einsum("cpm,mn->ncp", gain, weights.astype(leaf.dtype)).reshape(leaf.shape)

        return jax.tree.map(moved, ensemble, anomalies(ensemble))
