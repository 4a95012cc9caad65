"""The Rauch-Tung-Striebel smoother: back through what a Kalman or an ensemble filter has analysed."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve

from diffassim.core import tree
from diffassim.core.errors import AssimilationWarning, ConfigurationError, ShapeError, concrete
from diffassim.core.linalg import safe_sqrt
from diffassim.core.results import Result
from diffassim.cycling.ensemble import EnsembleHistory, propagator
from diffassim.cycling.times import AnalysisTimes
from diffassim.ensemble.base import EnsembleMethod
from diffassim.ensemble.smoothers.asynchronous import require_perfect_model
from diffassim.gaussian.base import KalmanMethod, as_many, joined
from diffassim.gaussian.belief import Gaussian, covariance_columns
from diffassim.methods.members import anomalies
from diffassim.methods.model_error import EveryStep

__all__ = ["smooth"]


def smooth(method: Any, model: Any, history: EnsembleHistory) -> Any:
    r"""Return the state at every analysis time given the observations of all times.

    Backward in time, with the forecast mean \(x_f\), covariance \(P_f\) and the cross covariance C of analysis and
    forecast, all computed anew from the analysis,

    .. math::
        G = C P_f^{-1},\quad x_s = x_a + G (x_s^+ - x_f),\quad P_s = P_a + G (P_s^+ - P_f) G^\top

    P_s is kept as columns of a sum of positive terms. `EKF` gives the (extended) smoother of Rauch, Tung and Striebel,
    `UKF` the unscented one. The initial state is smoothed as well if the record has a row at step 0, for instance of
    missing values.

    For an ensemble (EnRTS) the analysed members are forecast anew, C and \(P_f\) are those of the sample, and every
    member follows the equation of the mean, \(x_{s,i} = x_{a,i} + G (x_{s,i}^+ - x_{f,i})\), so that

    .. math:: X_s = X_a + (E_s^+ - E_f) X_f^+ X_a \quad\text{(members in rows)}

    with the pseudoinverse of the forecast anomalies, each component in units of its spread. Localization is left out.

    Args:
        method: the filter, `EKF`, `UKF` or an `EnsembleMethod`, without inflation if the result is to be the posterior.
        model: the model it was cycled with.
        history: what `cycle(..., members=True)` returned.

    Returns:
        `Gaussian` with a leading axis of times, and as many columns as the analyses, or members of shape
        (time, member, ...).

    Raises:
        ConfigurationError: if the method is neither a Kalman nor an ensemble filter, or the history is not that of a
            cycle, or holds no analyses.
        ShapeError: if the steps are traced.

    Warns:
        AssimilationWarning: (outside of traced code) if the result is not finite, as where P_f is singular.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> belief = da.gaussian.Gaussian.from_covariance(jnp.zeros(1), one)
        >>> y = da.Observations(jnp.array([[jnp.nan], [3.0]]), [0, 1], error=one)
        >>> still, method = da.models.FunctionModel(lambda x, t: x), da.EKF(Q=one)
        >>> _, history = da.cycle(method, still, belief, y, members=True)
        >>> da.smooth(method, still, history).mean[:, 0].round(4).tolist()
        [1.0, 2.0]

    Source: Rauch, Tung and Striebel (1965), equations 3.28 to 3.31; Saerkkae (2008) for the unscented form;
    Raanes (2016) for the ensemble.
    """
    if not isinstance(method, KalmanMethod | EnsembleMethod):
        raise ConfigurationError(
            f"smooth: the method must be an EKF, a UKF or an ensemble filter, found {type(method).__name__}"
        )
    if isinstance(method, EnsembleMethod):
        require_perfect_model("smooth", method)
    if isinstance(method.Q, EveryStep):
        raise ConfigurationError(
            f"smooth: {type(method).__name__} has a model error at every step, whose states the history does not hold; "
            "cycle over a record with a row for every step (of missing values where there are none), with Q itself"
        )
    if not isinstance(history, EnsembleHistory):
        raise ConfigurationError(
            f"smooth: the history must be what cycle(..., members=True) returned, found {type(history).__name__}"
        )
    if history.members is None:
        raise ConfigurationError("smooth: the history holds no analyses; cycle with members=True")
    if isinstance(history.step, jax.core.Tracer):
        raise ShapeError("smooth: the analysis steps must be known outside of traced code")
    gaps = np.diff(np.asarray(history.step))
    longest = int(gaps.max(initial=0))
    times = AnalysisTimes((), (), (), jnp.asarray(gaps, jnp.int32), longest, bool((gaps == longest).all()))
    run = _smooth if isinstance(method, KalmanMethod) else _smooth_members
    smoothed = run(method, model, history.members, history.step, times)
    sound = concrete(tree.all_finite(smoothed))
    if sound is not None and not sound:
        warnings.warn(
            f"smooth: not finite; a forecast covariance may be singular; add a model error Q, or members. "
            f"{Result.describe(Result.DIVERGED)}",
            AssimilationWarning,
            stacklevel=2,
        )
    return smoothed


@jax.jit
def _smooth(method: Any, model: Any, analyses: Gaussian, steps: Any, times: AnalysisTimes) -> Gaussian:
    def body(later: Gaussian, now: Any) -> tuple[Gaussian, Gaussian]:
        analysis, step, gap = now
        mean, before, after = method.transport(propagator(model, times, step, gap), analysis)
        A, F = tree.flat_rows(before), tree.flat_rows(after)
        error = None if method.Q is None else tree.flat_rows(covariance_columns(method.Q, mean))
        P_f = F.T @ F if error is None else F.T @ F + error.T @ error
        spread = jnp.sqrt(jnp.diagonal(P_f))  # units must not decide what is singular
        factor = cho_factor(P_f / spread[:, None] / spread[None])
        G_t = cho_solve(factor, F.T @ A / spread[:, None]) / spread[:, None]
        late = tree.flat_rows(jax.tree.map(lambda a, b: (a - b)[None], later.mean, mean))
        x_s = tree.add(analysis.mean, jax.tree.map(lambda leaf: leaf[0], tree.state_rows(late @ G_t, mean)))
        terms = [A - F @ G_t, tree.flat_rows(later.columns) @ G_t, *([] if error is None else [error @ G_t])]
        smoothed = Gaussian(x_s, as_many(joined(*(tree.state_rows(term, mean) for term in terms)), analysis))
        return smoothed, smoothed

    return _backward(body, analyses, steps, times)


@jax.jit
def _smooth_members(method: EnsembleMethod, model: Any, analyses: Any, steps: Any, times: AnalysisTimes) -> Any:
    def body(later: Any, now: Any) -> tuple[Any, Any]:
        analysis, step, gap = now
        forecast = jax.vmap(propagator(model, times, step, gap))(analysis)
        A, F = (tree.flat_rows(anomalies(ensemble)) for ensemble in (analysis, forecast))
        scale = safe_sqrt(jnp.sum(jnp.square(F), axis=0))
        still = scale == 0
        scale = jnp.where(still, 1, scale)[None]
        weights = _right_inverse_applied(tree.flat_rows(tree.subtract(later, forecast)) / scale, F / scale, still)
        x = jax.tree.map(lambda leaf: leaf[0], analysis)
        smoothed = tree.add(analysis, tree.state_rows(weights @ A, x))
        return smoothed, smoothed

    return _backward(body, analyses, steps, times)


def _right_inverse_applied(D: Any, F: Any, still: Any) -> Any:
    """Return D F^+ for anomalies F (N, n); components that are `still` have no anomalies."""
    N, n = F.shape
    if n < N:
        return cho_solve(cho_factor(F.T @ F + jnp.diag(still.astype(F.dtype))), D.T).T @ F.T
    gram = F @ F.T
    ones = jnp.full((N, N), jnp.trace(gram) / N**2)  # fills the one direction in which anomalies are nothing
    return cho_solve(cho_factor(gram + ones), F @ D.T).T


def _backward(body: Any, analyses: Any, steps: Any, times: AnalysisTimes) -> Any:
    last, rest = (jax.tree.map(lambda leaf: leaf[-1], analyses), jax.tree.map(lambda leaf: leaf[:-1], analyses))
    _, earlier = lax.scan(body, last, (rest, steps[:-1], times.gaps), reverse=True)
    return jax.tree.map(lambda rows, end: jnp.concatenate([rows, end[None]]), earlier, last)
