"""Gauss-Newton with a trust region, quasi-static window growth, and Newton's method where Gauss-Newton is slow."""

from __future__ import annotations

from typing import Any

from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.pytree import Pytree, static
from diffassim.variational.minimizers.base import Minimizer
from diffassim.variational.minimizers.linearization import MEMORY
from diffassim.variational.minimizers.outer_loop import OuterLoop
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["GaussNewton"]


class GaussNewton(Minimizer, Pytree):
    r"""Incremental (Gauss-Newton) minimization of a sum of squares, globalized by a trust region.

    Each outer iteration linearizes the residuals once, \(r(v + p) \approx r + A p\), and minimizes the quadratic model
    by truncated conjugate gradients within the trust radius; a step whose cost is not finite only shrinks the radius.

    Over long windows of chaotic models J has many minima (Pires et al., 1996). Where a step's linear prediction of the
    whitened innovations is far off at some time, at any single place, the window is cut back to the time before, and
    grows again from the solution there, as fast as the linearization permits: quasi-static variational assimilation,
    started only where it is needed. A stage ends as soon as the linearization is close, not when its minimum is found,
    so that this costs less than most plain searches that succeed. If the minimum at the end is doubtful (2 J more than
    `consistency` standard deviations above its expectation, the number of observed values, or an innovation beyond all
    likelihood), the window grows once more, one observation time after the other, and the lower minimum is returned.

    Near the minimum of a long window the second derivatives of the residuals, which Gauss-Newton leaves out, may be
    larger than what the observations say about the flattest directions; its steps then gain little. There the full
    Hessian takes over: with `newton` in the same program, else in one of its own that `minimize` calls only then.

    Args:
        tolerance: stop when |dJ/dv| is below this. In whitened control space it bounds the distance to the minimizer
            in units of the background standard deviation, because the Hessian is at least the identity.
        inner_tolerance: relative residual of the inner conjugate gradients.
        consistency: standard deviations of the chi-square test; infinity switches test and window growth off.
        max_iterations: limit on outer iterations, all windows together (static).
        max_inner: limit on conjugate-gradient iterations in each of them (static).
        store_linearization: keep the linearized model's coefficients through the inner loop (static). Faster; False
            recomputes them in every product from checkpoints, for windows whose intermediates do not fit in memory.
            None stores them if they take no more than `memory`, and the cost does not set checkpoints of its own.
        memory: bytes that the stored linearization may take (static).
        dual: solve the inner problem in the space of the observations (static), see `dual_step`: the same analysis
            with shorter vectors, where there are fewer observed values than control variables.
        pairs: number of directions of the conjugate gradients that precondition the following inner loops (static), see
            `LimitedMemory`; two control vectors of memory, and four operations with them in each iteration. It pays
            where the inner loops are long, the Hessian changes little between them and its products are dear; over
            long chaotic windows, whose directions turn, it does not.
        simplified: `Simplified` model for the Hessian of the inner loops, or a tuple of them, the coarsest first:
            incremental 4D-Var. The next level takes over where a step fails or the gradient norm hardly falls, and
            after the last one the full linearized model.
        newton: whether the full Hessian can take over within one program (static), which takes longer to compile; for
            long windows inside of traced code, where `minimize` cannot do it.

    Raises:
        ConfigurationError: if a tolerance is not positive, or `pairs` is negative, larger than the control vector, or
            given with `dual`; or if `simplified` is given with `dual`.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> da.minimize(cost, da.GaussNewton()).state.tolist()
        [2.0]

    Source: Courtier et al. (1994); Steihaug (1983); Nocedal and Wright (2006), algorithm 4.1; quasi-static growth:
    Pires, Vautard and Talagrand (1996), Jaervinen et al. (1996).
    """

    tolerance: Any = 1e-3
    inner_tolerance: Any = 0.1
    consistency: Any = 5.0
    max_iterations: int = static(default=200)
    max_inner: int = static(default=100)
    store_linearization: bool | None = static(default=None)
    memory: int = static(default=MEMORY)
    dual: bool = static(default=False)
    pairs: int = static(default=0)
    simplified: Any = None
    newton: bool = static(default=False)

    def __post_init__(self) -> None:
        require_positive("GaussNewton.tolerance", self.tolerance)
        require_positive("GaussNewton.inner_tolerance", self.inner_tolerance)
        if self.pairs < 0:
            raise ConfigurationError(f"GaussNewton.pairs must not be negative, found {self.pairs}")
        if self.dual and self.pairs:
            raise ConfigurationError("GaussNewton: the dual inner solve has no preconditioner; give `pairs` or `dual`")
        if self.dual and self.levels:
            raise ConfigurationError("GaussNewton: give `simplified` or `dual`; the dual inner solve has no levels")

    @property
    def levels(self) -> tuple[Any, ...]:
        """The simplified models as a tuple, the coarsest first."""
        if self.simplified is None:
            return ()
        return self.simplified if isinstance(self.simplified, tuple) else (self.simplified,)

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the control vector `start`.

        Args:
            cost: object with `residuals(v)`, whose squared norm is 2 J.
            start: control vector.
            unrolled: use loops that reverse mode can pass through (`max_iterations` turns are kept).

        Returns:
            `Minimum`.
        """
        return OuterLoop(self, cost, start, unrolled).run()

    def stages(self, start: Any) -> tuple[Any, ...]:
        """Return the search that ends where it is slow, and what goes on from there with the full Hessian."""
        own_search = type(self).search is not GaussNewton.search  # of a subclass: it cannot be interrupted from here
        if self.newton or own_search:
            return (self,)
        return _UntilSlow(self), _Continued(self.replace(newton=True), start)


class _UntilSlow(Minimizer, Pytree):
    """Gauss-Newton that ends where the full Hessian should take over."""

    method: GaussNewton

    @property
    def tolerance(self) -> Any:  # type: ignore[override]
        return self.method.tolerance

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the control vector `start`; see `GaussNewton.search`."""
        return OuterLoop(self.method, cost, start, unrolled, hands_over=True).run()


class _Continued(Minimizer, Pytree):
    """The same search from there on with the full Hessian; a second attempt begins at the origin."""

    method: GaussNewton
    origin: Any

    @property
    def tolerance(self) -> Any:  # type: ignore[override]
        return self.method.tolerance

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the control vector `start`; see `GaussNewton.search`."""
        return OuterLoop(self.method, cost, start, unrolled, origin=self.origin).run()
