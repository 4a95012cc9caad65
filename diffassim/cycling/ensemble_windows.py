"""Cycled ensemble smoothers: the analysis of a window, forecast to the next, and so on, in one scan."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.cycling.ensemble import Moments, report_divergence
from diffassim.cycling.windows import check_windows, checked_rows, checked_shift
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.members import check_ensemble, mean, spread
from diffassim.methods.sequential import require_key
from diffassim.observations.container import as_streams

__all__ = ["EnsembleWindowHistory", "cycle_ensemble_windows"]


class EnsembleWindowHistory(Pytree):
    """What `cycle_ensemble_windows` keeps of every window (leading axes: window, row).

    Args:
        step: number of the model step of each row (`start` included), shape (window, rows).
        background: moments of the ensemble before the analysis, rows `at` of the window.
        analysis: moments after it (inflation included): at the window start the smoother's, at its end the filter's.
        info: the method's account of each window.
        members: the analysed members, shape (window, rows, member, ...), where they were asked for.
        priors: the members before the analysis, of the same shape, where they were asked for.
    """

    step: Int[Array, "window rows"]
    background: Moments
    analysis: Moments
    info: AnalysisInfo
    members: Any = None
    priors: Any = None

    @property
    def log_likelihood(self) -> Float[Array, ""]:
        """Log density of all observed values of the windows, each from the forecast to it; see `AnalysisInfo`."""
        return jnp.sum(self.info.log_likelihood, axis=-1)


def cycle_ensemble_windows(
    method: Any,
    model: Any,
    ensemble: Any,
    windows: Any,
    *,
    steps: int,
    shift: int | None = None,
    key: Any = None,
    start: Any = 0,
    at: Any = None,
    members: bool = False,
    priors: bool = False,
) -> tuple[Any, EnsembleWindowHistory]:
    """Alternate analysis and forecast of an ensemble over consecutive windows, which may overlap.

    The prior of a window is the ensemble analysed in the one before, `shift` steps after that window's start.

    `da.cycle` calls it for a method that analyses an ensemble over a window. The whole cycle is one scan: it compiles
    once, can be batched over experiments, and losses pass through it. To stop and go on later, call it on part of the
    windows and pass on what it returns, with the same key and `start` moved on; the result is the same, bit by bit.

    Args:
        method: window method, for example `IEnKS` or `AsynchronousFilter`.
        model: forward model, `step(x, t) -> x` for one member.
        ensemble: members at the start of the first window, a pytree with a leading member axis.
        windows: observations cut by `split_windows`, with the same steps and shift.
        steps: window length in model steps, the lag of a smoother (static).
        shift: steps from the start of a window to the start of the next (static); default: the window length.
        key: random key; each window draws from the key folded with the number of its first step.
        start: number of the first step of the first window, passed to the model as t.
        at: steps of each window whose moments are kept, integers in [0, steps]; default: first and last.
        members: whether to keep the analysed members at these steps (static).
        priors: whether to keep the members before the analysis at these steps as well (static).

    Returns:
        The ensemble at the start of the next window, before its observations, and `EnsembleWindowHistory`.

    Raises:
        ShapeError: if the ensemble has fewer than two members, or an observation lies outside of its window.
        ConfigurationError: if the window has no step, the shift is not between 1 and the window length, or the method
            draws random numbers and there is no key.

    Warns:
        AssimilationWarning: (outside of traced code) if the ensemble is not finite any more. Windows whose iterations
            did not converge carry the code `MAX_ITERATIONS`.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.zeros((4, 40)), [1, 2, 3, 4], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (10, 40))
        >>> windows = da.split_windows(y, steps=2, count=3, shift=1)
        >>> method = da.IEnKS(max_iterations=2)
        >>> _, history = da.cycle(method, da.models.Lorenz96(), ensemble, windows, steps=2, shift=1)
        >>> history.analysis.mean.shape, history.step.tolist()
        ((3, 2, 40), [[0, 2], [1, 3], [2, 4]])
    """
    name = type(method).__name__
    require_key(f"cycle: {name}", method.random, key)
    if steps < 1:
        raise ConfigurationError(f"cycle: a window (lag) of steps={steps} must have at least one step")
    shift = checked_shift("cycle", shift, steps)
    ensemble = check_ensemble(name, ensemble)
    windows = as_streams(windows)
    start = check_windows(model, jax.tree.map(lambda leaf: leaf[0], ensemble), windows, start, steps, shift)
    method, numbers = method.prepared(ensemble, windows)
    rows = checked_rows("cycle", at, steps)
    ensemble, history = _cycle(
        method, model, ensemble, windows, numbers, key, start, rows, steps, shift, members, priors
    )
    report_divergence(history.info.result, history.step[:, 0])
    return ensemble, history


def _run(
    prepared: Any, model: Any, ensemble: Any, windows: Any, numbers: Any, key: Any, start: Any, rows: Any, steps: int,
    shift: int, members: bool, priors: bool,
) -> Any:  # fmt: skip
    wanted = jnp.concatenate([rows, jnp.asarray([shift], jnp.int32)])

    def window(carry: Any, now: Any) -> Any:
        (ensemble, first), (observations, number) = carry, now
        method = prepared if number is None else prepared.at(number)
        window_key = None if key is None else jax.random.fold_in(key, first)
        found = method.analyze(window_key, model, ensemble, as_streams(observations), first, steps, wanted)
        background, analysis = (jax.tree.map(lambda leaf: leaf[:, :-1], trajectory) for trajectory in found[:2])
        following = jax.tree.map(lambda leaf: leaf[:, -1], found[1])
        kept = [
            jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), trajectory) if wished else None
            for trajectory, wished in ((analysis, members), (background, priors))
        ]
        before, after = (Moments(mean(trajectory), spread(trajectory)) for trajectory in (background, analysis))
        return (following, first + shift), EnsembleWindowHistory(first + rows, before, after, found[2], *kept)

    body = jax.checkpoint(window, prevent_cse=False)
    (ensemble, _), history = lax.scan(body, (ensemble, start), (windows, numbers))
    return ensemble, history


_cycle = jax.jit(_run, static_argnums=(8, 9, 10, 11))
