"""A minimizer whose steps a network proposes; the cost disposes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.learned.guard import search_from
from diffassim.variational.minimizers.base import AroundMinimizer, as_minimizer
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["LearnedMinimizer"]


class LearnedMinimizer(AroundMinimizer, Pytree):
    r"""Steps proposed by a network from the gradient, each taken only if it lowers the cost; then a classical search.

    .. math:: (p_k, h_{k+1}) = N(v_k, \nabla J(v_k), h_k),\qquad
        v_{k+1} = v_k + p_k \text{ if } J(v_k + p_k) < J(v_k),\text{ else } v_k

    The cost never rises, whatever the network says, and the classical search ends at a minimum of J, where implicit
    gradients hold. An untrained network costs `steps` gradients and changes nothing else. Train the network with
    `learned_steps` on its own, whose cost after the last step is a loss.

    That the whole is never behind the classical search cannot be promised without making both: a network may lead into
    the basin of a higher minimum. With `guarded` both are made, in one batch, and the lower cost wins, so that it is
    never above that of the classical search after the same number of model runs one after the other; `work` is that of
    both.

    Args:
        network: callable pytree (v, gradient, memory) -> (step, memory), steps like control vectors.
        steps: number of proposals (static).
        memory: the network's memory at the start, a pytree, or None.
        minimizer: the classical search that ends it.
        guarded: whether the classical search is made from the given start as well (static).

    Raises:
        ConfigurationError: if `steps` is not positive.

    Example:
        >>> import diffassim as da
        >>> from diffassim.learned import Network
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> newton = Network(lambda w, v, g, h: (jax.tree.map(lambda leaf: -w * leaf, g), h), 0.5)
        >>> da.minimize(cost, LearnedMinimizer(newton, steps=1)).state.round(6).tolist()
        [2.0]

    Source: Fablet et al. (2021), section 3, for the learned steps.
    """

    network: Any
    steps: int = static(default=5)
    memory: Any = None
    minimizer: Any = GaussNewton()
    guarded: bool = static(default=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigurationError(f"LearnedMinimizer: steps={self.steps} must be at least 1")
        self._set(minimizer=as_minimizer(self.minimizer))

    def learned_steps(self, cost: Any, start: Any) -> tuple[Any, Any]:
        """Return the control vector after the learned steps, and J before each of them and after the last.

        Args:
            cost: variational cost.
            start: control vector.
        """
        derivative = jax.value_and_grad(lambda v: cost(v))

        def step(carry: Any, _: Any) -> tuple[Any, Any]:
            v, value, gradient, memory = carry
            change, memory = self.network(v, gradient, memory)
            trial = tree.add(v, change)
            there, slope = derivative(trial)
            better = jnp.isfinite(there) & (there < value) & tree.all_finite(slope)
            following = tree.select(better, (trial, there, slope), (v, value, gradient))
            return (*following, memory), value

        (v, value, _, _), values = lax.scan(step, (start, *derivative(start), self.memory), length=self.steps)
        return v, jnp.append(values, value)

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the control vector `start`; see `GaussNewton.search`."""
        v, _ = self.learned_steps(cost, start)
        others = [jax.tree.map(lambda leaf: leaf[None], start)] if self.guarded else []
        found = search_from(self.minimizer, cost, v, others, unrolled)
        return found.replace(work=found.work + self.steps + 1)
