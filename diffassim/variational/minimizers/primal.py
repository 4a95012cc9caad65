"""Gauss-Newton's inner problem in control space, and the protocol of what solves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.core.checks import count_of
from diffassim.core.errors import require_positive
from diffassim.core.pytree import Pytree, static
from diffassim.variational.minimizers.preconditioner import LimitedMemory
from diffassim.variational.minimizers.trust_region import TrustRegionStep, truncated_cg

__all__ = ["Around", "InnerMethod", "PrimalCG"]

# Over chaotic windows of thousands of variables pairs save most products, and more than these cost what they save; with
# hundreds of variables they save nothing.
PAIRS, LARGE = 50, 800


class Around(NamedTuple):
    """A cost's residuals around a control vector: r(v + p) = r + A p, gradient v + A^T r."""

    control: Any
    residuals: Any
    gradient: Any
    tangent: Callable[[Any], Any]  # p -> A p
    adjoint: Callable[[Any], tuple[Any]]  # r -> (A^T r,)

    def gauss_newton(self, p: Any) -> Any:
        """Return the product of Gauss-Newton's Hessian with a vector."""
        return self.adjoint(self.tangent(p))[0]


class InnerMethod(Pytree):
    """Base of what finds the step of a Gauss-Newton iteration, `GaussNewton(inner=...)`.

    A subclass defines `step` and `primal`.
    """

    @property
    def primal(self) -> PrimalCG:
        """What minimizes quadratic models of which only products with the Hessian are known."""
        raise NotImplementedError(f"{type(self).__name__} does not define primal")

    @property
    def levels(self) -> tuple[Any, ...]:
        """Simplified models that come before the full linearized one, the coarsest first."""
        return ()

    def check(self, cost: Any, residuals: Any) -> None:
        """Raise an error if the steps of a cost with these residuals (shapes) cannot be found (default: any can)."""

    def settled(self, start: Any, steps: int, memory: float) -> InnerMethod:
        """Return the method with what it chooses itself for a search (default: nothing is left to choose).

        Args:
            start: control vector.
            steps: model steps of the window, 0 without one.
            memory: bytes that it may keep.
        """
        return self

    def remember(self, start: Any) -> LimitedMemory | None:
        """Return what one inner loop hands on to the next, before the first one."""
        return None

    def step(self, around: Around, radius: Any, remembered: Any, unrolled: bool) -> TrustRegionStep:
        """Minimize the quadratic model within the trust radius, approximately.

        Args:
            around: the linearized residuals; all zeros where no step is wanted.
            radius: trust radius, positive (may be infinite).
            remembered: what the inner loop before has handed on.
            unrolled: use loops that reverse mode can pass through.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step(around, radius, remembered, unrolled)")


class PrimalCG(InnerMethod):
    r"""Conjugate gradients on \(\min_p g^\top p + \tfrac12 p^\top (I + A^\top A)\, p\) within the trust radius.

    Args:
        tolerance: relative residual at which they end.
        max_iterations: limit on iterations, one product with A and its transpose each (static).
        pairs: number of directions that precondition the following inner loops (static), see `LimitedMemory`; two
            control vectors of memory, and four operations with them in each iteration. It pays where the inner loops
            are long, the Hessian changes little between them and its products are dear. None: as many as the window has
            steps, at most 50 and no more than fit in the memory of the linearization, for control vectors of 800
            components and more.

    Raises:
        ConfigurationError: if the tolerance is not positive, there is no iteration, `pairs` is negative, or (in use)
            larger than the control vector.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> da.minimize(cost, da.GaussNewton(inner=PrimalCG(tolerance=1e-6))).state.tolist()
        [2.0]

    Source: Steihaug (1983); Nocedal and Wright (2006), algorithm 7.2.
    """

    tolerance: Any = 0.1
    max_iterations: int = static(default=100)
    pairs: int | None = static(default=None)

    def __post_init__(self) -> None:
        require_positive("PrimalCG.tolerance", self.tolerance)
        count_of("PrimalCG.max_iterations", self.max_iterations, least=1)
        if self.pairs is not None:
            count_of("PrimalCG.pairs", self.pairs)

    @property
    def primal(self) -> PrimalCG:
        """Itself."""
        return self

    def settled(self, start: Any, steps: int, memory: float) -> InnerMethod:
        """Return it with a number of pairs; see `InnerMethod.settled`."""
        if self.pairs is not None:
            return self
        leaves = jax.tree.leaves(start)
        size, each = sum(leaf.size for leaf in leaves), 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        return self.replace(pairs=min(PAIRS, steps, int(memory // each)) if size >= LARGE else 0)

    def remember(self, start: Any) -> LimitedMemory | None:
        """Return the preconditioner before the first inner loop."""
        return LimitedMemory.empty(start, self.pairs) if self.pairs else None

    def minimize(
        self, product: Callable[[Any], Any], gradient: Any, radius: Any, remembered: Any, unrolled: bool
    ) -> TrustRegionStep:
        """Minimize a quadratic model that is known by products with its Hessian; see `truncated_cg`."""
        tolerance = jnp.asarray(self.tolerance, radius.dtype)
        return truncated_cg(product, gradient, radius, tolerance, self.max_iterations, unrolled, remembered)

    def step(self, around: Around, radius: Any, remembered: Any, unrolled: bool) -> TrustRegionStep:
        """Minimize the quadratic model; see `InnerMethod.step`."""
        return self.minimize(around.gauss_newton, around.gradient, radius, remembered, unrolled)
