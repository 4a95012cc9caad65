"""The outer loop of Gauss-Newton: linearize, solve the inner problem, judge the step, and choose what comes next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import unused
from diffassim.core.loops import bounded_while
from diffassim.core.results import Result
from diffassim.variational.costs.base import as_cost, require_departures
from diffassim.variational.costs.terms import cost_terms, observed_counts
from diffassim.variational.minimizers.growth import Linearization, QuasiStatic, Stage, judge, next_time
from diffassim.variational.minimizers.inner import InnerProblem
from diffassim.variational.minimizers.linearization import stored
from diffassim.variational.minimizers.primal import Around
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["OuterLoop"]

ACCEPT = 1e-4  # least ratio of actual to predicted reduction for a step to be taken
POOR, GOOD = 0.25, 0.75  # ratios below and above which the trust radius shrinks and grows
ROUNDING = 1e3  # in units of eps |J|: predicted reductions below this cannot be verified by the cost
SAME = 1e-12  # relative difference of two costs that are one
SLOW = 0.5  # share of the last gradient norm above which Gauss-Newton is slow
PATIENCE = 5  # slow steps over the full window after which the full Hessian takes over
CURVED = 0.3  # share of what the quadratic model lacks that may be due to the size of the linearization error


class _State(NamedTuple):
    v: Any
    radius: Any
    stage: Stage
    best_v: Any  # lowest cost seen over the full window
    best_cost: Any
    best_gradient_norm: Any
    settled_cost: Any  # where the first attempt ended, and how
    settled_result: Any
    cost_history: Any
    horizon_history: Any
    terms: Any
    iterations: Any
    remembered: Any  # by the inner method
    unverified: Any  # steps taken on the model's word alone
    bent: Any  # whether the linearization has failed anywhere
    slow: Any  # slow steps over the full window
    level: Any  # of the inner problem, and the gradient norm before its last step
    last_gradient_norm: Any
    work: Any
    simplified_work: Any
    result: Any
    done: Any


class _Found(NamedTuple):
    """What one outer iteration finds at v and at v + p."""

    value: Any
    residuals: Any
    gradient_norm: Any
    sound: Any  # whether both are finite
    small: Any  # whether the gradient is small enough to stop
    level: Any  # of the inner problem that gave the step
    step: Any
    products: Any  # with Hessians, all together
    trial_v: Any
    trial: Any
    predicted: Any
    ratio: Any  # of the actual reduction to the predicted one
    unverifiable: Any
    curved: Any  # whether the quadratic model lacks second derivatives of the residuals rather than anything else
    linearization: Linearization


class _Decision(NamedTuple):
    """What follows from it; at most one of the first four holds."""

    shorten: Any
    grow: Any
    again: Any
    done: Any
    result: Any
    accepted: Any
    handed_on: Any  # to the next level: the step was poor for the level's sake
    slow: Any
    newton: Any  # whether the full Hessian takes over


class OuterLoop:
    """One search: the settings, the cost, and the steps of the loop as methods (nothing here outlives the trace)."""

    def __init__(
        self, method: Any, cost: Any, start: Any, unrolled: bool, hands_over: bool = False, origin: Any = None
    ) -> None:
        cost = as_cost(cost)
        self.start, self.unrolled, self.hands_over = start, unrolled, hands_over
        self.origin, self.continued = (start, False) if origin is None else (origin, True)
        window = cost.window()
        self.steps = 0 if window is None else window.steps
        self.has_window = self.steps > 0
        # Unrolled loops would store every state of the preconditioner.
        inner = method.inner.settled(start, 0 if unrolled else self.steps, method.memory)
        self.method = method = method.replace(inner=inner)
        self.growth: QuasiStatic | None = method.growth
        self.grows = self.has_window and self.growth is not None
        self.window = jnp.asarray(0 if window is None or not self.steps else window.last, jnp.int32)
        self.streams = cost.streams() if self.grows else ()
        self.inner = InnerProblem(method, cost, start, unrolled, method.newton and self.has_window)
        self.cost = self.with_linearization(cost)

    def limited(self, horizon: Any) -> Any:
        """Return the cost over the first steps of the window."""
        return self.cost.with_window(horizon=horizon) if self.grows else self.cost

    def threshold(self, horizon: Any, dtype: Any) -> Any:
        """Largest plausible cost at a minimum: half the number of observed values plus some standard deviations."""
        if self.growth is None or not self.cost.streams():
            return jnp.asarray(jnp.inf, dtype)
        count = sum(observed_counts(self.limited(horizon)), jnp.asarray(0, jnp.int32))
        return self.growth.threshold(count.astype(dtype))

    def with_linearization(self, cost: Any) -> Any:
        """Return the cost with the checkpoints of its adjoint switched off, where the method wants it."""
        if self.method.store_linearization is None:
            return stored(cost, self.start, self.method.memory) or cost
        if self.method.store_linearization and self.has_window:
            return cost.with_window(segment=self.steps, memory=None)
        return cost

    def run(self) -> Minimum:
        """Search, and return the account."""
        start, limit = self.start, self.method.max_iterations
        dtype = jnp.result_type(*jax.tree.leaves(start)) if jax.tree.leaves(start) else jnp.result_type(float)
        infinity, zero, no = jnp.asarray(jnp.inf, dtype), jnp.asarray(0, jnp.int32), jnp.asarray(False)
        unfinished = jnp.asarray(Result.MAX_ITERATIONS, jnp.int32)
        residuals = jax.eval_shape(self.cost.residuals, start)
        self.method.inner.check(self.cost, residuals)
        if self.grows:  # for which observations are told apart
            require_departures("GaussNewton over a window (growth=None does without)", residuals)
        names = jax.eval_shape(lambda r: cost_terms(r, dtype), residuals)
        state = _State(
            v=start, radius=infinity, stage=Stage.first(start, self.window),
            best_v=start, best_cost=infinity, best_gradient_norm=infinity,
            settled_cost=infinity, settled_result=unfinished,
            cost_history=jnp.full(limit, unused(), dtype), horizon_history=jnp.full(limit, -1, jnp.int32),
            terms=jax.tree.map(lambda _: jnp.full(limit, unused(), dtype), names),
            remembered=self.method.inner.remember(start),
            iterations=zero, unverified=zero, bent=no | self.continued, slow=zero,
            level=zero + (len(self.inner.levels) + 1 if self.continued and self.inner.newton else 0),
            last_gradient_norm=infinity,
            work=jnp.zeros((), dtype), simplified_work=jnp.zeros(len(self.inner.levels), dtype),
            result=unfinished, done=no,
        )  # fmt: skip
        end = bounded_while(lambda s: ~s.done, self.iterate, state, limit, self.unrolled)
        # Where the second attempt has found nothing lower, the account is that of the first.
        first_is_best = jnp.isfinite(end.settled_cost) & (end.settled_cost <= end.best_cost * (1 + SAME))
        return Minimum(
            # Where J was finite over no full window, the solution of the longest one that was solved is the best.
            tree.select(jnp.isfinite(end.best_cost), end.best_v, end.stage.stable_v),
            end.cost_history,
            end.horizon_history,
            end.best_gradient_norm,
            end.iterations,
            end.work,
            jnp.where(first_is_best, end.settled_result, end.result),
            end.terms,
            end.simplified_work if self.inner.levels else None,
            end.stage.attempt + 1,
        )

    def iterate(self, s: _State) -> _State:
        """Make one outer iteration."""
        f = self.evaluate(s)
        d = self.decide(s, f)
        dtype, infinity = s.radius.dtype, jnp.asarray(jnp.inf, s.radius.dtype)
        full = s.stage.horizon >= self.window
        of_full_model = f.level >= len(self.inner.levels)
        elsewhere = d.shorten | d.grow | d.again  # another part of the window comes next
        settles = d.again | (d.done & (s.stage.attempt == 0))
        better = full & f.sound & ((f.value < s.best_cost) | (d.done & (f.value <= s.best_cost * (1 + SAME))))
        moved = tree.select(d.accepted & ~d.done, f.trial_v, s.v)
        fraction = (s.stage.horizon + 1).astype(dtype) / (self.window + 1).astype(dtype)
        full_products, simplified_products = self.inner.work(f.level, f.products.astype(dtype))
        return _State(
            v=tree.select(d.again, self.origin, tree.select(d.shorten, s.stage.stable_v, moved)),
            radius=jnp.where(elsewhere, infinity, self.next_radius(s.radius, f, d)),
            stage=self.next_stage(s.stage, f, d, moved),
            best_v=tree.select(better, s.v, s.best_v),
            best_cost=jnp.where(better, f.value, s.best_cost),
            best_gradient_norm=jnp.where(better, f.gradient_norm, s.best_gradient_norm),
            settled_cost=jnp.where(settles & f.sound, f.value, s.settled_cost),
            settled_result=jnp.where(settles, d.result, s.settled_result),
            cost_history=s.cost_history.at[s.iterations].set(f.value),
            horizon_history=s.horizon_history.at[s.iterations].set(s.stage.horizon),
            terms=jax.tree.map(
                lambda history, term: history.at[s.iterations].set(term), s.terms, cost_terms(f.residuals, dtype)
            ),
            # How fast a search converges is no part of what is differentiated.
            remembered=jax.lax.stop_gradient(f.step.learned),
            iterations=s.iterations + 1,
            unverified=jnp.where(elsewhere, 0, s.unverified + (f.unverifiable & of_full_model).astype(jnp.int32)),
            bent=s.bent | d.shorten | ((f.ratio < POOR) & ~f.unverifiable & of_full_model),
            slow=jnp.where(elsewhere | d.newton, 0, s.slow + d.slow.astype(jnp.int32)),
            level=jnp.where(elsewhere, 0, f.level + (d.handed_on | d.newton).astype(jnp.int32)),
            last_gradient_norm=jnp.where(d.accepted & ~elsewhere, f.gradient_norm, infinity),
            work=s.work + (1.3 + full_products) * fraction,
            simplified_work=s.simplified_work + simplified_products * fraction,
            result=d.result,
            done=d.done,
        )

    def evaluate(self, s: _State) -> _Found:
        """Linearize at v, solve the inner problem, and compare what it predicts with what is at v + p."""
        dtype, cost = s.radius.dtype, self.limited(s.stage.horizon)
        residuals, tangent = jax.linearize(cost.residuals, s.v)
        adjoint = jax.linear_transpose(tangent, s.v)
        value = 0.5 * tree.squared_norm(residuals)
        (gradient,) = adjoint(residuals)
        gradient_norm = tree.norm(gradient)
        sound = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
        small = (gradient_norm <= jnp.asarray(self.method.tolerance, dtype)) | (s.unverified >= 5)
        # At a minimum, and where nothing is finite, no step is needed: without a gradient the inner loop ends at once.
        needed = sound & ~((s.stage.horizon >= self.window) & small)
        level = self.inner.level(s.level, gradient_norm, s.last_gradient_norm)
        horizon = s.stage.horizon if self.grows else None
        around = Around(s.v, residuals, gradient, tangent, adjoint)
        step = self.inner.solve(level, cost, horizon, around, needed, s.radius, s.remembered)
        trial_v = tree.add(s.v, step.step)
        found, change = cost.residuals(trial_v), tangent(step.step)
        miss = tree.subtract(found, tree.add(residuals, change))
        trial = 0.5 * tree.squared_norm(found)
        # With the full linearized model the reduction is that of the true quadratic, not what a recursion has added up.
        true = -(tree.dot(gradient, step.step) + 0.5 * tree.squared_norm(change))
        predicted = jnp.where(level == len(self.inner.levels), true, step.predicted)
        unverifiable = jnp.abs(predicted) <= ROUNDING * jnp.finfo(dtype).eps * jnp.abs(value)
        curved = 0.5 * tree.squared_norm(miss) < CURVED * jnp.abs(value - trial - true)
        products = step.products
        if self.inner.newton:
            poor = jnp.isfinite(trial) & (value - trial < GOOD * predicted) & ~unverifiable
            back, more = self.inner.corrected(around, found, poor)
            corrected_v = tree.add(trial_v, back)
            corrected = 0.5 * tree.squared_norm(cost.residuals(corrected_v))
            trial_v = tree.select(poor & (corrected < trial), corrected_v, trial_v)
            trial, products = jnp.where(poor & (corrected < trial), corrected, trial), products + more
        judged = judge(self.streams, change[1], miss[1], s.stage.attempt) if self.grows else Linearization.good()
        ratio = (value - trial) / jnp.where(predicted > 0, predicted, 1)
        return _Found(
            value, residuals, gradient_norm, sound, small, level, step, products, trial_v, trial, predicted,
            jnp.where(jnp.isfinite(trial) & (predicted > 0), ratio, -1), unverifiable, curved, judged,
        )  # fmt: skip

    def decide(self, s: _State, f: _Found) -> _Decision:
        """Decide between another part of the window, the end, and one more step."""
        count, horizon, eps = len(self.inner.levels), s.stage.horizon, jnp.finfo(s.radius.dtype).eps
        full, newton = horizon >= self.window, f.level > count
        accepted = f.sound & jnp.isfinite(f.trial) & ((f.ratio > ACCEPT) | f.unverifiable)
        least = next_time(self.streams, s.stage.stable_horizon, horizon) if self.grows else horizon
        shorten = (least < horizon) & ~newton & (~f.sound | (f.linearization.off_at <= horizon))
        tight = (f.ratio > 0.5) | (f.predicted < 0.5)
        grow = ~shorten & ~full & f.sound & (f.small | (accepted & f.linearization.close & tight))

        finished = ~shorten & full & f.sound & f.small
        failed = ~shorten & ~f.sound
        stalled = ~shorten & f.sound & (s.radius <= 10 * eps * (1 + tree.norm(s.v)))
        implausible = f.value > self.threshold(horizon, f.value.dtype)
        result = jnp.where(failed, Result.NON_FINITE, jnp.where(stalled, Result.STALLED, Result.MAX_ITERATIONS))
        result = jnp.where(finished, jnp.where(implausible, Result.INCONSISTENT, Result.CONVERGED), result)

        half = full & ~shorten & implausible & (s.iterations == self.method.max_iterations // 2)
        settled = finished | failed | stalled | half
        again = jnp.asarray(False)
        if self.growth is not None and self.has_window:
            shortest = next_time(self.streams, -1, self.window)
            doubtful = implausible | self.growth.outlying(f.residuals[1]) | failed
            again = settled & doubtful & s.bent & (s.stage.attempt == 0) & (shortest < self.window)
        slow = (f.gradient_norm > SLOW * s.last_gradient_norm) & (f.ratio < 0.9)
        slow = full & (f.level == count) & f.curved & (slow | (f.ratio < 0.5)) & ~f.unverifiable
        takes_over = slow & (s.slow + 1 >= PATIENCE) & self.has_window
        return _Decision(
            shorten=shorten,
            grow=grow,
            again=again,
            done=(finished | failed | stalled | (takes_over & ~shorten & self.hands_over)) & ~again,
            result=result.astype(jnp.int32),
            accepted=accepted,
            handed_on=~accepted & (f.level < count),
            slow=slow,
            newton=takes_over & ~shorten & self.inner.newton,
        )

    def next_stage(self, stage: Stage, f: _Found, d: _Decision, moved: Any) -> Stage:
        """Return the part of the window that comes next, from the control vector that was moved to."""
        if not self.grows:
            return stage
        shorter = stage.shorter(self.streams, f.linearization.off_at)
        longer = stage.longer(self.streams, moved, self.window)
        again = Stage.first(self.origin, next_time(self.streams, -1, self.window), attempt=1)
        kept = tree.select(d.shorten, shorter, tree.select(d.grow, longer, stage))
        return tree.select(d.again, again, kept)

    def next_radius(self, radius: Any, f: _Found, d: _Decision) -> Any:
        """Return the trust radius after the success of a step."""
        length, finite = tree.norm(f.step.step), jnp.isfinite(f.trial)
        shrunk = jnp.where(finite, 0.25, 0.1) * length
        grown = jnp.where((f.ratio > GOOD) & f.step.on_boundary, 2 * radius, radius)
        following = jnp.where(f.unverifiable, radius, jnp.where(f.ratio < POOR, shrunk, grown))
        kept = (d.handed_on & finite) | d.newton  # the step was poor for the level's sake: its length is left
        return jnp.where(kept, length, following)
