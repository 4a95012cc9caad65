"""Cycled variational assimilation: analysis, forecast to the next window, and so on, in one scan."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.checks import forward_mode
from diffassim.core.errors import AssimilationWarning, ConfigurationError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.cycling.windows import check_windows, checked_rows, checked_shift
from diffassim.methods.windows import WindowAnalysis, WindowMethod
from diffassim.models.rollout import rollout
from diffassim.observations.container import as_streams
from diffassim.variational.costs.parameters import check_parameters
from diffassim.variational.costs.strong_constraint import StrongConstraint4DVar
from diffassim.variational.costs.weak_constraint import WeakConstraint4DVar
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.minimize import minimize
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["FourDVar", "History", "cycle_windows"]


class FourDVar(WindowMethod):
    """4D-Var as an analysis method for `cycle`: strong-constraint, or with Q weak-constraint.

    Args:
        B: background-error covariance, the same in every window.
        minimizer: see `minimize`.
        parameters: background-error covariance of parts of the model by path (see `StrongConstraint4DVar`); the
            analysed model is handed on to the next window. Parameters of operators belong to the streams
            (`Observations.parameters`) and are handed on as well.
        unrolled: differentiate through the minimizer's iterations instead of implicitly (static).
        Q: model-error covariance of `every` steps; the next background is then the end of a trajectory with the
            analysed model errors in it. None: the model is perfect.
        every: model steps between model errors (static).
        form: the cost (static): without Q `StrongConstraint4DVar` or `ThreeDVarFGAT`, with Q `WeakConstraint4DVar` or
            `StateWeakConstraint4DVar`; default: the first of them.

    Raises:
        ConfigurationError: if `every` or a form with model errors is given without Q, or Q to one without.

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
    form: Any = static(default=None)

    def __post_init__(self) -> None:
        errs = self.form is not None and "Q" in self.form.__dataclass_fields__
        if self.Q is None and (self.every != 1 or errs):
            raise ConfigurationError("FourDVar: `every` and `form` belong to a model-error covariance; give Q")
        if self.Q is not None and self.form is not None and not errs:
            raise ConfigurationError(f"FourDVar: {self.form.__name__} has no model error; leave Q out, or `form`")

    def check(self, model: Any) -> None:
        """Raise an error, naming it, if a parameter cannot be sought in the model; see `StrongConstraint4DVar`."""
        if self.parameters:
            check_parameters("FourDVar.parameters", model, self.parameters)

    def analyze(self, model: Any, belief: Any, observations: Any, start: Any, steps: int) -> WindowAnalysis:
        """Return the analysis of a window."""
        options = {"parameters": self.parameters, "start": start, "steps": steps}
        cost: Any
        if self.Q is None:
            cost = (self.form or StrongConstraint4DVar)(model, belief, self.B, observations, **options)
        else:
            form = self.form or WeakConstraint4DVar
            cost = form(model, belief, self.B, self.Q, observations, every=self.every, **options)
        solution = minimize(cost, self.minimizer, unrolled=self.unrolled)
        errors = cost.forcing(solution.control, steps)
        return WindowAnalysis(solution.state, solution.model, solution.search, errors, solution.operators)


class History(Pytree):
    """What `cycle_windows` keeps of every window (leading axis: window).

    Args:
        background: trajectory from the background, rows `at`.
        analysis: trajectory from the analysis (with the analysed model errors), rows `at`.
        search: the minimizer's account of each window.
        ensemble: the ensemble filter's account of each window (`AnalysisInfo`), where there is an ensemble.
        operators: the streams' operators with the parameters of each window's analysis; None where none were sought.
    """

    background: Any
    analysis: Any
    search: Minimum
    ensemble: Any = None
    operators: Any = None


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
    operators: Any = None,
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
        operators: where parameters of operators are sought, the operators to start with, one for each stream; default:
            those of the observations. To go on later: `jax.tree.map(lambda leaf: leaf[-1], history.operators)`.

    Returns:
        Background for the next window, model for the next window, `History`.

    Raises:
        ConfigurationError: if the shift is not between 1 and the window length, or a parameter cannot be sought in the
            model.

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
    rows = checked_rows("cycle", at, steps)
    method.check(model)
    background = method.init(background)
    streams = as_streams(windows)
    first = check_windows(model, jax.eval_shape(method.center, background), streams, start, steps, shift)
    if operators is None and any(stream.parameters for stream in streams):
        operators = jax.tree.map(lambda leaf: leaf[0], tuple(stream.operator for stream in streams))
    with forward_mode(f"cycle with {type(method).__name__}", "minimizer=LBFGS() or Descent(...) does without"):
        found = _cycle(method, model, background, operators, streams, first, rows, steps, shift)
    codes = concrete(found[2].search.result)
    failures = None if codes is None else Result.describe_failures(codes)
    if failures is not None:
        warnings.warn(f"cycle: {failures}", AssimilationWarning, stacklevel=3)
    return found


def _run(
    method: Any,
    model: Any,
    background: Any,
    operators: Any,
    windows: Any,
    start: Any,
    rows: Any,
    steps: int,
    shift: int,
) -> Any:
    wanted = jnp.concatenate([rows, jnp.asarray([shift], jnp.int32)])

    def window(carry: Any, observations: Any) -> Any:
        model, belief, operators, first = carry
        observations = _with_operators(observations, operators)  # as the last analysis has left them
        forecast = rollout(model, method.center(belief), steps, start=first, at=rows)
        found = method.analyze(model, belief, observations, first, steps)
        states = rollout(found.model, found.state, steps, start=first, at=wanted, forcing=found.errors)
        analysis = jax.tree.map(lambda leaf: leaf[:-1], states)
        x_next = jax.tree.map(lambda leaf: leaf[-1], states)
        observations = _with_operators(observations, found.operators)
        belief, ensemble = method.hand_on(found, belief, observations, first, steps, shift, x_next)
        carry = (found.model, belief, found.operators, first + shift)
        return carry, History(forecast, analysis, found.search, ensemble, found.operators)

    (model, background, *_), history = lax.scan(window, (model, background, operators, start), windows)
    return background, model, history


def _with_operators(streams: tuple[Any, ...], operators: Any) -> tuple[Any, ...]:
    if operators is None:
        return streams
    return tuple(stream.with_operator(operator) for stream, operator in zip(streams, operators, strict=True))


_cycle = jax.jit(_run, static_argnums=(7, 8))
