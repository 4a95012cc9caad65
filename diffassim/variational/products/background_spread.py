"""Background uncertainty in the space of the observations, from B or from an ensemble."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.linalg import safe_sqrt
from diffassim.variational.costs.base import as_cost

__all__ = ["background_spread"]


def background_spread(cost: Any, *, members: Any = None, probes: int = 0, key: Array | None = None) -> tuple[Any, ...]:
    r"""Return the standard deviation of each observation equivalent, \(\sqrt{(H B H^\top)_{ii}}\), by stream.

    G is the derivative of H(x(v)) by the control vector at the background, so that the model and all that is controlled
    (parameters, model error) have their part: \(H B H^\top = G G^\top\). It is summed exactly over the components of
    the control vector, one tangent run each, or estimated: \((G G^\top)_{ii} = E[(G z)_i^2]\) for z of independent
    signs, with a relative error of about \(\sqrt{2 / \text{probes}}\) of the variance. With `members` it is the spread
    of an ensemble's equivalents, and B does not matter.

    Args:
        cost: a cost over a window (`StrongConstraint4DVar`, `ThreeDVar`, ...), at whose background it holds.
        members: ensemble at the window start, the state's pytree with a leading axis; None: from B.
        probes: number of random probes (static); 0: exact.
        key: of the probes.

    Returns:
        One pytree for each stream, like its values, for `BackgroundCheck`.

    Raises:
        ConfigurationError: if `probes` is negative, or given without a key, or members to a cost without a model.
        ShapeError: if there are fewer than two members.

    Example:
        >>> import diffassim as da
        >>> B, R = da.covariances.Diagonal(std=2.0), da.covariances.Diagonal(std=1.0)
        >>> y = da.Observations(jnp.zeros((1, 1)), [1], operator=lambda x: x[:1] + x[1:], error=R)
        >>> growth = da.models.FunctionModel(lambda x, t: 3 * x)
        >>> cost = da.StrongConstraint4DVar(growth, jnp.zeros(2), B, y)
        >>> (background_spread(cost)[0] ** 2).round(6).tolist()  # 3^2 (2^2 + 2^2)
        [[72.0]]

    Source: randomization: Fisher and Courtier (1995); Andersson et al. (2000), section 2.
    """
    if probes < 0 or (probes and key is None):
        raise ConfigurationError(f"background_spread: probes={probes} must not be negative, and random ones need a key")
    cost = as_cost(cost)
    if members is not None:
        if cost.window() is None:
            raise ConfigurationError(
                f"background_spread: {type(cost).__name__} has an ensemble of its own and no model; leave members out"
            )
        if jax.tree.leaves(members)[0].shape[0] < 2:
            raise ShapeError("background_spread: an ensemble needs at least two members")
        return _of_members(cost, members)
    return _of_control(cost, key, probes)


@jax.jit
def _of_members(cost: Any, members: Any) -> tuple[Any, ...]:
    def equivalents(x: Any) -> Any:
        # An increment that v = 0 does not know of: the member takes the place of the background.
        return cost.with_window(background=x).predicted(cost.control())

    each = jax.vmap(equivalents)(members)
    return jax.tree.map(lambda h: jnp.std(h, axis=0, ddof=1), each)


@partial(jax.jit, static_argnums=2)
def _of_control(cost: Any, key: Any, probes: int) -> tuple[Any, ...]:
    origin = cost.control()
    predicted, tangent = jax.linearize(cost.predicted, origin)
    leaves, structure = jax.tree.flatten(origin)

    def add(total: Any, w: Any) -> Any:
        return jax.tree.map(lambda s, g: s + g**2, total, tangent(w))

    total = tree.zeros_like(predicted)
    if probes:

        def probe(total: Any, step: Any) -> tuple[Any, None]:
            keys = jax.random.split(jax.random.fold_in(key, step), max(len(leaves), 1))
            signs = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=False)]
            return add(total, jax.tree.unflatten(structure, signs)), None

        total, _ = jax.lax.scan(probe, total, jnp.arange(probes, dtype=jnp.int32))
        return jax.tree.map(lambda s: safe_sqrt(s / probes), total)

    for i, leaf in enumerate(leaves):
        if leaf.size:
            total = _summed(add, total, leaves, structure, i)
    return jax.tree.map(safe_sqrt, total)


def _summed(add: Any, total: Any, leaves: list[Any], structure: Any, i: int) -> Any:
    """Return the sum over all components of one leaf of the control vector."""

    def component(total: Any, j: Int[Array, ""]) -> tuple[Any, None]:
        unit = jnp.zeros(leaves[i].size, leaves[i].dtype).at[j].set(1).reshape(leaves[i].shape)
        parts = [unit if i == k else jnp.zeros_like(other) for k, other in enumerate(leaves)]
        return add(total, jax.tree.unflatten(structure, parts)), None

    return jax.lax.scan(component, total, jnp.arange(leaves[i].size, dtype=jnp.int32))[0]
