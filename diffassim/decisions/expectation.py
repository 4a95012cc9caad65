"""What a policy brings in the mean, without chance: its values on a grid."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.checks import count_of
from diffassim.decisions.grid import Axes, checked_axes, grid_points, grid_weights

__all__ = ["expected_returns"]


def expected_returns(
    environment: Any,
    policy: Any,
    axes: Axes,
    observations: Any,
    *,
    steps: int | None = None,
    count: int = 81,
    discount: Any = 1.0,
    key: jax.Array | None = None,
) -> Any:
    r"""Return the expected returns of a policy, by backward recursion on a grid of the environment's states.

    .. math:: v_k(s) = \sum_w p_w \bigl(r(s, \pi(s), w) + \gamma v_{k+1}(f(s, \pi(s), w))\bigr)

    Between nodes values are interpolated; beyond the grid those of its edge count. Two policies can be compared without
    the noise of episodes.

    Args:
        environment: its observation tells its state (`state_at`).
        policy: (observation, key) -> action, a pytree, which draws nothing.
        axes: for each component of the observation, increasing nodes.
        observations: where the returns are wanted, shape (n, components).
        steps: of an episode (static); default: the environment's horizon.
        count: number of disturbances, see `Environment.disturbances`.
        discount: gamma.
        key: random key, for an environment that draws its disturbances.

    Returns:
        Shape (n,), or (n, objectives).

    Example:
        >>> from diffassim.decisions import GridPolicy, WaterReservoir
        >>> everything = GridPolicy((jnp.array([0.0, 200.0]),), jnp.array([[0.0], [200.0]]))
        >>> axes = (jnp.arange(0.0, 182),)
        >>> found = expected_returns(WaterReservoir(), everything, axes, jnp.array([[40.0]])) / 100
        >>> np.testing.assert_allclose(found, [[-0.833, -10.83]], atol=0.01)
    """
    axes = checked_axes("expected_returns", axes)
    length = count_of("expected_returns: steps", environment.horizon if steps is None else steps, least=1)
    nodes, probabilities = environment.disturbances(count, key)
    return _expected(environment, policy, axes, jnp.asarray(observations), nodes, probabilities, length, discount)


@partial(jax.jit, static_argnums=6)
def _expected(
    environment: Any, policy: Any, axes: Any, wanted: Any, nodes: Any, probabilities: Any, steps: int, discount: Any
) -> Any:
    points = grid_points(axes)

    def step(point: Any) -> Any:
        state, action = environment.state_at(point), policy(point, None)
        found = jax.vmap(lambda w: environment.respond(state, action, w))(nodes)
        index, weights = jax.vmap(lambda x: grid_weights(axes, x))(found.observation)
        p = probabilities.astype(weights.dtype)
        mass = jnp.where(found.terminated, 0, p)[:, None] * weights
        return jnp.tensordot(p.astype(found.reward.dtype), found.reward, axes=1), index, mass

    rewards, index, mass = jax.vmap(step)(points)

    def back(values: Any, _: Any) -> Any:
        ahead = jnp.einsum("swn,swn...->s...", mass.astype(values.dtype), values[index])
        return rewards + jnp.asarray(discount, values.dtype) * ahead, None

    values, _ = lax.scan(back, jnp.zeros_like(rewards), length=steps)
    place, weights = jax.vmap(lambda x: grid_weights(axes, x))(wanted)
    return jnp.einsum("nw,nw...->n...", weights.astype(values.dtype), values[place])
