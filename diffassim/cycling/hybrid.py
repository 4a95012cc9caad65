"""4D-Var whose background errors are partly those of an ensemble cycled beside it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.covariances import Ensemble
from diffassim.cycling.variational import FourDVar
from diffassim.ensemble.base import EnsembleMethod
from diffassim.ensemble.smoothers.asynchronous import require_perfect_model
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.departures import along_window, departures_of
from diffassim.methods.members import anomalies, check_ensemble, mean, recombine
from diffassim.methods.windows import WindowAnalysis, WindowMethod
from diffassim.models.rollout import rollout
from diffassim.observations.container import as_streams, observed_rows

__all__ = ["HybridFourDVar"]


class HybridFourDVar(WindowMethod):
    r"""Hybrid ensemble 4D-Var as an analysis method for `cycle`.

    The background is an ensemble \(x_i\). Its mean \(x_b\) is analysed by 4D-Var with

    .. math:: P = a B + b\, C \circ P_f,\quad P_f = \tfrac{1}{N-1} \sum_i (x_i - x_b)(x_i - x_b)^\top

    and its departures from the mean by an ensemble filter that sees all observations of the window along the members'
    trajectories, which start from the 4D-Var analysis. The analysed members are centered on that analysis, run to the
    start of the next window, and are centered there on the trajectory of the analysis.

    An ensemble that has lost the truth claims a small error, and the small static part that serves best as long as it
    has not brings it back too slowly. With `recovery` \(\gamma\) the static weight is
    \(a \max(1, \chi^2)^\gamma\), where \(\chi^2\) sets the innovations of the window against the ensemble's spread
    (`AnalysisInfo`): it stays a where both agree.

    With b = 0 the means are those of `FourDVar(B)`; with a = 0, b = 1, a linear model, and windows of one observation
    time, the ensemble is that of the ETKF. An inflation of the prior acts on the departures alone: b belongs to it.

    Args:
        variational: `FourDVar`; its B is the static covariance.
        ensemble: `EnsembleMethod` that updates the departures (`ETKF`, `LETKF`, ...), with its inflation.
        static_weight: a >= 0.
        ensemble_weight: b >= 0.
        localization: covariance of unit variance on the trailing axes, see `Ensemble`, for the C above; None for none.
        recovery: \(\gamma \geq 0\), for instance 2; None: the weights stay what they are. It costs one more run of the
            ensemble.

    Raises:
        ConfigurationError: if a weight or `recovery` is negative, both weights are zero, B is missing, or `ensemble`
            is no `EnsembleMethod`.

    Example:
        >>> import diffassim as da
        >>> one, still = da.covariances.Diagonal(std=1.0), da.models.FunctionModel(lambda x, t: x)
        >>> windows = da.split_windows(da.Observations(jnp.full((2, 1), 3.0), [1, 2], error=one), 1, 2)
        >>> method = HybridFourDVar(da.FourDVar(one), da.ETKF(), static_weight=0.0, ensemble_weight=1.0)
        >>> members, _ = da.cycle(method, still, jnp.array([[-1.0], [0.0], [1.0]]), windows, steps=1)
        >>> members.mean(0).round(6).tolist()  # variance 1, 1/2, 1/3: the Kalman filter
        [2.0]

    Source: Hamill and Snyder (2000), equation 4; Lorenc (2003), section 4; Buehner et al. (2010); ensemble update along
    the window: Hunt et al. (2004); around the analysis: Bocquet and Sakov (2014), section 2.
    """

    variational: Any
    ensemble: Any
    static_weight: Any = 0.5
    ensemble_weight: Any = 0.5
    localization: Any = None
    recovery: Any = None

    def __post_init__(self) -> None:
        weights = [concrete(w) for w in (self.static_weight, self.ensemble_weight)]
        if any(w is not None and not w >= 0 for w in weights) or all(w is not None and w == 0 for w in weights):
            raise ConfigurationError(
                "HybridFourDVar: the weights must not be negative, and not both zero; found static_weight="
                f"{self.static_weight}, ensemble_weight={self.ensemble_weight}"
            )
        known = concrete(self.recovery)
        if known is not None and not known >= 0:
            raise ConfigurationError(f"HybridFourDVar: recovery={self.recovery} must not be negative")
        if not isinstance(self.ensemble, EnsembleMethod):
            raise ConfigurationError(
                f"HybridFourDVar: `ensemble` must be an ensemble filter like ETKF(), found {self.ensemble!r}"
            )
        require_perfect_model("HybridFourDVar", self.ensemble)
        self.ensemble.require_departures("HybridFourDVar")
        if not isinstance(self.variational, FourDVar) or self.variational.B is None:
            raise ConfigurationError("HybridFourDVar: `variational` must be a FourDVar with a covariance B")

    @property
    def random(self) -> bool:
        """Whether the ensemble filter draws random numbers."""
        return self.ensemble.random

    def init(self, belief: Any) -> Any:
        """Return the ensemble, checked."""
        return check_ensemble("HybridFourDVar", belief)

    def check(self, model: Any) -> None:
        """Raise an error if `variational` cannot analyse windows of the model."""
        self.variational.check(model)

    def center(self, belief: Any) -> Any:
        """Return the mean of the ensemble."""
        return mean(belief)

    def analyze(
        self, key: Any, model: Any, belief: Any, observations: Any, start: Any, steps: int
    ) -> WindowAnalysis:  # fmt: skip
        """Return what `FourDVar.analyze` does, from the mean of the ensemble and with the hybrid covariance."""
        static = self.static_weight
        if self.recovery is not None:
            streams = as_streams(observations)
            _, innovations = jax.vmap(along_window(model, streams, start, steps))(belief)
            chi_square = departures_of(innovations, streams).chi_square()
            static = static * jnp.maximum(1, chi_square) ** jnp.asarray(self.recovery, chi_square.dtype)
        P = static * self.variational.B + self.ensemble_weight * Ensemble(belief, self.localization)
        return self.variational.replace(B=P).analyze(key, model, self.center(belief), observations, start, steps)

    def hand_on(
        self, key: Any, model: Any, found: WindowAnalysis, belief: Any, observations: Any, start: Any, steps: int,
        shift: int, x_next: Any,
    ) -> tuple[Any, AnalysisInfo]:  # fmt: skip
        """Return the ensemble at the start of the next window, and the ensemble filter's account."""

        def trajectories(ensemble: Any, at: Any) -> Any:
            options = {"start": start, "at": at, "forcing": found.errors}
            return jax.vmap(lambda x: rollout(model, x, steps, **options))(ensemble)

        around = recombine(found.state, anomalies(belief))
        states = trajectories(around, observed_rows(observations))
        posterior, info = self.ensemble.analyze_along(key, around, states, observations)
        # Its innovations are those of the analysis, which has seen the observations: no density of a forecast.
        info = info.replace(log_likelihood=jnp.full_like(info.log_likelihood, jnp.nan))
        posterior = recombine(found.state, anomalies(posterior))
        ends = jax.tree.map(lambda leaf: leaf[:, 0], trajectories(posterior, jnp.asarray([shift], jnp.int32)))
        return recombine(x_next, anomalies(ends)), info
