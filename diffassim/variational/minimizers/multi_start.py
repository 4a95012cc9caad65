"""Searches from several places at once, of which the lowest minimum is kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static
from diffassim.variational.costs.base import as_cost
from diffassim.variational.minimizers.base import AroundMinimizer, as_minimizer
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["MultiStart", "MultiStartMinimum", "key_of_window"]

REACH = 0.1  # distance in control space, in background standard deviations, within which two minima are one


class MultiStartMinimum(Minimum):
    """The account of the winning search, and what became of the others.

    `work` is that of all searches together; what else `Minimum` holds is the winner's.

    Args:
        costs: J where each search ended, shape (searches,); infinite where it is not finite.
        winner: number of the search with the lowest cost; 0 is the one from the background.
        agreeing: number of searches that ended at the winner's minimum, the winner included.
    """

    costs: Float[Array, " searches"] | None = None
    winner: Int[Array, ""] | None = None
    agreeing: Int[Array, ""] | None = None


class MultiStart(AroundMinimizer, Pytree):
    r"""Search from the background and from draws of the background errors, in one batch; the lowest cost wins.

    Over long windows, and with few observations, J has minima far from the truth. In the whitened control space the
    background errors are \(v \sim N(0, I)\): each search k > 0 starts from such a draw, so that a basin is tried as
    often as the prior believes in it, and

    .. math:: v_a = v_{\hat k},\quad \hat k = \arg\min_k J(v_k),\quad v_k = \mathrm{search}(J, v_k^{(0)})

    Implicit gradients are those of the winner; which search wins is piecewise constant and has no derivative. In a
    cycle the key is folded with the number of the window's first step. Searches that a first stage hands over because
    they are slow are close to their minima, so that the winner alone goes on. Memory and time are those of one search
    times their number.

    Args:
        minimizer: what searches from each place: `GaussNewton`, `LBFGS`, ...
        key: random key of the draws; not needed with `starts`.
        draws: number of draws (static), beside the search from the background.
        starts: control vectors with a leading axis, in place of draws.

    Raises:
        ConfigurationError: if there is neither a key nor `starts`, or `draws` is not positive.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[4.0]]), [0], lambda x: x**2, da.covariances.Diagonal(std=0.1))
        >>> cost = da.ThreeDVar(jnp.array([0.1]), da.covariances.Diagonal(std=1.0), obs)
        >>> found = da.minimize(cost, MultiStart(key=jax.random.key(0)))
        >>> found.state.round(2).tolist(), found.search.costs.shape  # -2 would cost more
        ([2.0], (8,))

    Source: Rinnooy Kan and Timmer (1987), section 2 (multistart); that the minima of long windows are many: Pires,
    Vautard and Talagrand (1996).
    """

    minimizer: Any = GaussNewton()
    key: Any = None
    draws: int = static(default=7)
    starts: Any = None

    def __post_init__(self) -> None:
        if self.starts is None and self.key is None:
            raise ConfigurationError("MultiStart: give key=jax.random.key(...) for the draws, or `starts`")
        if self.draws < 1:
            raise ConfigurationError(f"MultiStart: draws={self.draws} must be at least 1")
        self._set(minimizer=as_minimizer(self.minimizer))

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> MultiStartMinimum:
        """Minimize `cost` from the control vector `start` and the other places; see `GaussNewton.search`.

        Raises:
            ShapeError: if `starts` does not hold control vectors of this cost.
            ConfigurationError: if draws are asked for a cost whose control vector is not whitened.
        """
        cost = as_cost(cost)
        others = self._drawn(cost, start) if self.starts is None else self._given(start)
        starts = jax.tree.map(lambda v, more: jnp.concatenate([v[None], more.astype(v.dtype)]), start, others)
        found = jax.vmap(lambda v: self.minimizer.search(cost, v, unrolled=unrolled))(starts)
        costs = jax.vmap(lambda v: cost(v))(found.control)
        costs = jnp.where(jnp.isfinite(costs), costs, jnp.inf)
        winner = jnp.argmin(costs)
        best = jax.tree.map(lambda leaf: leaf[winner], found)
        away = jax.vmap(lambda v: tree.norm(tree.subtract(v, best.control)))(found.control)
        # Where the Hessian is at least the identity, a search ends no farther from its minimum than the tolerance.
        near = jnp.isfinite(costs) & (away <= REACH + 2 * jnp.asarray(self.tolerance, away.dtype))
        return MultiStartMinimum(
            **{**vars(best), "work": jnp.sum(found.work)},
            costs=costs,
            winner=winner.astype(jnp.int32),
            agreeing=jnp.sum(near).astype(jnp.int32),
        )

    def _drawn(self, cost: Any, start: Any) -> Any:
        if not cost.whitened:
            raise ConfigurationError(
                f"MultiStart: the control vector of {type(cost).__name__} is not whitened, so that draws of the "
                "background errors are not known; give `starts`"
            )
        key = key_of_window(self.key, cost)
        leaves, structure = jax.tree.flatten(start)
        keys = jax.random.split(key, max(len(leaves), 1))
        drawn = [
            jax.random.normal(k, (self.draws, *v.shape), v.dtype) for k, v in zip(keys, leaves, strict=bool(leaves))
        ]
        return jax.tree.unflatten(structure, drawn)

    def _given(self, start: Any) -> Any:
        starts = jax.tree.map(jnp.asarray, self.starts)
        ranks = {leaf.ndim for leaf in jax.tree.leaves(starts)}
        first = None if 0 in ranks else jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], starts))
        if first is None or not tree.same_shapes(start, first):
            raise ShapeError(
                f"MultiStart: `starts` has the shapes {tree.describe_shapes(starts)}; it needs a leading axis in front "
                f"of the control vector's {tree.describe_shapes(start)}"
            )
        return starts


def key_of_window(key: jax.Array, cost: Any) -> jax.Array:
    """Return another key for each window of a cycle, by the number of its first step."""
    window = cost.window()
    return key if window is None else jax.random.fold_in(key, window.start)
