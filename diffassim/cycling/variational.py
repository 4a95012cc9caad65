"""Cycled variational assimilation: analysis, forecast to the next window, and so on, in one scan."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.errors import AssimilationWarning, ConfigurationError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.cycling.windows import checked_shift
from diffassim.models.rollout import rollout
from diffassim.variational.gauss_newton import GaussNewton
from diffassim.variational.minimize import minimize
from diffassim.variational.solution import Minimum
from diffassim.variational.strong_constraint import StrongConstraint4DVar
from diffassim.variational.weak_constraint import WeakConstraint4DVar

__all__ = ["FourDVar", "History", "WindowMethod", "cycle_windows"]


class WindowMethod(Pytree):
    """Base of the methods that analyse windows, whatever they hand on from one to the next.

    That is a state here; a subclass that hands on more (an ensemble) says so in `init`, `center` and `hand_on`.
    """

    def init(self, belief: Any) -> Any:
        """Return what is cycled, checked."""
        return belief

    def center(self, belief: Any) -> Any:
        """Return the background state."""
        return belief

    def analyze(
        self, model: Any, belief: Any, observations: Any, start: Any, steps: int
    ) -> tuple[Any, Any, Minimum, Any]:
        """Return the analysis at the window start, the analysed model, the account of the search, and model errors.

        Args:
            model: forward model.
            belief: background at the window start.
            observations: `Observations` of the window, or a tuple of them.
            start: number of the window's first step.
            steps: window length.

        Returns:
            Analysis, model, `Minimum`, and the increments after each step of the window (None where there are none).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define analyze(model, belief, observations, ...)")

    def hand_on(
        self, model: Any, belief: Any, observations: Any, start: Any, steps: int, shift: int, x_a: Any, x_next: Any,
        errors: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Return the background at the start of the next window, and an account of what is not a state in it.

        Args:
            model: the analysed model.
            belief: the background that was analysed.
            observations: of the window.
            start: number of the window's first step.
            steps: window length.
            shift: steps to the start of the next window.
            x_a: analysis at the window start.
            x_next: the state there that the trajectory of the analysis leads to.
            errors: what `analyze` returned as model errors.
        """
        return x_next, None


class FourDVar(WindowMethod):
    """4D-Var as an analysis method for `cycle`: strong-constraint, or with Q weak-constraint.

    Args:
        B: background-error covariance, the same in every window.
        minimizer: see `minimize`.
        parameters: background-error covariance by model attribute; the analysed model is handed on to the next window.
        unrolled: differentiate through the minimizer's iterations instead of implicitly (static).
        Q: model-error covariance of `every` steps; the next background is then the end of a trajectory with the
            analysed model errors in it. None: the model is perfect.
        every: model steps between model errors (static).
        form: `WeakConstraint4DVar` or `StateWeakConstraint4DVar`, what is controlled where there is a Q (static).

    Raises:
        ConfigurationError: if `every` or `form` is given without Q.

    Example:
        >>> import diffassim as da
        >>> one, still = da.covariances.Diagonal(std=1.0), da.models.FunctionModel(lambda x, t: x)
        >>> windows = da.split_windows(da.Observations(jnp.full((2, 1), 3.0), [1, 2], error=one), 1, 2)
        >>> x, _, _ = da.cycle(FourDVar(one, Q=one), still, jnp.zeros(1), windows, steps=1)
        >>> x.round(6).tolist()  # 0 -> 2 -> 2 + 2/3
        [2.666667]
    """

    B: Any
    minimizer: Any = GaussNewton()
    parameters: Any = None
    unrolled: bool = static(default=False)
    Q: Any = None
    every: int = static(default=1)
    form: Any = static(default=WeakConstraint4DVar)

    def __post_init__(self) -> None:
        if self.Q is None and (self.every != 1 or self.form is not WeakConstraint4DVar):
            raise ConfigurationError("FourDVar: `every` and `form` belong to a model-error covariance; give Q")

    def analyze(
        self, model: Any, belief: Any, observations: Any, start: Any, steps: int
    ) -> tuple[Any, Any, Minimum, Any]:
        """Return the analysis at the window start, the analysed model, the account of the search, and model errors."""
        options = {"parameters": self.parameters, "start": start, "steps": steps}
        cost: Any
        if self.Q is None:
            cost = StrongConstraint4DVar(model, belief, self.B, observations, **options)
        else:
            cost = self.form(model, belief, self.B, self.Q, observations, every=self.every, **options)
        solution = minimize(cost, self.minimizer, unrolled=self.unrolled)
        return solution.state, solution.model, solution.search, cost.forcing(solution.control, steps)


class History(Pytree):
    """What `cycle_windows` keeps of every window (leading axis: window).

    Args:
        background: trajectory from the background, rows `at`.
        analysis: trajectory from the analysis (with the analysed model errors), rows `at`.
        search: the minimizer's account of each window.
        ensemble: the ensemble filter's account of each window (`AnalysisInfo`), where there is an ensemble.
    """

    background: Any
    analysis: Any
    search: Minimum
    ensemble: Any = None


def cycle_windows(
    method: Any,
    model: Any,
    background: Any,
    windows: Any,
    *,
    steps: int,
    shift: int | None = None,
    start: Any = 0,
    at: Any = None,
) -> tuple[Any, Any, History]:
    """Alternate analysis and forecast over consecutive windows, which may overlap.

    The background of a window is the trajectory of the analysis before it, `shift` steps after that window's start.

    `da.cycle` calls it for a method that analyses windows. The whole cycle is one scan: it compiles once, can be
    batched over experiments, and losses pass through it. To stop and go on later, call it on part of the windows and
    pass on what it returns; the result is the same.

    Args:
        method: `FourDVar`, `HybridFourDVar`, or another `WindowMethod`.
        model: forward model.
        background: state at the start of the first window (for `HybridFourDVar` an ensemble, leading member axis).
        windows: observations cut by `split_windows`, with the same steps and shift.
        steps: window length in model steps (static).
        shift: steps from the start of a window to the start of the next (static); default: the window length.
        start: number of the first step of the first window, passed to the model as t.
        at: rows of each window's trajectories to keep, integers in [0, steps]; default: first and last.

    Returns:
        Background for the next window, model for the next window, `History`.

    Raises:
        ConfigurationError: if the shift is not between 1 and the window length.

    Warns:
        AssimilationWarning: (outside of traced code) if the minimization of a window did not converge; `search.result`
            tells which. Nothing that was computed is lost.

    Example:
        >>> import diffassim as da
        >>> from diffassim.models import Lorenz96
        >>> std = da.covariances.Diagonal(std=1.0)
        >>> obs = da.Observations(jnp.zeros((4, 40)), [1, 2, 3, 4], error=std)
        >>> x, _, history = da.cycle(FourDVar(std), Lorenz96(), jnp.full(40, 8.0), da.split_windows(obs, 2, 2), steps=2)
        >>> history.analysis.shape
        (2, 2, 40)
    """
    shift = checked_shift("cycle", shift, steps)
    rows = jnp.asarray([0, steps] if at is None else at, jnp.int32)
    background = method.init(background)
    found = _cycle(method, model, background, windows, jnp.asarray(start, jnp.int32), rows, steps, shift)
    codes = concrete(found[2].search.result)
    failures = None if codes is None else Result.describe_failures(codes)
    if failures is not None:
        warnings.warn(f"cycle: {failures}", AssimilationWarning, stacklevel=3)
    return found


def _run(method: Any, model: Any, background: Any, windows: Any, start: Any, rows: Any, steps: int, shift: int) -> Any:
    wanted = jnp.concatenate([rows, jnp.asarray([shift], jnp.int32)])

    def window(carry: Any, observations: Any) -> Any:
        model, belief, first = carry
        forecast = rollout(model, method.center(belief), steps, start=first, at=rows)
        x_a, model, search, errors = method.analyze(model, belief, observations, first, steps)
        states = rollout(model, x_a, steps, start=first, at=wanted, forcing=errors)
        analysis = jax.tree.map(lambda leaf: leaf[:-1], states)
        x_next = jax.tree.map(lambda leaf: leaf[-1], states)
        belief, ensemble = method.hand_on(model, belief, observations, first, steps, shift, x_a, x_next, errors)
        return (model, belief, first + shift), History(forecast, analysis, search, ensemble)

    (model, background, _), history = lax.scan(window, (model, background, start), windows)
    return background, model, history


_cycle = jax.jit(_run, static_argnums=(6, 7))
