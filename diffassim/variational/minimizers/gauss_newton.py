"""Gauss-Newton with a trust region, and quasi-static window growth where the plain method stalls."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import unused
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.loops import bounded_while
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.variational.costs.terms import cost_terms, observed_counts
from diffassim.variational.minimizers.inner import InnerProblem
from diffassim.variational.minimizers.linearization import MEMORY, stored
from diffassim.variational.minimizers.preconditioner import LimitedMemory
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["GaussNewton"]

ACCEPT = 1e-4  # least ratio of actual to predicted reduction for a step to be taken
POOR, GOOD = 0.25, 0.75  # ratios below and above which the trust radius shrinks and grows
ROUNDING = 1e3  # in units of eps |J|: predicted reductions below this cannot be verified by the cost
SMALLEST_GROWTH = 16  # the window grows by no less than its length over this number


class GaussNewton(Pytree):
    r"""Incremental (Gauss-Newton) minimization of a sum of squares, globalized by a trust region.

    Each outer iteration linearizes the residuals once, \(r(v + p) \approx r + A p\), and minimizes the quadratic model
    by truncated conjugate gradients within the trust radius; a step whose cost is not finite only shrinks the radius.

    Over long windows of chaotic models J has many minima (Pires et al., 1996). When a step fails, or a minimum is
    found, while 2 J still lies more than `consistency` standard deviations above its expectation (the number of
    observed values), the window is halved and then grown again from the solution of the shorter one: quasi-static
    variational assimilation, started only where it is needed, with a growth that adapts itself. The longest stages
    are the dearest, so this often costs less than a plain search that succeeds.

    Args:
        tolerance: stop when |dJ/dv| is below this. In whitened control space it bounds the distance to the minimizer
            in units of the background standard deviation, because the Hessian is at least the identity.
        inner_tolerance: relative residual of the inner conjugate gradients.
        consistency: standard deviations of the chi-square test; infinity switches window growth off.
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

    Raises:
        ConfigurationError: if a tolerance is not positive, or `pairs` is negative, larger than the control vector, or
            given with `dual`; or if `simplified` is given with `dual`.

    Example:
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
        return _Search(self, cost, unrolled).run(start)


class _State(NamedTuple):
    v: Any
    horizon: Any
    radius: Any
    stable_v: Any  # solution over the longest window solved so far, and its length
    stable_horizon: Any
    best_v: Any  # lowest cost seen over the full window
    best_cost: Any
    best_gradient_norm: Any
    cost_history: Any
    horizon_history: Any
    terms: Any
    iterations: Any
    preconditioner: Any
    unverified: Any  # steps taken on the model's word alone
    level: Any  # of the inner problem, and the gradient norm before its last step
    last_gradient_norm: Any
    work: Any
    simplified_work: Any
    result: Any
    done: Any


class _Search:
    """One search: the settings, the cost, and the steps of the loop as methods (nothing here outlives the trace)."""

    def __init__(self, method: GaussNewton, cost: Any, unrolled: bool) -> None:
        if method.dual and not getattr(cost, "whitened", True):
            raise ConfigurationError(f"GaussNewton: {type(cost).__name__} has no dual; leave dual=True out")
        self.method, self.unrolled = method, unrolled
        self.grows = hasattr(cost, "horizon") and bool(cost.steps)
        self.steps = int(cost.steps) if self.grows else 0
        horizon = cost.horizon if self.grows else None
        self.window = jnp.asarray(self.steps if horizon is None else horizon, jnp.int32)
        self.cost = cost

    def limited(self, horizon: Any) -> Any:
        return self.cost.replace(horizon=horizon) if self.grows else self.cost

    def threshold(self, horizon: Any, dtype: Any) -> Any:
        """Largest plausible cost at a minimum: half the number of observed values plus some standard deviations."""
        if not hasattr(self.cost, "observations"):
            return jnp.asarray(jnp.inf, dtype)
        count = sum(observed_counts(self.limited(horizon)), jnp.asarray(0, jnp.int32)).astype(dtype)
        return 0.5 * (count + jnp.asarray(self.method.consistency, dtype) * jnp.sqrt(2 * jnp.maximum(count, 1)))

    def with_linearization(self, start: Any) -> Any:
        """Return the cost with the checkpoints of its adjoint switched off, where the method wants it."""
        if self.method.store_linearization is None:
            return stored(self.cost, start, self.method.memory) or self.cost
        if self.method.store_linearization and hasattr(self.cost, "segment"):
            return self.cost.replace(segment=self.steps, memory=None)
        return self.cost

    def run(self, start: Any) -> Minimum:
        self.inner = InnerProblem(self.method, self.cost, start, self.unrolled)
        self.cost = self.with_linearization(start)
        dtype = jnp.result_type(*jax.tree.leaves(start)) if jax.tree.leaves(start) else jnp.result_type(float)
        limit = self.method.max_iterations
        infinity, zero = jnp.asarray(jnp.inf, dtype), jnp.asarray(0, jnp.int32)
        memory = LimitedMemory.empty(start, self.method.pairs) if self.method.pairs else None
        names = jax.eval_shape(lambda v: cost_terms(self.cost.residuals(v), dtype), start)
        state = _State(
            v=start, horizon=self.window, radius=infinity,
            stable_v=start, stable_horizon=zero,
            best_v=start, best_cost=infinity, best_gradient_norm=infinity,
            cost_history=jnp.full(limit, unused(), dtype), horizon_history=jnp.full(limit, -1, jnp.int32),
            terms=jax.tree.map(lambda _: jnp.full(limit, unused(), dtype), names),
            preconditioner=memory, iterations=zero, unverified=zero, level=zero, last_gradient_norm=infinity,
            work=jnp.zeros((), dtype), simplified_work=jnp.zeros(len(self.inner.levels), dtype),
            result=jnp.asarray(Result.MAX_ITERATIONS, jnp.int32), done=jnp.asarray(False),
        )  # fmt: skip
        end = bounded_while(lambda s: ~s.done, self.iterate, state, limit, self.unrolled)
        # Where J was finite over no full window, the solution of the longest one that was solved is the best there is.
        return Minimum(
            tree.select(jnp.isfinite(end.best_cost), end.best_v, end.stable_v),
            end.cost_history,
            end.horizon_history,
            end.best_gradient_norm,
            end.iterations,
            end.work,
            end.result,
            end.terms,
            end.simplified_work if self.inner.levels else None,
        )

    def iterate(self, s: _State) -> _State:
        method, dtype = self.method, s.radius.dtype
        cost = self.limited(s.horizon)
        residuals, tangent = jax.linearize(cost.residuals, s.v)
        adjoint = jax.linear_transpose(tangent, s.v)
        value = 0.5 * tree.squared_norm(residuals)
        (gradient,) = adjoint(residuals)
        gradient_norm = tree.norm(gradient)
        sound = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
        full = s.horizon >= self.window
        small = (gradient_norm <= jnp.asarray(method.tolerance, dtype)) | (s.unverified >= 5)
        # At a minimum, and where nothing is finite, no step is needed: without a gradient the inner loop ends at once.
        level, in_full, at_level = self.inner.level(s.level, gradient_norm, s.last_gradient_norm)
        step = self.inner.solve(
            level, s.horizon if self.grows else None, s.v, (tangent, adjoint), residuals, gradient,
            sound & ~(full & small), s.radius, s.preconditioner,
        )  # fmt: skip
        trial_v = tree.add(s.v, step.step)
        trial = 0.5 * tree.squared_norm(cost.residuals(trial_v))
        predicted = step.predicted
        unverifiable = predicted <= ROUNDING * jnp.finfo(dtype).eps * jnp.abs(value)
        ratio = jnp.where(jnp.isfinite(trial), (value - trial) / jnp.where(predicted > 0, predicted, 1), -1)
        accepted = sound & jnp.isfinite(trial) & ((ratio > ACCEPT) | unverifiable)

        threshold = self.threshold(s.horizon, dtype)
        stuck = (ratio < POOR) & ~unverifiable & in_full
        growth_left = s.horizon - s.stable_horizon > jnp.maximum(self.window // SMALLEST_GROWTH, 1)
        halve = self.grows & growth_left & (~sound | ((value > threshold) & (stuck | small)))
        finished = ~halve & full & sound & small
        failed = ~halve & ~sound
        stalled = ~halve & sound & (s.radius <= 10 * jnp.finfo(dtype).eps * (1 + tree.norm(s.v)))
        grow = ~halve & ~full & sound & (small | ((trial <= threshold) & (ratio > 0.5)) | (predicted < 0.5))

        shorter = s.stable_horizon + (s.horizon - s.stable_horizon) // 2
        longer = s.horizon + 2 * (s.horizon - s.stable_horizon)
        longer = jnp.where(self.window - longer <= self.window // 10, self.window, longer)
        v = tree.select(halve, s.stable_v, tree.select(accepted & ~finished, trial_v, s.v))
        radius = self.next_radius(s.radius, ratio, step, jnp.isfinite(trial), unverifiable)
        handed_on = ~accepted & ~in_full  # the step was poor for the level's sake: its length is left
        radius = jnp.where(handed_on & jnp.isfinite(trial), tree.norm(step.step), radius)
        better = full & sound & (value < s.best_cost) | finished & (value <= s.best_cost * (1 + 1e-12))
        code = jnp.where(failed, Result.NON_FINITE, jnp.where(stalled, Result.STALLED, Result.MAX_ITERATIONS))
        converged = jnp.where(value > threshold, Result.INCONSISTENT, Result.CONVERGED)
        products = step.products.astype(dtype)
        fraction = (s.horizon + 1).astype(dtype) / (self.window + 1).astype(dtype)
        return _State(
            v=v,
            horizon=jnp.where(halve, shorter, jnp.where(grow, longer, s.horizon)),
            radius=jnp.where(halve | grow, jnp.asarray(jnp.inf, dtype), radius),
            stable_v=tree.select(grow, v, s.stable_v),
            stable_horizon=jnp.where(grow, s.horizon, s.stable_horizon),
            best_v=tree.select(better, s.v, s.best_v),
            best_cost=jnp.where(better, value, s.best_cost),
            best_gradient_norm=jnp.where(better, gradient_norm, s.best_gradient_norm),
            cost_history=s.cost_history.at[s.iterations].set(value),
            horizon_history=s.horizon_history.at[s.iterations].set(s.horizon),
            terms=jax.tree.map(
                lambda history, term: history.at[s.iterations].set(term), s.terms, cost_terms(residuals, dtype)
            ),
            # How fast a search converges is no part of what is differentiated.
            preconditioner=jax.lax.stop_gradient(step.learned),
            iterations=s.iterations + 1,
            unverified=jnp.where(halve | grow, 0, s.unverified + (unverifiable & in_full).astype(jnp.int32)),
            level=jnp.where(halve | grow, 0, level + handed_on.astype(jnp.int32)),
            last_gradient_norm=jnp.where(accepted & ~halve & ~grow, gradient_norm, jnp.asarray(jnp.inf, dtype)),
            work=s.work + (1.3 + jnp.where(in_full, products, 0)) * fraction,
            simplified_work=s.simplified_work + jnp.where(at_level, (1 + products) * fraction, 0),
            result=jnp.where(finished, converged, code).astype(jnp.int32),
            done=finished | failed | stalled,
        )

    @staticmethod
    def next_radius(radius: Any, ratio: Any, step: Any, finite: Any, unverifiable: Any) -> Any:
        length = tree.norm(step.step)
        shrunk = jnp.where(finite, 0.25, 0.1) * length
        grown = jnp.where((ratio > GOOD) & step.on_boundary, 2 * radius, radius)
        return jnp.where(unverifiable, radius, jnp.where(ratio < POOR, shrunk, grown))
