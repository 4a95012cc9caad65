"""Gradient descent with any optax optimizer, L-BFGS among them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import unused
from diffassim.core.errors import require_positive
from diffassim.core.loops import bounded_while
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.variational.costs.base import as_cost
from diffassim.variational.costs.terms import cost_terms
from diffassim.variational.minimizers.base import Minimizer
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["LBFGS", "Descent"]


class Descent(Minimizer, Pytree):
    """Minimize with an optax optimizer.

    A step whose cost is not finite ends the search with its own code; the best control vector so far is returned.

    Args:
        optimizer: an `optax.GradientTransformation` (static: build it once and keep it).
        tolerance: stop when |dJ/dv| is below this.
        max_iterations: limit on iterations (static).

    Example:
        >>> import optax
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> round(float(da.minimize(cost, da.Descent(optax.adam(0.1))).state[0]), 2)
        2.0
    """

    optimizer: Any = static()
    tolerance: Any = 1e-3
    max_iterations: int = static(default=500)

    def __post_init__(self) -> None:
        require_positive("Descent.tolerance", self.tolerance)

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the control vector `start`; see `GaussNewton.search`."""
        import optax  # here and below: it would take half of this package's import time

        cost = as_cost(cost)
        dtype = jnp.result_type(*jax.tree.leaves(start))

        def cost_and_terms(v: Any) -> tuple[Any, Any]:
            residuals = cost.residuals(v)
            return 0.5 * tree.squared_norm(residuals), cost_terms(residuals, dtype)

        value_and_gradient = jax.value_and_grad(cost_and_terms, has_aux=True)
        optimizer = optax.with_extra_args_support(self.optimizer)
        window = cost.window()
        steps = 0 if window is None else window.steps

        def evaluate(s: _State) -> _State:
            (value, terms), gradient = value_and_gradient(s.v)
            norm = tree.norm(gradient)
            sound = jnp.isfinite(value) & jnp.isfinite(norm)
            better = sound & (value < s.best_cost)
            small = sound & (norm <= jnp.asarray(self.tolerance, dtype))
            with jax.numpy_dtype_promotion("standard"):  # optax mixes integer dtypes
                updates, memory = optimizer.update(gradient, s.memory, s.v, value=value, grad=gradient, value_fn=cost)
            code = jnp.where(small, Result.CONVERGED, jnp.where(sound, Result.MAX_ITERATIONS, Result.NON_FINITE))
            return _State(
                v=tree.select(sound & ~small, optax.apply_updates(s.v, updates), s.v),
                memory=memory,
                best_v=tree.select(better, s.v, s.best_v),
                best_cost=jnp.where(better, value, s.best_cost),
                best_norm=jnp.where(better, norm, s.best_norm),
                history=s.history.at[s.iterations].set(value),
                terms=jax.tree.map(lambda history, term: history.at[s.iterations].set(term), s.terms, terms),
                iterations=s.iterations + 1,
                evaluations=s.evaluations + 1 + jnp.asarray(_linesearch_steps(memory), jnp.int32),
                result=code.astype(jnp.int32),
                done=small | ~sound,
            )

        infinity = jnp.asarray(jnp.inf, dtype)
        names = jax.eval_shape(lambda v: cost_and_terms(v)[1], start)
        state = _State(
            start, optimizer.init(start), start, infinity, infinity, jnp.full(self.max_iterations, unused(), dtype),
            jax.tree.map(lambda _: jnp.full(self.max_iterations, unused(), dtype), names),
            jnp.asarray(0, jnp.int32), jnp.asarray(0, jnp.int32), jnp.asarray(Result.MAX_ITERATIONS, jnp.int32),
            jnp.asarray(False),
        )  # fmt: skip
        end = bounded_while(lambda s: ~s.done, evaluate, state, self.max_iterations, unrolled)
        horizons = jnp.where(jnp.arange(self.max_iterations, dtype=jnp.int32) < end.iterations, steps, -1).astype(
            jnp.int32
        )
        return Minimum(
            end.best_v, end.history, horizons, end.best_norm, end.iterations, end.evaluations.astype(dtype),
            end.result, end.terms,
        )  # fmt: skip


def LBFGS(tolerance: float = 1e-3, max_iterations: int = 500, memory_size: int = 10) -> Descent:
    """Return limited-memory BFGS with a zoom line search.

    Args:
        tolerance: stop when |dJ/dv| is below this.
        max_iterations: limit on iterations.
        memory_size: number of stored pairs.

    Returns:
        A minimizer for `minimize`.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> round(float(da.minimize(cost, da.LBFGS()).state[0]), 4)
        2.0

    Source: Liu and Nocedal (1989); line search: Nocedal and Wright (2006), algorithms 3.5 and 3.6.
    """
    return Descent(_lbfgs(memory_size), tolerance, max_iterations)


_LBFGS: dict[int, Any] = {}


def _lbfgs(memory_size: int) -> Any:
    # One object per memory size: the optimizer is static, and another object would compile anew.
    import optax

    return _LBFGS.setdefault(memory_size, optax.lbfgs(memory_size=memory_size))


def _linesearch_steps(memory: Any) -> Any:
    import optax

    counts = optax.tree_utils.tree_get_all_with_path(memory, "num_linesearch_steps")
    return counts[0][1] if counts else 0


class _State(NamedTuple):
    v: Any
    memory: Any
    best_v: Any
    best_cost: Any
    best_norm: Any
    history: Any
    terms: Any
    iterations: Any
    evaluations: Any
    result: Any
    done: Any
