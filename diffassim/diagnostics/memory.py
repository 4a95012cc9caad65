"""What an assimilation will need in memory, before it runs: what dominates, and what a budget would change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.core.schedule import checkpoint_factors
from diffassim.core.sharding import mesh_of
from diffassim.ensemble.local.blocks import is_binned, plan_blocks
from diffassim.ensemble.local.domain import MANY, DomainFilter
from diffassim.methods.sequential import SequentialMethod
from diffassim.methods.windows import EnsembleWindowMethod
from diffassim.observations.container import as_streams
from diffassim.variational.costs.base import as_cost, is_cost
from diffassim.variational.minimizers.linearization import MEMORY

__all__ = ["MemoryReport", "explain_memory"]


class MemoryReport(Pytree):
    """Result of `explain_memory`; its text is a table. On several devices the bytes are those of each.

    Args:
        parts: bytes by what they are for, the largest first; estimates from shapes.
        budgets: bytes of an adjoint by the number of runs of the model that it then takes (costs over windows only).
        compiled: bytes that the compiled program needs beside arguments and results; None where it was not compiled.
        advice: what would need less, a sentence each.
    """

    parts: Mapping[str, int] = static()
    budgets: Mapping[int, int] = static()
    compiled: int | None = static()
    advice: tuple[str, ...] = static()

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        lines = [
            f"{size_in_words(size):>10s}  {size / max(self.total, 1):>4.0%}  {name}"
            for name, size in self.parts.items()
        ]
        lines.append(f"{size_in_words(self.total):>10s}        in all")
        if self.compiled is not None:
            lines.append(f"{size_in_words(self.compiled):>10s}        working memory of the compiled program")
        if self.budgets:
            lines.append("an adjoint of the window fits into")
            lines += [
                f"{size_in_words(size):>10s}        with {runs} run(s) of the model forward"
                for runs, size in self.budgets.items()
            ]
        return "\n".join([*lines, *(f"advice: {text}" for text in self.advice)])


def explain_memory(
    subject: Any, model: Any = None, belief: Any = None, observations: Any = None, *, members: bool = False,
    compiled: bool = False,
) -> MemoryReport:  # fmt: skip
    """Estimate what a minimization or a cycle needs in memory, without running or allocating anything.

    - `explain_memory(cost)`: the adjoint of a cost's window, its observations, control vectors and covariances, and
      what a budget (`memory=` of the cost) would change.
    - `explain_memory(method, model, ensemble, observations)`: what `cycle` with a sequential method holds: ensemble,
      record, observed anomalies, the matrices of the analysis, and what it returns.
    - The same with `BinnedObservations`: what `analyze_in_blocks` holds at its largest block, of which a few places are
      read to count what lies near them.

    Shapes are enough: arrays may be `jax.ShapeDtypeStruct`. Where they lie in parts on several devices (or the shapes
    have a sharding), the bytes are those of one device.

    Args:
        subject: a cost, or a sequential method.
        model: forward model of the cycle.
        belief: ensemble (or Gaussian) at its start.
        observations: record of the cycle, or a tuple of streams.
        members: whether the cycle returns the members of all times.
        compiled: compile the cost's value and gradient, and report what the program itself asks for.

    Returns:
        `MemoryReport`; print it.

    Raises:
        ConfigurationError: if the subject is neither, or something is missing.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> y = da.Observations(jnp.zeros((1, 40)), [1000], error=one)
        >>> report = explain_memory(da.StrongConstraint4DVar(da.models.Lorenz96(), jnp.ones(40), one, y))
        >>> next(iter(report.parts)), list(report.budgets)
        ('linearized model of all steps, stored by GaussNewton', [1, 2, 3, 4])
    """
    if is_cost(subject):
        return _of_cost(as_cost(subject), compiled)
    if not isinstance(subject, SequentialMethod) or isinstance(subject, EnsembleWindowMethod):
        raise ConfigurationError(
            f"explain_memory: {type(subject).__name__} is neither a cost nor a sequential method; for a cycle over "
            "windows explain the cost of one window"
        )
    if belief is None or observations is None:
        raise ConfigurationError("explain_memory: give explain_memory(method, model, ensemble, observations)")
    if is_binned(observations):
        return _of_blocks(subject, belief, observations)
    return _of_cycle(subject, belief, as_streams(observations), members)


def _of_cost(cost: Any, compiled: bool) -> MemoryReport:
    v = jax.eval_shape(cost.control)
    streams = cost.streams()
    control = bytes_of(v)
    parts = {
        "observations (values, masks, places)": bytes_of(streams),
        "covariances": bytes_of(cost.covariances()),
        "control vectors of the search (about eight)": 8 * control,
        "residuals and their products (three)": 3 * bytes_of(jax.eval_shape(cost.residuals, v)),
    }
    advice: list[str] = []
    budgets: dict[int, int] = {}
    window = cost.window()
    if window is not None and window.steps:
        steps, state = window.steps, bytes_of(window.background)
        step = bytes_of(
            jax.eval_shape(lambda x: jax.vjp(lambda x: window.model.step(x, window.start), x)[1], window.background)
        )
        whole = steps * (step + state)
        budgets = _budgets(steps, state, step)
        budget, segment = window.memory, window.segment
        sparse = budgets.get(3, whole)
        if budget is not None:
            parts[f"adjoint of the window within memory = {budget}"] = min(whole, budget)
        elif segment is not None:
            parts[f"adjoint of the window, checkpoints every {segment} steps"] = min(
                whole, segment * (step + state) + math.ceil(steps / segment) * state
            )
        elif whole <= MEMORY:
            parts["linearized model of all steps, stored by GaussNewton"] = whole
            if whole > parts_total(parts) - whole:
                advice.append(
                    f"the linearized model dominates: GaussNewton(memory=...) below {size_in_words(whole)} computes it "
                    f"again in every product, from checkpoints of {size_in_words(sparse)}"
                )
        else:
            parts["adjoint of the window, checkpoints every root of its steps"] = sparse
            advice.append(
                f"GaussNewton does not store the linearized model, {size_in_words(whole)}; with memory={whole} it "
                "would, and save one to two runs of the model in every product"
            )
    number = None
    if compiled:
        program = jax.jit(jax.value_and_grad(lambda c, v: c(v), argnums=1)).lower(cost, v).compile()
        number = int(program.memory_analysis().temp_size_in_bytes)
    return MemoryReport(_ordered(parts), budgets, number, tuple(advice))


def _values_at_a_time(streams: tuple[Any, ...]) -> int:
    """Return how many values one analysis has, if all have as many."""
    return sum(
        leaf.size // max(stream.steps.shape[0], 1) for stream in streams for leaf in jax.tree.leaves(stream.values)
    )


def _budgets(steps: int, state: int, step: int) -> dict[int, int]:
    """Return the bytes of an adjoint by forward runs: all intermediates, one state a step, nests of two, three ..."""
    found = {1: steps * (step + state)}
    for depth in range(1, 4):
        carries = next(
            (c for c in _candidates(steps) if len(checkpoint_factors(steps, c) or ()) in range(1, depth + 1)), None
        )
        if carries is not None:
            found[depth + 1] = int(carries * state + 2 * step)
    return found


def _candidates(steps: int) -> list[float]:
    """Return numbers of states in increasing order, fine enough to find the least that a depth needs."""
    return [float(c) for c in range(1, min(steps, 20_000) + 1)] if steps <= 20_000 else [
        steps ** (k / 200) for k in range(201)
    ]  # fmt: skip


def _of_cycle(method: Any, belief: Any, streams: tuple[Any, ...], members: bool) -> MemoryReport:
    leaves, mesh = jax.tree.leaves(belief), mesh_of(belief)
    devices = 1 if mesh is None else mesh.size
    N = max(int(leaves[0].shape[0]), 1) if leaves and leaves[0].shape else 1
    item = leaves[0].dtype.itemsize if leaves else 8
    ensemble, state = bytes_of(belief), bytes_of(belief) // N
    held = values = _values_at_a_time(streams)
    times = max((int(stream.steps.shape[0]) for stream in streams), default=0)
    if isinstance(method, DomainFilter) and method.parts is not None:
        held = math.ceil(values / devices) + method.parts.values.rows
    elif getattr(method, "by_parts", False):
        held = math.ceil(values / devices)
    parts = {
        "ensemble (prior, posterior, forecast)": 3 * ensemble,
        "record of observations": bytes_of(streams),
        "observed anomalies and innovations": 2 * (N + 1) * held * item,
        "means and spreads of all times": 4 * times * state,
    }
    advice: list[str] = []
    batch, near = getattr(method, "batch", None), getattr(method, "neighbors", None)
    if batch is not None:
        parts_of = getattr(method, "parts", None)
        nearest = getattr(method, "nearest", None) if parts_of is None else parts_of.near
        used = int(nearest.shape[-1]) if nearest is not None else values
        if nearest is not None:
            block = min(MANY * batch, math.ceil(nearest.shape[-2] / devices))
            parts["numbers of the observations near each point"] = bytes_of(nearest)
            parts[f"observations looked up for {block} points at a time"] = 2 * block * used * (N + 3) * item
        used = min(used, near or used)
        parts[f"local analyses, {batch} points at a time with {used} observations each"] = (
            batch * (3 * N * N + 2 * N * used) * item
        )
        if used == values and values > 1000:
            advice.append(
                f"every point takes all {values} observations: give `nearest` (nearest_observations) or `neighbors`"
            )
    elif hasattr(method, "inflation"):
        parts["matrices of the members' space"] = 4 * N * N * item
    if members:
        parts["members of all times"] = times * ensemble
        advice.append("members=True keeps every analysed ensemble; cycle in parts (cycle_in_chunks) and store them")
    if parts["means and spreads of all times"] > ensemble * 10:
        advice.append("what is kept of all times dominates: cycle in parts with cycle_in_chunks")
    advice.append(f"a derivative through the cycle keeps one ensemble a time: {size_in_words(times * ensemble)} more")
    return MemoryReport(_ordered(parts), {}, None, tuple(advice))


def _of_blocks(method: Any, belief: Any, observations: Any) -> MemoryReport:
    """Return what the largest block of `analyze_in_blocks` needs."""
    leaves = jax.tree.leaves(belief)
    N, item = int(leaves[0].shape[0]), leaves[0].dtype.itemsize
    shape, D = method.grid_shape(belief), method.grid.coordinates
    plan = plan_blocks(method, shape, observations)
    points, near, block = math.prod(shape), plan.near, min(MANY * method.batch, plan.piece)
    used = min(near, method.neighbors or near)
    parts = {
        "ensemble (given, prior, posterior)": 3 * bytes_of(belief),
        "points, and the order in which they are analysed": points * (D * (8 + item) + 24),
        f"observations read for a block, {plan.values} at most": plan.values * (3 * 8 * D + 8 * item),
        "observed anomalies and innovations": 3 * (N + 1) * plan.values * item,
        f"search for {plan.piece} points, of which one has about {near} observations": plan.piece * near * (8 * D + 40),
        f"observations looked up for {block} points at a time": 2 * block * near * (N + 3) * item,
        f"local analyses, {method.batch} points at a time with {used} observations each": (
            method.batch * (3 * N * N + 2 * N * used) * item
        ),
    }
    advice = ("smaller boxes (edge of bin_observations) read less at a time, and a smaller batch looks up less",)
    return MemoryReport(_ordered(parts), {}, None, advice)


def parts_total(parts: Mapping[str, int]) -> int:
    """Return the sum of all parts."""
    return sum(parts.values())


def bytes_of(x: Any) -> int:
    """Return the bytes that a device has of all arrays of a pytree (or of their shapes)."""
    leaves = [leaf for leaf in jax.tree.leaves(x) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    return sum(math.prod(_part_of(leaf)) * leaf.dtype.itemsize for leaf in leaves)


def _part_of(leaf: Any) -> tuple[int, ...]:
    """Return the shape of what one device has of an array."""
    place = getattr(leaf, "sharding", None)
    return tuple(place.shard_shape(leaf.shape)) if isinstance(place, NamedSharding) else tuple(leaf.shape)


def size_in_words(size: float) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size_in_words(1536), size_in_words(3)
        ('1.5 KiB', '3 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _ordered(parts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(parts.items(), key=lambda item: -item[1]))
