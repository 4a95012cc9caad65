"""Is a derivative right? Dot-product and Taylor tests for any model, operator, covariance or cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.pytree import Pytree, static

__all__ = ["AdjointReport", "TaylorReport", "check_adjoint", "check_gradient"]


class AdjointReport(Pytree):
    """Result of `check_adjoint`: the relative defect of the adjoint identity, and whether it is within tolerance."""

    defect: float = static()
    tolerance: float = static()
    passed: bool = static()

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        identity = "|<Mx, y> - <x, M*y>| / (|Mx| |y|)"
        return f"adjoint test {verdict}: {identity} = {self.defect:.2e} (tolerance {self.tolerance:.0e})"


class TaylorReport(Pytree):
    """Result of `check_gradient`: step sizes, remainders, the fitted slope of each decade, and the verdict."""

    steps: tuple[float, ...] = static()
    remainders: tuple[float, ...] = static()
    slopes: tuple[float, ...] = static()
    passed: bool = static()

    def __str__(self) -> str:
        rows = "\n".join(f"  {h:8.1e}  {r:.3e}" for h, r in zip(self.steps, self.remainders, strict=True))
        slopes = ", ".join(f"{s:.3f}" for s in self.slopes)
        verdict = "passed" if self.passed else "FAILED"
        return f"Taylor test {verdict}: slopes {slopes} (2 expected)\n  step      remainder\n{rows}"


def check_adjoint(
    function: Callable[[Any], Any],
    x: Any,
    *,
    adjoint: Callable[[Any], Any] | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> AdjointReport:
    r"""Test that the adjoint of a function's tangent-linear map is its transpose.

    .. math:: |\langle M u, w\rangle - \langle u, M^* w\rangle| \le \text{tol}\; |M u|\, |w|

    for a random u and a w of the direction of M u plus noise, so that neither side is small by accident.

    Args:
        function: any differentiable function of a pytree.
        x: point at which to linearize.
        adjoint: the map to test, w -> M* w; default: the one that autodiff derives.
        seed: seed of the random vectors.
        tolerance: default 1e-12 for float64, 1e-5 for float32.

    Returns:
        `AdjointReport`.

    Example:
        >>> check_adjoint(jnp.sin, jnp.arange(3.0), adjoint=lambda w: 2 * w).passed
        False

    Source: Navon et al. (1992), equation 4.4.
    """
    tangent = jax.jit(lambda u: jax.jvp(function, (x,), (u,))[1])
    if adjoint is None:
        adjoint = jax.jit(lambda w: jax.vjp(function, x)[1](w)[0])
    key_u, key_w = jax.random.split(jax.random.key(seed))
    u = _random_like(key_u, x)
    Mu = tangent(u)
    scale = tree.norm(Mu) / (tree.size(Mu) ** 0.5)
    w = tree.add(Mu, tree.scale(scale, _random_like(key_w, Mu)))
    left, right = tree.dot(Mu, w), tree.dot(u, adjoint(w))
    defect = float(jnp.abs(left - right) / (tree.norm(Mu) * tree.norm(w)))
    single = any(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(Mu))
    limit = (1e-5 if single else 1e-12) if tolerance is None else tolerance
    return AdjointReport(defect, limit, bool(defect <= limit))


def check_gradient(
    function: Callable[[Any], Any],
    x: Any,
    *,
    gradient: Callable[[Any], Any] | None = None,
    seed: int = 0,
    largest_step: float = 1e-2,
) -> TaylorReport:
    r"""Test a gradient by the order of its Taylor remainder.

    .. math:: |f(x + h u) - f(x) - h\,\langle \nabla f(x), u\rangle| = O(h^2)

    for a random unit direction u scaled like x. Seven steps, half a decade apart, are taken; the slope of the remainder
    over three decades must be 2 +- 0.1. A function that is linear or quadratic along u passes when the remainder, or
    its departure from slope 2, is at rounding level.

    Args:
        function: scalar function of a pytree.
        x: point at which to test, float64 for a meaningful result.
        gradient: the gradient to test; default `jax.grad(function)`.
        seed: seed of the direction.
        largest_step: first step h, relative to the size of x.

    Returns:
        `TaylorReport`.

    Example:
        >>> check_gradient(lambda x: jnp.sum(jnp.sin(x)), jnp.arange(3.0), gradient=lambda x: 1.01 * jnp.cos(x)).passed
        False

    Source: Navon et al. (1992), section 4.
    """
    gradient = jax.grad(function) if gradient is None else gradient
    u = _random_like(jax.random.key(seed), x)
    u = tree.scale(jnp.maximum(tree.norm(x), 1.0) / tree.norm(u), u)
    evaluate = jax.jit(function)
    value, slope = float(evaluate(x)), float(tree.dot(jax.jit(gradient)(x), u))
    steps = largest_step * 10.0 ** (-0.5 * np.arange(7))
    remainders = np.array([abs(float(evaluate(tree.axpy(h, u, x))) - value - h * slope) for h in steps])
    rounding = 1e2 * jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).eps * max(abs(value), abs(slope) * largest_step)
    usable = remainders > rounding
    slopes = []
    for i in range(0, 5, 2):
        if usable[i] and usable[i + 2]:
            slopes.append(float(np.log10(remainders[i] / remainders[i + 2]) / np.log10(steps[i] / steps[i + 2])))
    passed = bool(np.all(np.isfinite(remainders))) and all(abs(s - 2) <= 0.1 for s in slopes)
    return TaylorReport(tuple(map(float, steps)), tuple(map(float, remainders)), tuple(slopes), passed)


def _random_like(key: Any, x: Any) -> Any:
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [
        jax.random.normal(k, jnp.shape(leaf), jnp.result_type(leaf)) for k, leaf in zip(keys, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, drawn)
