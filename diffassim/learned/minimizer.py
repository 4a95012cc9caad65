"""A minimizer whose steps a network proposes; the cost disposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import stop_gradient

from diffassim.core import tree
from diffassim.core.checks import count_of, require_alike
from diffassim.core.partition import compilable
from diffassim.core.pytree import Pytree, static
from diffassim.learned.analysis import parts_of, remembered
from diffassim.learned.guard import search_from
from diffassim.variational.minimizers.base import AroundMinimizer, as_minimizer
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["LearnedMinimizer"]


class _Place(NamedTuple):
    v: Any
    value: Any
    gradient: Any


class LearnedMinimizer(AroundMinimizer, Pytree):
    r"""Steps proposed by a network from the gradient, each taken only if it lowers the cost; then a classical search.

    .. math:: (p_k, h_{k+1}) = N(v_k, \nabla J(v_k), h_k),\qquad
        v_{k+1} = v_k + p_k \text{ if } J(v_k + p_k) < J(v_k),\text{ else } v_k

    The cost never rises, whatever the network says, and the classical search ends at a minimum of J, where implicit
    gradients hold. An untrained network costs `steps` gradients and changes nothing else. Train the network with
    `proposed_steps`, whose costs are a loss.

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
        ShapeError: (when it searches) if a step is shaped unlike the control vector, or a memory unlike the one before.

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
        count_of("LearnedMinimizer: steps", self.steps, 1)
        network = compilable("LearnedMinimizer: network", self.network)
        self._set(minimizer=as_minimizer(self.minimizer), network=network)

    def learned_steps(self, cost: Any, start: Any) -> tuple[Any, Any]:
        """Return the control vector after the learned steps, and J before each of them and after the last.

        Args:
            cost: variational cost.
            start: control vector.
        """
        derivative = jax.value_and_grad(lambda v: cost(v))

        def disposed(before: _Place, trial: Any) -> _Place:
            there, slope = derivative(trial)
            better = jnp.isfinite(there) & (there < before.value) & tree.all_finite(slope)
            return tree.select(better, _Place(trial, there, slope), before)

        return self._steps(_Place(start, *derivative(start)), disposed)

    def proposed_steps(self, cost: Any, start: Any) -> tuple[Any, Any]:
        r"""Return what `learned_steps` does where every proposal is taken: for a loss, as refused ones teach nothing.

        .. math:: \frac{\mathrm d}{\mathrm d \theta} J(v_k) = \nabla J(v_k)^\top \frac{\mathrm d v_k}{\mathrm d \theta}

        The gradients that the network sees count as given numbers. They are then all that the derivative of the costs
        needs, and none of the second order is computed: training costs the model runs of the steps themselves.

        Args:
            cost: variational cost.
            start: control vector, which may depend on what is trained.

        Example:
            >>> import diffassim as da
            >>> from diffassim.learned import Network
            >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
            >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
            >>> descent = Network(lambda w, v, g, h: (jax.tree.map(lambda leaf: -w * leaf, g), h), 0.25)
            >>> LearnedMinimizer(descent, steps=1).proposed_steps(cost, cost.control())[1].tolist()  # least: 1
            [2.0, 1.25]
        """
        derivative = jax.value_and_grad(lambda v: cost(v))

        def arrived(v: Any) -> _Place:
            value, slope = stop_gradient(derivative(stop_gradient(v)))
            moved = tree.subtract(v, stop_gradient(v))  # zero, with the derivative of v
            return _Place(v, value + tree.dot(slope, moved), slope)

        return self._steps(arrived(start), lambda before, trial: arrived(trial))

    def _steps(self, first: _Place, following: Callable[[_Place, Any], _Place]) -> tuple[Any, Any]:
        def step(carry: tuple[_Place, Any], _: None) -> tuple[tuple[_Place, Any], Any]:
            at, memory = carry
            answer = self.network(at.v, at.gradient, memory)
            change, after = parts_of("LearnedMinimizer: the network", answer, "step", "memory")
            require_alike("LearnedMinimizer: the network's step", change, at.v, "the control vector")
            after = remembered("LearnedMinimizer: the network's memory", after, memory)
            change = jax.tree.map(lambda step, v: step.astype(v.dtype), change, at.v)
            return (following(at, tree.add(at.v, change)), after), at.value

        memory = jax.tree.map(jnp.asarray, self.memory)
        (last, _), values = lax.scan(step, (first, memory), length=self.steps)
        return last.v, jnp.append(values, last.value)

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize `cost` from the control vector `start`; see `GaussNewton.search`."""
        v, _ = self.learned_steps(cost, start)
        others = [jax.tree.map(lambda leaf: leaf[None], start)] if self.guarded else []
        found = search_from(self.minimizer, cost, v, others, unrolled)
        return found.replace(work=found.work + self.steps + 1)
