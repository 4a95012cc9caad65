"""An ensemble analysis that a network corrects: its mean is moved, its spread is scaled, at every component."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import require_alike
from diffassim.core.errors import ConfigurationError
from diffassim.core.partition import compilable
from diffassim.core.results import Result
from diffassim.ensemble.base import EnsembleMethod
from diffassim.learned.analysis import Remembered, parts_of, remembered
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.departures import whitened_innovation
from diffassim.methods.members import anomalies, check_ensemble, mean, recombine, spread, total_spread
from diffassim.methods.sequential import SequentialMethod, require_key
from diffassim.observations.container import as_streams

__all__ = ["LearnedEnsembleUpdate"]


class LearnedEnsembleUpdate(SequentialMethod):
    r"""An ensemble filter whose analysis a network corrects, from what the ensemble and the observations say.

    .. math::
        (\delta, s, h) = N(\bar x_f,\, \bar x_a,\, \sigma_f,\, \sigma_a,\, g,\, h),\qquad
        x_i \leftarrow \bar x_a + \delta + e^{s} (x_{a,i} - \bar x_a)

    with means and spreads of the forecast and of the filter's analysis, and \(g = H'^\top R^{-1}(y - H(\bar x_f))\),
    the direction in state space in which the observations would move the mean. So it does not matter in which order
    members come or how many they are, and operator and R need no thought in the network. Small ensembles may know
    through it what only large ones tell: where their gain and their spread are wrong. What it remembers (h) stays as it
    is from one analysis to the next. A network that returns zeros leaves the filter as it is; without any observed
    value the analysis is the filter's, bit by bit.

    Inflation, radius and other numbers of the filter are leaves as well, and are trained along with the network unless
    they are frozen. Train it through whole cycles, with a loss of what the cycle returns.

    Args:
        filter: any `EnsembleMethod`.
        network: callable pytree, from a dict of states (`prior_mean`, `prior_spread`, `mean`, `spread`, `pull`) to
            (shift, log scale), shaped like the state; with a memory (dict, memory) -> (shift, log scale, memory).
        memory: the network's memory at the start, or None.

    Raises:
        ConfigurationError: if `filter` is no ensemble filter.

    Example:
        >>> import diffassim as da
        >>> from diffassim.learned import Network
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> wider = Network(lambda w, seen: (0 * seen["mean"], w + 0 * seen["mean"]), jnp.log(2.0))
        >>> members = jnp.array([[-1.0], [0.0], [1.0]])
        >>> plain, _ = da.ETKF().analyze(None, members, y)
        >>> found, info = LearnedEnsembleUpdate(da.ETKF(), wider).analyze(None, members, y)
        >>> float((found.state.std() / plain.std()).round(6)), bool(jnp.allclose(found.state.mean(), plain.mean()))
        (2.0, True)

    Source: Bach et al. (2025) for filters whose update is learned as a function of the whole ensemble; the
    correction of a classical filter, its inputs and its memory are our own.
    """

    filter: Any
    network: Any
    memory: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.filter, EnsembleMethod):
            raise ConfigurationError(
                f"LearnedEnsembleUpdate: filter must be an ensemble filter like LETKF(), found "
                f"{type(self.filter).__name__}"
            )
        self._set(network=compilable("LearnedEnsembleUpdate: network", self.network))

    @property
    def random(self) -> bool:
        """Whether the filter draws random numbers."""
        return self.filter.random

    def init(self, belief: Any) -> Remembered:
        """Return the ensemble with the network's first memory; what was handed on before stays as it is."""
        known = belief if isinstance(belief, Remembered) else Remembered(belief, self.memory)
        return known.replace(state=check_ensemble("LearnedEnsembleUpdate", known.state))

    def check(self, belief: Remembered, observations: Any) -> None:
        """Check what the filter needs."""
        self.filter.check(belief.state, observations)

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> tuple[Any, Any]:
        """Return the method whose filter is prepared."""
        prepared, numbers = self.filter.prepared(belief.state, streams, rows, real)
        return self.replace(filter=prepared), numbers

    def at(self, number: Any) -> Any:
        """Return the method whose filter is that of a time with this number."""
        return self.replace(filter=self.filter.at(number))

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Remembered) -> Remembered:
        """Return the members at the next analysis time, and the memory as it is."""
        return belief.replace(state=self.filter.forecast(key, propagate, belief.state))

    def analyze(self, key: Any, belief: Any, observations: Any) -> tuple[Remembered, AnalysisInfo]:
        """Return the corrected analysis, and the filter's account with the corrected spread.

        Args:
            key: random key; may be None where the filter draws nothing.
            belief: `Remembered`, or an ensemble.
            observations: `Observations` whose rows all hold now, or a tuple of streams.

        Raises:
            ShapeError: if shift or scale are shaped unlike the state.
            ShapeError, ConfigurationError: as the filter's `analyze`.
        """
        require_key("LearnedEnsembleUpdate", self.random, key)
        belief, streams = self.init(belief), as_streams(observations)
        self.check(belief, streams)
        prior = self.filter.repaired(key, belief.state)
        posterior, info = self.filter.analyze(key, belief.state, streams)
        before, after = mean(prior), mean(posterior)
        d, pull = jax.vjp(whitened_innovation(streams), before)
        (g,) = pull(-d)
        seen = {
            "prior_mean": before, "prior_spread": spread(prior), "mean": after, "spread": spread(posterior), "pull": g,
        }  # fmt: skip
        name = "LearnedEnsembleUpdate: the network"
        if self.memory is None:
            (shift, scale), memory = parts_of(name, self.network(seen), "shift", "log scale"), belief.memory
        else:
            answer = self.network(seen, belief.memory)
            shift, scale, memory = parts_of(name, answer, "shift", "log scale", "memory")
            memory = remembered(f"{name}'s memory", memory, belief.memory)
        for what, part in (("shift", shift), ("log scale", scale)):
            require_alike(f"{name}'s {what}", part, after)
        center = jax.tree.map(lambda m, change: m + change.astype(m.dtype), after, shift)
        X = jax.tree.map(lambda x, s: jnp.exp(s.astype(x.dtype))[None] * x, anomalies(posterior), scale)
        moved = Remembered(recombine(center, X), memory)
        corrected = tree.select(info.count > 0, moved, belief.replace(state=posterior))
        sound = tree.all_finite(corrected.state)
        result = jnp.where(sound, info.result, jnp.asarray(Result.DIVERGED, info.result.dtype))
        return corrected, info.replace(analysis_spread=total_spread(corrected.state), result=result)

    def moments(self, belief: Remembered) -> tuple[Any, Any]:
        """Return mean and standard deviation of every component of the state."""
        return mean(belief.state), spread(belief.state)
