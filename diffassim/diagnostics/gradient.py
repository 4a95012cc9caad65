"""Is a derivative right? Dot-product and Taylor tests for any model, operator, covariance or cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import DataError, ShapeError
from diffassim.core.pytree import Pytree, static

__all__ = ["AdjointReport", "TaylorReport", "check_adjoint", "check_gradient"]


SLOPE_TOLERANCE = 0.1  # of the Taylor remainder's order, in each decade
VISIBLE = 1e-2  # relative error of a gradient that a test must be able to see to pass


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
    """Result of `check_gradient`: step sizes, remainders, the fitted slope of each decade, and the verdict.

    `conclusive` is False where rounding hides what the test looks for: then it has not passed either.
    """

    steps: tuple[float, ...] = static()
    remainders: tuple[float, ...] = static()
    slopes: tuple[float, ...] = static()
    passed: bool = static()
    conclusive: bool = static(default=True)

    def __str__(self) -> str:
        rows = "\n".join(f"  {h:8.1e}  {r:.3e}" for h, r in zip(self.steps, self.remainders, strict=True))
        slopes = ", ".join(f"{s:.3f}" for s in self.slopes) or "none above rounding"
        verdict = "passed" if self.passed else "FAILED"
        advice = "" if self.conclusive else "; INCONCLUSIVE: use float64, a larger step, or a function of smaller size"
        return f"Taylor test {verdict}: slopes {slopes} (2 expected){advice}\n  step      remainder\n{rows}"


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

    for a random u and a w of the direction of M u plus noise, so that neither side is small by accident. Where M u = 0
    (a constant function), w is noise and M* w must vanish.

    Args:
        function: any differentiable function of a pytree.
        x: point at which to linearize.
        adjoint: the map to test, w -> M* w; default: the one that autodiff derives.
        seed: seed of the random vectors.
        tolerance: default 1e-12 for float64, 1e-5 for float32.

    Returns:
        `AdjointReport`.

    Raises:
        DataError: if x holds something that is not floating point, or a product with M or M* is not finite.
        ShapeError: if the adjoint returns something that is not shaped like x.

    Example:
        >>> check_adjoint(jnp.sin, jnp.arange(3.0), adjoint=lambda w: 2 * w).passed
        False

    Source: Navon et al. (1992), equation 4.4.
    """
    x = _floating("check_adjoint", x)
    y = jax.eval_shape(function, x)
    draws = np.random.default_rng(seed)
    u, noise = _random_like(draws, x), _random_like(draws, y)

    @jax.jit
    def forward(x: Any, u: Any, noise: Any) -> tuple[Any, Any]:
        Mu = jax.jvp(function, (x,), (u,))[1]
        length = tree.norm(Mu)
        return Mu, tree.axpy(jnp.where(length == 0, 1, length) / tree.size(y) ** 0.5, noise, Mu)

    @jax.jit
    def both(x: Any, u: Any, noise: Any) -> tuple[Any, Any, Any]:
        Mu, w = forward(x, u, noise)
        return Mu, w, jax.vjp(function, x)[1](w)[0]

    if adjoint is None:
        Mu, w, back = both(x, u, noise)
    else:
        Mu, w = forward(x, u, noise)
        back = adjoint(w)
        if not tree.same_shapes(x, back):
            raise ShapeError(
                f"check_adjoint: the adjoint returned {tree.describe_shapes(back) or type(back).__name__}, but x has "
                f"{tree.describe_shapes(x)}"
            )
    Mu, w, back, u = (_on_host(vector) for vector in (Mu, w, back, u))
    for name, product in (("tangent-linear map", Mu), ("adjoint", back)):
        if not np.isfinite(product).all():
            raise DataError(
                f"check_adjoint: the product with the {name} is not finite at this x; test at another point, or look "
                "for a division by zero, sqrt or norm at zero, or a `where` whose unused branch is not finite"
            )
    defect = abs(np.vdot(Mu, w) - np.vdot(u, back))
    defect = float(defect / ((np.linalg.norm(Mu) or np.linalg.norm(u)) * np.linalg.norm(w)))
    single = any(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(y))
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
    over three decades must be 2 +- 0.1, as far as the remainder lies above rounding. Where it lies below rounding from
    the first decade on (f is linear along u), the test passes if an error of one percent in the gradient would have
    been seen; otherwise it is inconclusive, and fails.

    Args:
        function: scalar function of a pytree.
        x: point at which to test, float64 for a meaningful result.
        gradient: the gradient to test; default `jax.grad(function)`.
        seed: seed of the direction.
        largest_step: first step h, relative to the size of x.

    Returns:
        `TaylorReport`.

    Raises:
        ShapeError: if the function does not return a scalar, or the gradient is not shaped like x.
        DataError: if x holds something that is not floating point, or the function or its gradient is not finite at x
            or at a step from it.

    Example:
        >>> check_gradient(lambda x: jnp.sum(jnp.sin(x)), jnp.arange(3.0), gradient=lambda x: 1.01 * jnp.cos(x)).passed
        False

    Source: Navon et al. (1992), section 4.
    """
    x = _floating("check_gradient", x)
    returned = jax.eval_shape(function, x)
    if jax.tree.structure(returned) != jax.tree.structure(0.0) or jnp.shape(returned) != ():
        raise ShapeError(
            f"check_gradient: the function must return one number, but it returns {tree.describe_shapes(returned)}; "
            "sum or weight its output, or use check_adjoint"
        )
    u = _random_like(np.random.default_rng(seed), x)
    scale = max(float(np.linalg.norm(_on_host(x))), 1.0) / float(np.linalg.norm(_on_host(u)))
    u = jax.tree.map(lambda leaf: (scale * leaf).astype(leaf.dtype), u)
    if gradient is None:
        both = jax.jit(jax.value_and_grad(function))
        evaluate, at_x = (lambda x: both(x)[0]), both(x)
    else:
        evaluate = jax.jit(function)
        at_x = evaluate(x), gradient(x)
        if not tree.same_shapes(x, at_x[1]):
            raise ShapeError(
                f"check_gradient: the gradient is {tree.describe_shapes(at_x[1])}, but x has {tree.describe_shapes(x)}"
            )
    value, gradient_at_x = float(at_x[0]), _on_host(at_x[1])
    if not (np.isfinite(value) and np.isfinite(gradient_at_x).all()):
        wrong = "gradient" if np.isfinite(value) else "function"
        raise DataError(f"check_gradient: the {wrong} is not finite at x; test at another point")
    slope = float(np.vdot(gradient_at_x, _on_host(u)))
    steps = largest_step * 10.0 ** (-0.5 * np.arange(7))
    remainders = np.array([abs(float(evaluate(_moved(x, u, h))) - value - h * slope) for h in steps])
    if not np.isfinite(remainders).all():
        worst = steps[~np.isfinite(remainders)].min()
        raise DataError(
            f"check_gradient: the function is not finite at a step of {worst:.0e} from x; give a smaller largest_step"
        )
    eps = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).eps)
    rounding = 1e2 * eps * max(abs(value), abs(slope) * largest_step)
    usable = remainders > rounding
    slopes = []
    for i in range(0, 5, 2):
        if usable[i] and usable[i + 2]:
            slopes.append(float(np.log10(remainders[i] / remainders[i + 2]) / np.log10(steps[i] / steps[i + 2])))
    # Without a slope: would a remainder of first order have shown one?
    seen = rounding <= 0.1 * VISIBLE * abs(slope) * largest_step or not remainders.any()
    conclusive = bool(slopes) or bool(seen)
    passed = conclusive and all(abs(s - 2) <= SLOPE_TOLERANCE for s in slopes)
    return TaylorReport(
        tuple(map(float, steps)), tuple(map(float, remainders)), tuple(slopes), bool(passed), bool(conclusive)
    )


def _floating(name: str, x: Any) -> Any:
    """Return x with arrays as leaves, all of them floating point."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise DataError(
                f"{name}: x{jax.tree_util.keystr(path)} is {dtype}; derivatives exist for floating-point leaves only: "
                "convert it, or keep it out of x"
            )
    if not jax.tree.leaves(x):
        raise ShapeError(f"{name}: x holds no array")
    return jax.tree.map(jnp.asarray, x)


def _random_like(draws: np.random.Generator, x: Any) -> Any:
    # Drawn on the host: compiling a random generator for each shape would take longer than the test itself.
    return jax.tree.map(lambda leaf: draws.normal(size=jnp.shape(leaf)).astype(jnp.result_type(leaf)), x)


def _moved(x: Any, u: Any, h: float) -> Any:
    return jax.tree.map(lambda a, b: (a + h * b).astype(b.dtype), jax.tree.map(np.asarray, x), u)


def _on_host(x: Any) -> np.ndarray:
    """Return all entries as one vector in double precision."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(x)])
