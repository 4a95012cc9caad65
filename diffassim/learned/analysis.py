"""An analysis by a network: from one forecast and the observations of a time to one state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import require_alike
from diffassim.core.errors import ConfigurationError
from diffassim.core.partition import compilable
from diffassim.core.pytree import Pytree
from diffassim.core.results import Result
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.departures import flat, whitened_innovation
from diffassim.methods.likelihood import chi_square
from diffassim.methods.sequential import SequentialMethod
from diffassim.observations.container import as_streams

__all__ = ["LearnedAnalysis", "Remembered"]


def parts_of(name: str, answer: Any, *parts: str) -> tuple[Any, ...]:
    """Return what a network answered, or raise `ConfigurationError` if it does not have these parts."""
    if not isinstance(answer, tuple | list) or len(answer) != len(parts):
        raise ConfigurationError(f"{name} must return ({', '.join(parts)}), found {type(answer).__name__}")
    return tuple(answer)


def remembered(name: str, following: Any, memory: Any) -> Any:
    """Return a memory in the types of the one before, or raise `ShapeError` if it is shaped otherwise."""
    require_alike(name, following, memory, "the memory that it got")
    return jax.tree.map(lambda new, old: jnp.asarray(new).astype(jnp.asarray(old).dtype), following, memory)


class Remembered(Pytree):
    """What a learned analysis hands on: a state, and what its network remembers.

    Args:
        state: the state.
        memory: the network's memory, or None.
    """

    state: Any
    memory: Any = None


class LearnedAnalysis(SequentialMethod):
    r"""A single state is analysed by a network, without ensemble and without covariance.

    .. math:: x_a = x_f + N(x_f, g),\qquad g = H'^\top R^{-1} (y - H(x_f))

    The network sees the forecast, and the direction in state space in which the observations would move it; so any
    operator, any R, several streams and gaps need no thought in it. With a memory it also returns what it wants to know
    next time, which the forecast leaves as it is: a substitute for the flow-dependent covariance that an ensemble
    carries. A linear network \(N = K g\) is a learned gain. Without any observed value the analysis is the forecast,
    bit by bit.

    It is a method for `da.cycle`; train it through whole cycles, with a loss of what the cycle returns.

    Args:
        network: callable pytree, (x, g) -> increment, or with a memory (x, g, memory) -> (increment, memory).
        memory: the network's memory at the start, or None.

    Raises:
        ConfigurationError, ShapeError: when it analyses, if the network returns something else.

    Example:
        >>> import diffassim as da
        >>> from diffassim.learned import Network
        >>> y = da.Observations(jnp.full((2, 3), 2.0), [1, 2], error=da.covariances.Diagonal(std=1.0))
        >>> still = da.models.FunctionModel(lambda x, t: x)
        >>> gain = LearnedAnalysis(Network(lambda K, x, g: K * g, 0.5))
        >>> da.cycle(gain, still, jnp.zeros(3), y)[0].state.tolist()
        [1.5, 1.5, 1.5]

    Source: Bocquet et al. (2024), section 2, for the analysis by a network from a single state.
    """

    network: Any
    memory: Any = None

    def __post_init__(self) -> None:
        self._set(network=compilable(f"{type(self).__name__}: network", self.network))

    def init(self, belief: Any) -> Remembered:
        """Return the state with the network's first memory; what was handed on before stays as it is."""
        if isinstance(belief, Remembered):
            return belief
        return Remembered(jax.tree.map(jnp.asarray, belief), self.memory)

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Remembered) -> Remembered:
        """Return the state at the next analysis time, and the memory as it is."""
        return belief.replace(state=propagate(belief.state))

    def analyze(self, key: Any, belief: Remembered, observations: Any) -> tuple[Remembered, AnalysisInfo]:
        """Return the analysed state and an account; spreads are zero, because none is known.

        Raises:
            ShapeError: if the increment is shaped unlike the state.
        """
        belief, streams = self.init(belief), as_streams(observations)
        x = belief.state
        departure = whitened_innovation(streams)
        d, pull = jax.vjp(departure, x)
        (g,) = pull(-d)
        name = type(self).__name__
        if self.memory is None:
            answer, memory = self.network(x, g), belief.memory
        else:
            answer, memory = parts_of(f"{name}: the network", self.network(x, g, belief.memory), "answer", "memory")
            memory = remembered(f"{name}: the network's memory", memory, belief.memory)
        change = self._increment(answer, x, departure, g)
        require_alike(f"{name}: the network's increment", change, x)
        count = jnp.sum(flat([stream.mask for stream in streams]))
        moved = Remembered(jax.tree.map(lambda old, new: old + new.astype(old.dtype), x, change), memory)
        posterior = tree.select(count > 0, moved, belief)
        none = jnp.zeros((), d.dtype)
        return posterior, AnalysisInfo(
            count=count,
            chi_square=chi_square(d, jnp.ones_like(d), count),
            background_spread=none,
            analysis_spread=none,
            log_likelihood=jnp.where(count > 0, jnp.nan, none),
            non_finite=jnp.sum(~tree.all_finite(x)),
            result=jnp.where(tree.all_finite(x) & tree.all_finite(posterior.state), Result.CONVERGED, Result.DIVERGED),
        )

    def _increment(self, answer: Any, x: Any, departure: Callable[[Any], Any], g: Any) -> Any:
        """Return the increment that follows from what the network says."""
        return answer

    def moments(self, belief: Remembered) -> tuple[Any, Any]:
        """Return the state, and zeros: nothing is known of its error."""
        return belief.state, tree.zeros_like(belief.state)
