"""The protocols of methods that analyse a window of time: of states, and of ensembles."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from diffassim.core.checks import real_state
from diffassim.core.errors import ShapeError, concrete
from diffassim.core.pytree import Pytree
from diffassim.observations.container import as_streams
from diffassim.observations.operators import check_operator

__all__ = ["EnsembleWindowMethod", "WindowAnalysis", "WindowMethod"]


class WindowAnalysis(NamedTuple):
    """What the analysis of a window returns.

    Args:
        state: analysis at the window start.
        search: the minimizer's account.
        errors: increments after each step of the window; None where the model is perfect.
        operators: the streams' operators with their analysed parameters; None where there are none.
        parameters: analysed parameters of the model by path: what the model of this window and the following ones has
            new; None where there are none.
    """

    state: Any
    search: Any
    errors: Any = None
    operators: Any = None
    parameters: Any = None


class WindowMethod(Pytree):
    """Base of the methods that analyse windows, whatever they hand on from one to the next.

    That is a state here; a subclass that hands on more (an ensemble) says so in `init`, `center` and `hand_on`.
    """

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers."""
        return False

    def init(self, belief: Any) -> Any:
        """Return what is cycled, checked."""
        return real_state("cycle: the background", belief)

    def check(self, model: Any) -> None:
        """Raise an error if the method is known not to work with a model (default: it works with any)."""

    def center(self, belief: Any) -> Any:
        """Return the background state."""
        return belief

    def analyze(
        self, key: Any, model: Any, belief: Any, observations: Any, start: Any, steps: int
    ) -> WindowAnalysis:  # fmt: skip
        """Return the analysis of a window.

        Args:
            key: random key; may be None where nothing is drawn.
            model: forward model.
            belief: background at the window start.
            observations: `Observations` of the window, or a tuple of them.
            start: number of the window's first step.
            steps: window length.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define analyze(key, model, belief, ...)")

    def hand_on(
        self, key: Any, model: Any, found: WindowAnalysis, belief: Any, observations: Any, start: Any, steps: int,
        shift: int, x_next: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Return the background at the start of the next window, and an account of what is not a state in it.

        Args:
            key: as for `analyze`.
            model: forward model with the analysed parameters.
            found: what `analyze` returned.
            belief: the background that was analysed.
            observations: of the window.
            start: number of the window's first step.
            steps: window length.
            shift: steps to the start of the next window.
            x_next: the state there that the trajectory of the analysis leads to.
        """
        return x_next, None


class EnsembleWindowMethod(Pytree):
    """Base of all methods that analyse an ensemble with the observations of a window, each at its own time.

    A subclass defines `analyze`.
    """

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers."""
        return False

    def prepared(self, ensemble: Any, windows: tuple[Any, ...]) -> tuple[Any, Any]:
        """Return the method that knows what can be found out about all windows; see `SequentialMethod.prepared`.

        Args:
            ensemble: members at the start; only shapes count.
            windows: streams with a leading axis of windows.
        """
        return self, None

    def at(self, number: Any) -> Any:
        """Return the prepared method for a window with this number (traced)."""
        return self

    def check(self, ensemble: Any, observations: Any, steps: int) -> None:
        """Raise an error if observations are known to lie outside of a window, or operators not to fit the state.

        Args:
            ensemble: members at the window start.
            observations: `Observations`, or a tuple of them.
            steps: window length.

        Raises:
            ShapeError: if an observation lies behind the end of the window, or an operator does not fit.
        """
        name = type(self).__name__
        x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), ensemble)
        for stream in as_streams(observations):
            check_operator(stream.operator, name, x, stream.where)
            known = concrete(stream.last_rows)
            if known is not None and known.size and known.max() > steps:
                raise ShapeError(
                    f"{name}: an observation at step {known.max()} lies behind the end of the window of {steps} steps"
                )

    def analyze(
        self, key: Any, model: Any, ensemble: Any, observations: Any, start: Any, steps: int, rows: Any
    ) -> tuple[Any, Any, Any]:
        """Analyse one window.

        Args:
            key: random key; may be None where nothing is drawn.
            model: forward model, `step(x, t) -> x` for one member.
            ensemble: prior ensemble at the window start, a pytree with a leading member axis, N >= 2.
            observations: `Observations` whose steps count from the window start, or a tuple of streams.
            start: number of the window's first step.
            steps: window length.
            rows: steps of the window at which the ensembles are wanted, shape (rows,).

        Returns:
            Prior and posterior ensemble at these rows, leaves of shape (N, rows, ...), and the account.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define analyze")
