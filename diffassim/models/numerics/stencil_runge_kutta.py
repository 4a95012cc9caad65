"""One Runge-Kutta step of a stencil model as a whole: one padded copy, and an adjoint that keeps only the state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.kernels import kernel
from diffassim.core.linear import with_adjoint
from diffassim.models.numerics.stencil import (
    HERE,
    Extended,
    Margin,
    PeriodicStencil,
    extend,
    matched,
    window,
    with_margin,
)

__all__ = ["stencil_runge_kutta_4"]

# Classical scheme: stage i starts at p_i = x + A[i] dt k_{i-1}, and x advances by dt (B[0] k_0 + ... + B[3] k_3).
_A = (0.0, 0.5, 0.5, 1.0)
_B = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


def stencil_runge_kutta_4(
    stencil: PeriodicStencil, x: Float[Array, "... n"], dt: Any, parameters: Any = None
) -> Float[Array, "... n"]:
    r"""Take one classical fourth-order Runge-Kutta step of a periodic stencil model.

    The same numbers as `runge_kutta_4` to rounding, but the state is padded once, by four times the reach of the
    stencil, and the four stages work on shrinking windows of it. The adjoint recomputes the stages from the state, so
    that reverse mode keeps one state a step, and gathers on shrinking windows as well:

    .. math:: \bar k_4 = \tfrac{\Delta t}{6} \bar y,\quad \beta_i = f'(p_i)^\top \bar k_i,\quad
        \bar k_{i-1} = b_{i-1} \Delta t\, \bar y + a_i \Delta t\, \beta_i,\quad \bar x = \bar y + \sum_i \beta_i

    Args:
        stencil: the tendency.
        x: state, shape (..., n).
        dt: time step, a number.
        parameters: the stencil's parameters, numbers or fields that broadcast to x.

    Returns:
        The state at time dt later.

    Raises:
        ShapeError: if a parameter does not broadcast to the state.

    Example:
        >>> upwind = PeriodicStencil(lambda u, a: a * (u[0] - u[1]), offsets=(-1, 0))
        >>> stencil_runge_kutta_4(upwind, jnp.array([0.0, 1.0, 0.0, 0.0]), 1.0, 1.0).round(3).tolist()
        [0.0, 0.417, 0.333, 0.25]

    Source: Hairer, Norsett and Wanner (1993), table II.1.2; adjoint: Sanz-Serna (2016), section 3.
    """
    return _step(stencil, x, jnp.asarray(dt, x.dtype), matched(parameters, x))


def _margin(stencil: PeriodicStencil, stage: int, extra: Margin) -> Margin:
    """Margin of p_stage: the later stages still have to look around, and the caller wants `extra`."""
    left, right = stencil.reach
    return (4 - stage) * left + extra[0], (4 - stage) * right + extra[1]


def _stages(stencil: PeriodicStencil, x: Array, dt: Array, parameters: Any, extra: Margin) -> tuple[list[Array], Any]:
    """Return the stage states p_0, ..., p_3 with their margins, and the parameters with the margin of p_0."""
    margin = _margin(stencil, 0, extra)
    stages, parameters = [with_margin(x, margin=margin)], extend(parameters, margin).values
    for i in (1, 2, 3):
        stages.append(_next_stage(stages[-1], stages[0], dt, parameters, stencil=stencil, stage=i, extra=extra))
    return stages, parameters


@kernel("stencil", "stage", "extra")
def _next_stage(
    p: Array, p_0: Array, dt: Array, parameters: Any, *, stencil: PeriodicStencil, stage: int, extra: Margin
) -> Array:
    first, have, want = (_margin(stencil, i, extra) for i in (0, stage - 1, stage))
    slope = stencil.evaluate(Extended(p, have), Extended(parameters, first), want)
    return window(Extended(p_0, first), want) + _A[stage] * dt * slope


def _plain(stencil: PeriodicStencil, x: Array, dt: Array, parameters: Any) -> Array:
    stages, parameters = _stages(stencil, x, dt, parameters, HERE)
    return _combine(x, *stages[1:], dt, parameters, stencil=stencil)


@kernel("stencil")
def _combine(
    x: Array, p_1: Array, p_2: Array, p_3: Array, dt: Array, parameters: Any, *, stencil: PeriodicStencil
) -> Array:
    # The first three slopes are read off the stage states: storing them as well would cost more.
    first, *margins = (_margin(stencil, i, HERE) for i in range(4))
    stages = [Extended(p, margin) for p, margin in zip((p_1, p_2, p_3), margins, strict=True)]
    d_1, d_2, d_3 = (window(p, HERE) - x for p in stages)
    slope = stencil.evaluate(stages[2], Extended(parameters, first), HERE)
    return x + (d_1 + 2 * d_2 + d_3) / 3 + dt / 6 * slope


def _adjoint(stencil: PeriodicStencil, bar: Array, x: Array, dt: Array, parameters: Any) -> tuple[Array, Array, Any]:
    wide = _backward_margin(stencil, 4)
    stages, extended = _stages(stencil, x, dt, parameters, wide)
    bar_wide = with_margin(bar, margin=wide)
    beta_3 = _backward_stage(bar_wide, None, stages[3], dt, extended, stencil=stencil, stage=3)
    beta_2 = _backward_stage(bar_wide, beta_3, stages[2], dt, extended, stencil=stencil, stage=2)
    beta_1 = _backward_stage(bar_wide, beta_2, stages[1], dt, extended, stencil=stencil, stage=1)
    betas = (beta_1, beta_2, beta_3)
    x_bar = _last_backward_stage(bar, bar_wide, betas, stages[0], dt, extended, stencil=stencil)
    return x_bar, *_parameter_bars(stencil, bar, betas, stages, dt, parameters)


def _backward_margin(stencil: PeriodicStencil, stage: int) -> Margin:
    """Margin of beta_stage: what the earlier stages gather from it."""
    left, right = stencil.reach
    return stage * right, stage * left


def _pull_back(
    stencil: PeriodicStencil, bar: Array, beta: Array | None, p: Array, dt: Array, parameters: Any, stage: int
) -> Array:
    """Return beta of this stage, from the cotangent of the step and the beta of the next stage (None at the last)."""
    wide, have, want = (_backward_margin(stencil, i) for i in (4, stage + 1, stage))
    first, have_p = (_margin(stencil, i, wide) for i in (0, stage))
    bar = window(Extended(bar, wide), have)
    factor, weight = (_B[3] * dt, bar) if beta is None else (dt, _B[stage] * bar + _A[stage + 1] * beta)
    return factor * stencil.gather(Extended(p, have_p), Extended(weight, have), Extended(parameters, first), want)


@kernel("stencil", "stage")
def _backward_stage(
    bar: Array, beta: Array | None, p: Array, dt: Array, parameters: Any, *, stencil: PeriodicStencil, stage: int
) -> Array:
    return _pull_back(stencil, bar, beta, p, dt, parameters, stage)


@kernel("stencil")
def _last_backward_stage(
    bar: Array, bar_wide: Array, betas: tuple[Array, ...], p: Array, dt: Array, parameters: Any, *, stencil: Any
) -> Array:
    x_bar = bar + _pull_back(stencil, bar_wide, betas[0], p, dt, parameters, 0)
    for stage, beta in enumerate(betas, start=1):
        x_bar = x_bar + window(Extended(beta, _backward_margin(stencil, stage)), HERE)
    return x_bar


def _parameter_bars(
    stencil: PeriodicStencil, bar: Array, betas: tuple[Array, ...], stages: list[Array], dt: Array, parameters: Any
) -> tuple[Array, Any]:
    """Return the cotangents of dt and of the parameters (the compiler drops what nobody asks for)."""
    wide = _backward_margin(stencil, 4)
    dt_bar, parameters_bar = jnp.zeros_like(dt), jax.tree.map(jnp.zeros_like, parameters)
    for i, p in enumerate(stages):
        weight = _B[i] * bar
        if i < 3:
            weight = weight + _A[i + 1] * window(Extended(betas[i], _backward_margin(stencil, i + 1)), HERE)
        stage = Extended(p, _margin(stencil, i, wide))
        slope, pull_back = jax.vjp(lambda q, p=stage: stencil.evaluate(p, Extended(q, HERE), HERE), parameters)
        dt_bar = dt_bar + jnp.sum(weight * slope)
        parameters_bar = jax.tree.map(jnp.add, parameters_bar, pull_back(dt * weight)[0])
    return dt_bar, parameters_bar


_step = with_adjoint(_plain, _adjoint)
