"""Why did the analysis do that with this observation? Innovation, weight, gain, spread, and what limits them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.krylov import conjugate_gradients
from diffassim.core.pytree import Pytree, static
from diffassim.methods.sequential import SequentialMethod
from diffassim.observations.container import as_streams
from diffassim.observations.flags import QCFlag
from diffassim.variational.costs.base import as_cost, is_cost, require_departures
from diffassim.variational.minimizers.solution import require_single

__all__ = ["Explanation", "explain"]

FAR = 3.0  # standard deviations of an innovation that are worth a remark
SMALL = 0.1  # weights below it are worth one


class Explanation(Pytree):
    """Result of `explain`; its text is for people.

    Args:
        name: of the observation, for the text.
        used: whether it was observed and not rejected.
        reason: why not, in words.
        value: what was observed.
        background: its equivalent in the background, H(x_b).
        analysis: its equivalent in the analysis, H(x_a).
        error: standard deviation of its error, a root of the diagonal of R.
        spread: standard deviation of the background there, a root of the diagonal of H B H^T.
        analysis_spread: the same of the analysis; None where it is not known.
        increment: largest change of the state that this observation alone makes, and where; None where unknown.
    """

    name: str = static()
    used: bool = static()
    reason: str = static()
    value: float = static()
    background: float = static()
    analysis: float = static()
    error: float = static()
    spread: float = static()
    analysis_spread: float | None = static()
    increment: tuple[float, str] | None = static()

    @property
    def innovation(self) -> float:
        """Observed value less its equivalent in the background."""
        return self.value - self.background

    @property
    def normalized(self) -> float:
        """Innovation in units of the deviation that error and spread lead one to expect."""
        return self.innovation / math.sqrt(self.error**2 + self.spread**2)

    @property
    def weight_alone(self) -> float:
        r"""Part of the innovation that the analysis would take if this were the only observation."""
        return self.spread**2 / (self.spread**2 + self.error**2)

    @property
    def weight(self) -> float | None:
        """Diagonal of H K: the derivative of the analysed value by the observed one (exact for uncorrelated R)."""
        return None if self.analysis_spread is None else min(1.0, (self.analysis_spread / self.error) ** 2)

    @property
    def limits(self) -> tuple[str, ...]:
        """What keeps the analysis from the observation, a sentence each, the most important first."""
        if not self.used:
            return (f"it has no influence: {self.reason}",)
        found = []
        if abs(self.normalized) > FAR:
            found.append(
                f"its innovation is {abs(self.normalized):.1f} times what error and spread lead one to expect: a gross "
                "error, a biased operator or model, or R and B too small"
            )
        if self.spread == 0:
            found.append("the background claims to be certain there (no spread): B or the ensemble does not reach it")
        elif self.weight_alone < SMALL:
            found.append(
                f"the background is trusted: its spread {self.spread:.3g} is small against the error {self.error:.3g}"
            )
        if self.weight is not None and self.weight < 0.5 * self.weight_alone:
            found.append(
                f"other observations tell the same: alone it would have the weight {self.weight_alone:.2f}, among "
                f"them it has {self.weight:.2f}"
            )
        moved = self.analysis - self.background
        if self.innovation * moved < 0 and abs(moved) > SMALL * self.error:
            found.append("the analysis moved away from it: other observations contradict it")
        return tuple(found) or (f"nothing but its error: {self.error:.3g} beside a spread of {self.spread:.3g}",)

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"{self.name}: {self.limits[0]}"
        moved = self.analysis - self.background
        # Where the observation says what the background says, a share of nothing would be a huge number.
        small = abs(self.innovation) < 0.1 * math.hypot(self.error, self.spread)
        taken = f"moved by {moved:.4g}" if small else f"took {moved / self.innovation:.0%} of it"
        weight = f", weight {self.weight:.2f}" if self.weight is not None else ""
        after = "" if self.analysis_spread is None else f", of the analysis {self.analysis_spread:.3g}"
        lines = [
            f"{self.name}: observed {self.value:.4g}, background {self.background:.4g}, analysis {self.analysis:.4g}",
            f"  innovation {self.innovation:.4g}, {self.normalized:+.2f} times what was to be expected; the analysis "
            f"{taken}",
            f"  error {self.error:.3g}, spread of the background {self.spread:.3g}{after}; "
            f"alone it would weigh {self.weight_alone:.2f}{weight}",
        ]
        if self.increment is not None:
            lines.append(f"  on its own it changes the state most at {self.increment[1]}, by {self.increment[0]:.4g}")
        return "\n".join([*lines, *(f"  limit: {text}" for text in self.limits)])


def explain(
    subject: Any, found: Any, observations: Any = None, *, observation: Any, stream: int = 0, flags: Any = None,
    key: Any = None,
) -> Explanation:  # fmt: skip
    r"""Explain what an analysis did with one observed value, and what limited it.

    - `explain(cost, solution, observation=...)`: of a variational analysis. One adjoint run gives the spread of the
      background, one solve with the Gauss-Newton Hessian the spread of the analysis and the change of the state.
    - `explain(method, ensemble, observations, observation=...)`: of an analysis at one time by an ensemble filter or
      another sequential method that hands on members; it is made with and without the observation.

    Args:
        subject: a variational cost, or a sequential method.
        found: its `Solution`, or the ensemble before the analysis.
        observations: `Observations` of the time of the ensemble, or a tuple of streams; costs have their own.
        observation: index of the value: an integer, or a tuple (time, place, ...).
        stream: which stream it belongs to.
        flags: what quality control returned for the streams, to name the check that rejected it.
        key: random key, for methods that draw.

    Returns:
        `Explanation`; print it.

    Raises:
        ShapeError: if there is no such stream or value.
        ConfigurationError: if the subject is neither a cost nor a sequential method of members.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> y = da.Observations(jnp.array([[2.0, 2.0]]), [0], operator=lambda x: jnp.stack([x[0], x[0]]), error=one)
        >>> cost = da.ThreeDVar(jnp.zeros(1), one, y)
        >>> why = explain(cost, da.minimize(cost), observation=(0, 1))
        >>> why.innovation, round(why.weight_alone, 6), round(why.weight, 6)
        (2.0, 0.5, 0.333333)

    Source: weights and their limits: Cardinali, Pezzulli and Andersson (2004), section 3.
    """
    if isinstance(subject, SequentialMethod):
        streams = as_streams(observations) if observations is not None else ()
    elif is_cost(subject):
        require_single("explain", found)
        subject = as_cost(subject)
        require_departures("explain", jax.eval_shape(subject.residuals, found.control))
        streams = subject.streams()
    else:
        raise ConfigurationError(
            f"explain: {type(subject).__name__} is neither a cost over observations nor a sequential method; call "
            "explain(cost, solution, ...) or explain(method, ensemble, observations, ...)"
        )
    index = _index(streams, stream, observation)
    leaf = jax.tree.leaves(streams[stream].values)[0]
    used = bool(jax.tree.leaves(streams[stream].mask)[0][index])
    reason = "" if used else _reason(flags, stream, index)
    name = f"observation {index if len(index) != 1 else index[0]} of stream {stream}"
    value = float(leaf[index])
    if not used:
        none = math.nan
        return Explanation(
            name, False, reason, value if flags is not None else none, none, none, none, none, None, None
        )
    error = _error(streams[stream], index)
    if isinstance(subject, SequentialMethod):
        told = _ensemble(subject, found, streams, stream, index, key)
    else:
        told = _variational(subject, found, streams, stream, index)
    background, analysis, spread, analysis_spread, change = told
    return Explanation(
        name, True, "", value, float(background), float(analysis), error, float(spread),
        None if analysis_spread is None else float(analysis_spread), _largest(change),
    )  # fmt: skip


def _index(streams: tuple[Any, ...], stream: int, observation: Any) -> tuple[int, ...]:
    if not 0 <= stream < len(streams):
        raise ShapeError(f"explain: there are {len(streams)} streams of observations, found stream = {stream}")
    leaves = jax.tree.leaves(streams[stream].values)
    if len(leaves) != 1:
        raise ShapeError("explain: the stream's values are a pytree of several arrays; explain a stream of one array")
    shape = leaves[0].shape
    given = tuple(int(k) for k in np.atleast_1d(np.asarray(observation)))
    if len(given) != len(shape) or not all(0 <= k < size for k, size in zip(given, shape, strict=True)):
        raise ShapeError(f"explain: observation = {observation} is no index of values of shape {shape}")
    return given


def _reason(flags: Any, stream: int, index: tuple[int, ...]) -> str:
    if flags is None:
        return "it is missing or masked (pass the `flags` of quality control to learn which check rejected it)"
    found = flags[stream] if isinstance(flags, tuple | list) else flags
    return f"quality control flagged it {QCFlag(int(jax.tree.leaves(found)[0][index])).name}"


def _error(stream: Any, index: tuple[int, ...]) -> float:
    """Return the standard deviation of the error of one value: the length of a row of R^(1/2)."""
    unit = jax.tree.map(lambda leaf: jnp.zeros_like(leaf).at[index].set(1), stream.values)
    return float(tree.norm(stream.error.sqrt_transpose(unit)))


def _variational(cost: Any, solution: Any, streams: Any, stream: int, index: tuple[int, ...]) -> tuple[Any, ...]:
    def equivalent(v: Any) -> Any:
        return jax.tree.leaves(cost.predicted(v)[stream])[0][index]

    @jax.jit
    def told(cost: Any, v: Any) -> tuple[Any, ...]:
        analysis, slope = jax.value_and_grad(equivalent)(v)
        _, tangent = jax.linearize(lambda v: cost.residuals(v)[1], v)
        adjoint = jax.linear_transpose(tangent, v)
        solved = conjugate_gradients(
            lambda w: tree.add(w, adjoint(tangent(w))[0]), slope, rtol=1e-6, max_iterations=1000
        ).solution  # fmt: skip
        origin = tree.zeros_like(v)
        _, change = jax.jvp(cost.state, (v,), (solved,))  # covariance of the analysed state and the analysed value
        variance = jnp.maximum(tree.dot(slope, solved), 0)
        return equivalent(origin), analysis, tree.norm(slope), jnp.sqrt(variance), change

    background, analysis, spread, analysis_spread, change = told(cost, solution.control)
    # What the state moves for the innovation of this value alone: K e_i d_i.
    innovation = jax.tree.leaves(streams[stream].values)[0][index] - background
    scale = float(innovation) / _error(streams[stream], index) ** 2
    return background, analysis, spread, analysis_spread, tree.scale(scale, change)


def _ensemble(
    method: Any, ensemble: Any, streams: Any, stream: int, index: tuple[int, ...], key: Any
) -> tuple[Any, ...]:
    def equivalents(members: Any) -> Any:
        rows = streams[stream].steps.shape[0]

        def of(member: Any) -> Any:
            states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (rows, *leaf.shape)), member)
            return jax.tree.leaves(streams[stream].predict(states))[0][index]

        return jax.vmap(of)(members)

    mask = jax.tree.map(lambda m: m.at[index].set(False), streams[stream].mask)
    without = (*streams[:stream], streams[stream].replace(mask=mask), *streams[stream + 1 :])
    prior = method.init(ensemble)
    posterior, _ = method.analyze(key, prior, streams)
    other, _ = method.analyze(key, prior, without)
    means = [method.moments(belief)[0] for belief in (posterior, other)]
    try:
        before, after = equivalents(prior), equivalents(posterior)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"explain: {type(method).__name__} does not hand on members; explain an ensemble method, or a cost"
        ) from error
    change = tree.subtract(means[0], means[1])
    return before.mean(), after.mean(), before.std(ddof=1), after.std(ddof=1), change


def _largest(change: Any) -> tuple[float, str] | None:
    found: tuple[float, str] | None = None
    for path, leaf in jax.tree_util.tree_leaves_with_path(change):
        array = np.asarray(leaf)
        if array.size:
            place = np.unravel_index(int(np.nanargmax(np.abs(array))), array.shape)
            size = float(array[place])
            if found is None or abs(size) > abs(found[0]):
                found = size, f"{jax.tree_util.keystr(path)}[{', '.join(map(str, place))}]"
    return found
