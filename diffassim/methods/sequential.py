"""The protocol of methods that analyse one time after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.members import check_ensemble, mean, spread
from diffassim.observations.container import as_streams
from diffassim.observations.operators import check_operator

__all__ = ["SequentialMethod", "require_key"]


class SequentialMethod(Pytree):
    """Base of all methods that analyse one time after the other, whatever stands for what they know of the state.

    What they know, the belief, is an ensemble here; a subclass may hand on something else (a mean with the square root
    of a covariance, members with weights) if it says how that is checked, forecast, analysed and summarized.
    """

    @property
    def random(self) -> bool:
        """Whether forecast or analysis draw random numbers."""
        return False

    def init(self, belief: Any) -> Any:
        """Return what the method cycles, checked: an ensemble."""
        return check_ensemble(type(self).__name__, belief)

    def state_like(self, belief: Any) -> Any:
        """Return the shapes of one state."""
        return jax.eval_shape(lambda belief: self.moments(belief)[0], belief)

    def check(self, belief: Any, observations: Any) -> None:
        """Raise an error if what is known of the streams' operators and places does not fit the state.

        `cycle` and `analyze` call it where a user calls them; traced numbers pass.

        Args:
            belief: what `init` returned.
            observations: `Observations`, or a tuple of them.
        """
        x = self.state_like(belief)
        for stream in as_streams(observations):
            check_operator(stream.operator, type(self).__name__, x, stream.where)

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Any) -> Any:
        """Return the belief at the next analysis time.

        Args:
            key: random key; None where the method draws nothing.
            propagate: takes one state to the next analysis time. With a second argument, which makes another step
                (x, t) -> x of the model's, it takes what that step works on: a whole ensemble, a `Gaussian`.
            belief: what `init` or `analyze` returned.
        """
        return jax.vmap(propagate)(belief)

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> tuple[Any, Any]:
        """Return the method that knows what can be found out, outside of traced code, about a whole record.

        A cycle calls it once, before it is compiled; a method that wraps another passes it on.

        Args:
            belief: what `init` returned; only shapes count.
            streams: the record, a tuple of `Observations`.
            rows: for each stream, the rows of every analysis time, shape (time, rows); None: one time has all.
            real: for each stream, False where a row is padding.

        Returns:
            The method, and for each time the number that `at` is given there, shape (time,); None where one method
            serves all times.
        """
        return self, None

    def at(self, number: Any) -> Any:
        """Return the prepared method for a time with this number (traced)."""
        return self

    def analyze(self, key: Any, belief: Any, observations: Any) -> tuple[Any, AnalysisInfo]:
        """Return the belief after the observations of one time, and an account."""
        raise NotImplementedError(f"{type(self).__name__} does not define analyze(key, belief, observations)")

    def estimate(self, belief: Any, info: Any) -> tuple[tuple[Any, Any], Any]:
        """Return mean and standard deviation of an analysis, and the account without what only they needed.

        They are the moments of what is handed on, unless that holds more chance than the analysis does (particles that
        were resampled).

        Args:
            belief: what `analyze` returned.
            info: its account.
        """
        return self.moments(belief), info

    def moments(self, belief: Any) -> tuple[Any, Any]:
        """Return mean and standard deviation of every component of the state."""
        return mean(belief), spread(belief)


def require_key(name: str, random: bool, key: Any) -> None:
    """Raise `ConfigurationError` if a method that draws random numbers has no key."""
    if random and key is None:
        raise ConfigurationError(f"{name} draws random numbers here; give key=jax.random.key(...)")
