"""A learned inverse y -> x of model and observation operator, as the place where a search starts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.partition import compilable
from diffassim.core.pytree import Pytree, static
from diffassim.learned.guard import search_from
from diffassim.variational.costs.base import as_cost
from diffassim.variational.minimizers.base import AroundMinimizer, as_minimizer
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.multi_start import key_of_window
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["LearnedStart", "control_of"]


def control_of(cost: Any, x: Any) -> Any:
    r"""Return the control vector of least norm whose state is x: \(v = B^{\top/2} B^{-1} (x - x_b)\).

    Args:
        cost: variational cost, with a B that has `solve`.
        x: state at the window start.

    Returns:
        Control vector; parts other than the state are zero.

    Raises:
        ShapeError: if x is shaped unlike the background.
        ConfigurationError: if the state is not in the control vector.
        NotAvailableError: if B has no inverse.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=2.0), obs)
        >>> control_of(cost, jnp.array([5.0]))["state"].tolist()
        [2.0]
    """
    cost = as_cost(cost)
    B = cost.covariances().get("state")
    if B is None:
        raise ConfigurationError("control_of: the cost's control vector holds no state with a covariance B")
    origin = cost.control()
    background = cost.state(origin)
    if not tree.same_shapes(x, background):
        raise ShapeError(
            f"control_of: x has the shapes {tree.describe_shapes(x)}, but the background "
            f"{tree.describe_shapes(background)}"
        )
    return origin | {"state": B.sqrt_transpose(B.solve(tree.subtract(x, background)))}


class LearnedStart(AroundMinimizer, Pytree):
    r"""A minimizer that starts where a network believes the state to be, if the cost agrees.

    .. math:: v_0 = \arg\min_{v \in \{v_{\text{given}},\, v(N(y))\}} J(v)

    The network is trained apart, to return the state at the window start from the observations; over long windows it
    saves the search from the minima far from the truth. The cost disposes: a proposal that is not better than the given
    start, or not finite, is not taken. The comparison costs two evaluations of J. Gradients through the solution are
    those of the minimizer; the start has none.

    With the covariance of the network's own error, for example of its residuals on samples that it was not trained on,
    further searches start from draws within it, in one batch, and the lowest cost wins.

    Args:
        inverse: callable pytree, tuple of `Observations` -> state at the window start.
        minimizer: what searches from there.
        guarded: whether it searches from the given start as well, in one batch, and the lower cost wins: never above
            that of the classical search after the same number of model runs one after the other (static).
        error: covariance of the network's error, or None for a single search.
        draws: number of searches beside the one from the network's state, with `error` (static).
        key: random key of the draws, with `error`.

    Raises:
        ConfigurationError: if there is an `error`, but no key or no draw.

    Example:
        >>> import diffassim as da
        >>> from diffassim.learned import Network
        >>> obs = da.Observations(jnp.array([[4.0]]), [0], lambda x: x**2, da.covariances.Diagonal(std=0.1))
        >>> cost = da.ThreeDVar(jnp.array([0.1]), da.covariances.Diagonal(std=1.0), obs)
        >>> root = Network(lambda w, streams: w * jnp.sqrt(streams[0].values[0]), 1.0)
        >>> da.minimize(cost, LearnedStart(root)).state.round(2).tolist()
        [2.0]

    Source: Frerix et al. (2021), section 3.
    """

    inverse: Any
    minimizer: Any = GaussNewton()
    guarded: bool = static(default=False)
    error: Any = None
    draws: int = static(default=7)
    key: Any = None

    def __post_init__(self) -> None:
        inverse = compilable("LearnedStart: inverse", self.inverse)
        self._set(minimizer=as_minimizer(self.minimizer), inverse=inverse)
        if self.error is not None and (self.key is None or self.draws < 1):
            raise ConfigurationError(
                f"LearnedStart: with an error give key=jax.random.key(...) and draws >= 1, found draws={self.draws}"
            )

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the better of two starts; see `GaussNewton.search`."""
        cost = as_cost(cost)
        x = self.inverse(cost.streams())
        proposed = start | {"state": control_of(cost, x)["state"]}
        given, other = cost(start), cost(proposed)
        better = jnp.isfinite(other) & ((other < given) | ~jnp.isfinite(given))
        chosen = tree.select(better, proposed, start)
        others = [jax.tree.map(lambda v: v[None], start)] if self.guarded else []
        if self.error is not None:
            keys = jax.random.split(key_of_window(self.key, cost), self.draws)
            near = jax.vmap(lambda key: control_of(cost, tree.add(x, self.error.sample(key, x)))["state"])(keys)
            repeated = jax.tree.map(lambda v: jnp.broadcast_to(v, (self.draws, *v.shape)), start)
            others.append(repeated | {"state": near})
        found = search_from(self.minimizer, cost, chosen, others, unrolled)
        return found.replace(work=found.work + 2 / 3)  # two runs; a gradient is worth about three
