"""Gauss-Newton with a trust region, quasi-static window growth, and Newton's method where Gauss-Newton is slow."""

from __future__ import annotations

from typing import Any

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.pytree import Pytree, static
from diffassim.variational.minimizers.base import Minimizer
from diffassim.variational.minimizers.growth import QuasiStatic
from diffassim.variational.minimizers.linearization import MEMORY
from diffassim.variational.minimizers.outer_loop import OuterLoop
from diffassim.variational.minimizers.primal import InnerMethod, PrimalCG
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["GaussNewton"]


class GaussNewton(Minimizer, Pytree):
    r"""Incremental (Gauss-Newton) minimization of a sum of squares, globalized by a trust region.

    Each outer iteration linearizes the residuals once, \(r(v + p) \approx r + A p\), and minimizes the quadratic model
    by truncated conjugate gradients within the trust radius; a step whose cost is not finite only shrinks the radius.

    Near the minimum of a long window the second derivatives of the residuals, which Gauss-Newton leaves out, may be
    larger than what the observations say about the flattest directions; its steps then gain little. There the full
    Hessian takes over: with `newton` in the same program, else in one of its own that `minimize` calls only then.

    Args:
        tolerance: stop when |dJ/dv| is below this. In whitened control space it bounds the distance to the minimizer
            in units of the background standard deviation, because the Hessian is at least the identity.
        inner: what minimizes the quadratic model: `PrimalCG`, `DualCG`, `DirectSVD`, or `Incremental` with simplified
            models.
        growth: what grows the window where the cost is not close to quadratic, and doubts minima, `QuasiStatic`; None
            does neither.
        max_iterations: limit on outer iterations, all windows together (static).
        store_linearization: keep the linearized model's coefficients through the inner loop (static). Faster; False
            recomputes them in every product from checkpoints, for windows whose intermediates do not fit in memory.
            None stores them if they take no more than `memory`, and the cost does not set checkpoints of its own.
        memory: bytes that the stored linearization may take (static).
        newton: whether the full Hessian can take over within one program (static), which takes longer to compile; for
            long windows inside of traced code, where `minimize` cannot do it.

    Raises:
        ConfigurationError: if the tolerance is not positive, there is no iteration, or `inner` or `growth` is something
            else.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> da.minimize(cost, da.GaussNewton()).state.tolist()
        [2.0]

    Source: Courtier et al. (1994); Nocedal and Wright (2006), algorithm 4.1.
    """

    tolerance: Any = 1e-3
    inner: InnerMethod = PrimalCG()
    growth: QuasiStatic | None = QuasiStatic()
    max_iterations: int = static(default=200)
    store_linearization: bool | None = static(default=None)
    memory: int = static(default=MEMORY)
    newton: bool = static(default=False)

    def __post_init__(self) -> None:
        require_positive("GaussNewton.tolerance", self.tolerance)
        count_of("GaussNewton.max_iterations", self.max_iterations, least=1)
        if not isinstance(self.inner, InnerMethod):
            raise ConfigurationError(
                "GaussNewton: `inner` takes PrimalCG(), DualCG(), DirectSVD() or Incremental(...), found "
                f"{self.inner!r}"
            )
        if not isinstance(self.growth, QuasiStatic | None):
            raise ConfigurationError(f"GaussNewton: `growth` takes QuasiStatic() or None, found {self.growth!r}")

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
        return _Stage(self, hands_over=True), _Stage(self.replace(newton=True), origin=start)


class _Stage(Minimizer, Pytree):
    """One program of the search: it ends where the full Hessian should take over, or goes on from there with it.

    Args:
        method: the `GaussNewton` whose settings hold.
        origin: where the search before has started, and a second attempt begins.
        hands_over: whether it ends where it is slow (static).
    """

    method: GaussNewton
    origin: Any = None
    hands_over: bool = static(default=False)

    @property
    def tolerance(self) -> Any:  # type: ignore[override]
        return self.method.tolerance

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the control vector `start`; see `GaussNewton.search`."""
        return OuterLoop(self.method, cost, start, unrolled, self.hands_over, self.origin).run()
