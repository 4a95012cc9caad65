"""Cycled variational assimilation: analysis, forecast to the next window, and so on, in one scan."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.checks import forward_mode
from diffassim.core.errors import AssimilationWarning, ConfigurationError, concrete
from diffassim.core.paths import replace_at, value_at
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.cycling.windows import check_windows, checked_rows, checked_shift
from diffassim.methods.sequential import require_key
from diffassim.methods.windows import WindowAnalysis, WindowMethod
from diffassim.models.rollout import rollout
from diffassim.observations.container import as_streams
from diffassim.variational.costs.base import as_cost
from diffassim.variational.costs.factory import CostFactory, PerfectModel
from diffassim.variational.costs.parameters import check_parameters
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.minimize import minimize
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["FourDVar", "History", "cycle_windows"]


class FourDVar(WindowMethod):
    """4D-Var as an analysis method for `cycle`.

    Args:
        B: background-error covariance, the same in every window.
        minimizer: see `minimize`.
        parameters: background-error covariance of parts of the model by path (see `StrongConstraint4DVar`); the
            analysed model is handed on to the next window. Parameters of operators belong to the streams
            (`Observations.parameters`) and are handed on as well.
        unrolled: differentiate through the minimizer's iterations instead of implicitly (static).
        cost: what makes the cost of a window, `CostFactory`: `PerfectModel(form)`, `WithModelError(Q, every, form)`, or
            your own.

    Raises:
        ConfigurationError: if `cost` makes no costs.

    Example:
        >>> import diffassim as da
        >>> one, still = da.covariances.Diagonal(std=1.0), da.models.FunctionModel(lambda x, t: x)
        >>> windows = da.split_windows(da.Observations(jnp.full((2, 1), 3.0), [1, 2], error=one), 1, 2)
        >>> x, history = da.cycle(FourDVar(one), still, jnp.zeros(1), windows, steps=1)
        >>> x.round(6).tolist(), history.search.iterations.shape
        ([2.25], (2,))
    """

    B: Any
    minimizer: Any = GaussNewton()
    parameters: Any = None
    unrolled: bool = static(default=False)
    cost: CostFactory = PerfectModel()

    def __post_init__(self) -> None:
        if not isinstance(self.cost, CostFactory):
            raise ConfigurationError(
                "FourDVar: `cost` takes PerfectModel(form), WithModelError(Q) or another CostFactory of "
                f"diffassim.variational, found {self.cost!r}"
            )

    def check(self, model: Any) -> None:
        """Raise an error, naming it, if a parameter cannot be sought in the model; see `StrongConstraint4DVar`."""
        if self.parameters:
            check_parameters("FourDVar.parameters", model, self.parameters)

    def analyze(
        self, key: Any, model: Any, belief: Any, observations: Any, start: Any, steps: int
    ) -> WindowAnalysis:  # fmt: skip
        """Return the analysis of a window; see `WindowMethod.analyze`."""
        options = {"parameters": self.parameters, "start": start, "steps": steps}
        cost = as_cost(self.cost(model, belief, self.B, observations, **options))
        solution = minimize(cost, self.minimizer, unrolled=self.unrolled)
        errors = cost.forcing(solution.control, steps)
        found = {path: value_at(solution.model, path) for path in self.parameters or ()}
        return WindowAnalysis(solution.state, solution.search, errors, solution.operators, found or None)


class History(Pytree):
    """What `cycle_windows` keeps of every window (leading axis: window).

    Args:
        background: trajectory from the background, rows `at`.
        analysis: trajectory from the analysis (with the analysed model errors), rows `at`.
        search: the minimizer's account of each window.
        ensemble: the ensemble filter's account of each window (`AnalysisInfo`), where there is an ensemble.
        operators: the streams' operators with the parameters of each window's analysis; None where none were sought.
        parameters: analysed model parameters of each window by path; None where none were sought.
    """

    background: Any
    analysis: Any
    search: Minimum
    ensemble: Any = None
    operators: Any = None
    parameters: Any = None

    def model_after(self, model: Any) -> Any:
        """Return the model with the parameters of the last window, to go on with.

        Args:
            model: the one that the cycle began with.
        """
        return replace_at(model, {path: leaf[-1] for path, leaf in (self.parameters or {}).items()})


def cycle_windows(
    method: Any,
    model: Any,
    background: Any,
    windows: Any,
    *,
    steps: int,
    shift: int | None = None,
    key: Any = None,
    start: Any = 0,
    at: Any = None,
    operators: Any = None,
) -> tuple[Any, History]:
    """Alternate analysis and forecast over consecutive windows, which may overlap.

    The background of a window is the trajectory of the analysis before it, `shift` steps after that window's start.

    `da.cycle` calls it for a method that analyses windows. The whole cycle is one scan: it compiles once, can be
    batched over experiments, and losses pass through it. To stop and go on later, call it on part of the windows and
    pass on what it returns and `history.model_after(model)`, with the same key and `start` moved on; the result is the
    same.

    Args:
        method: `FourDVar`, `HybridFourDVar`, or another `WindowMethod`.
        model: forward model.
        background: state at the start of the first window (for `HybridFourDVar` an ensemble, leading member axis).
        windows: observations cut by `split_windows`, with the same steps and shift.
        steps: window length in model steps (static).
        shift: steps from the start of a window to the start of the next (static); default: the window length.
        key: random key, where the method draws numbers; each window draws from the key folded with the number of its
            first step.
        start: number of the first step of the first window, passed to the model as t.
        at: rows of each window's trajectories to keep, integers in [0, steps]; default: first and last.
        operators: where parameters of operators are sought, the operators to start with, one for each stream; default:
            those of the observations. To go on later: `jax.tree.map(lambda leaf: leaf[-1], history.operators)`.

    Returns:
        Background for the next window, and `History`; the model for the next window is `history.model_after(model)`.

    Raises:
        ConfigurationError: if the shift is not between 1 and the window length, a parameter cannot be sought in the
            model, or the method draws random numbers and there is no key.

    Warns:
        AssimilationWarning: (outside of traced code) if the minimization of a window did not converge; `search.result`
            tells which. Nothing that was computed is lost.

    Example:
        >>> import diffassim as da
        >>> from diffassim.models import Lorenz96
        >>> std = da.covariances.Diagonal(std=1.0)
        >>> obs = da.Observations(jnp.zeros((4, 40)), [1, 2, 3, 4], error=std)
        >>> x, history = da.cycle(FourDVar(std), Lorenz96(), jnp.full(40, 8.0), da.split_windows(obs, 2, 2), steps=2)
        >>> history.analysis.shape
        (2, 2, 40)
    """
    require_key(f"cycle: {type(method).__name__}", method.random, key)
    shift = checked_shift("cycle", shift, steps)
    rows = checked_rows("cycle", at, steps)
    method.check(model)
    background = method.init(background)
    streams = as_streams(windows)
    first = check_windows(model, jax.eval_shape(method.center, background), streams, start, steps, shift)
    if operators is None and any(stream.parameters for stream in streams):
        operators = jax.tree.map(lambda leaf: leaf[0], tuple(stream.operator for stream in streams))
    with forward_mode(f"cycle with {type(method).__name__}", "minimizer=LBFGS() or Descent(...) does without"):
        found = _cycle(method, model, background, operators, streams, key, first, rows, steps, shift)
    codes = concrete(found[1].search.result)
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
    key: Any,
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
        window_key = None if key is None else jax.random.fold_in(key, first)
        found = method.analyze(window_key, model, belief, observations, first, steps)
        model = replace_at(model, found.parameters or {})
        states = rollout(model, found.state, steps, start=first, at=wanted, forcing=found.errors)
        analysis = jax.tree.map(lambda leaf: leaf[:-1], states)
        x_next = jax.tree.map(lambda leaf: leaf[-1], states)
        observations = _with_operators(observations, found.operators)
        belief, ensemble = method.hand_on(window_key, model, found, belief, observations, first, steps, shift, x_next)
        carry = (model, belief, found.operators, first + shift)
        return carry, History(forecast, analysis, found.search, ensemble, found.operators, found.parameters)

    (_, background, *_), history = lax.scan(window, (model, background, operators, start), windows)
    return background, history


def _with_operators(streams: tuple[Any, ...], operators: Any) -> tuple[Any, ...]:
    if operators is None:
        return streams
    return tuple(stream.with_operator(operator) for stream, operator in zip(streams, operators, strict=True))


_cycle = jax.jit(_run, static_argnums=(8, 9))
