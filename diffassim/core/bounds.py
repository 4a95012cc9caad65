"""Numbers that stay between bounds: increments in logit or log space, in the physical unit to first order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, DataError, concrete
from diffassim.core.paths import steps_to

__all__ = ["UNBOUNDED", "declared_bounds", "increment_within", "moved_within", "narrower", "require_within"]

UNBOUNDED = (-math.inf, math.inf)


def moved_within(p: Any, increment: Any, lower: float, upper: float) -> Any:
    r"""Return p moved by an increment in a space in which its bounds lie at infinity.

    .. math::
        p' = g(g^{-1}(p) + d / s),\qquad s = \frac{\partial g}{\partial u}\Big|_{g^{-1}(p)}

    g is logistic between two bounds, exponential above or below one, the identity without any: p' = p + d + O(d^2),
    and no d leads out of the bounds.

    Args:
        p: numbers inside of the bounds.
        increment: d, shaped like p, in the unit of p.
        lower: lower bound, minus infinity for none (static).
        upper: upper bound (static).

    Example:
        >>> float(moved_within(jnp.array(1.0), -5.0, 0.0, math.inf)) > 0
        True
    """
    if math.isinf(lower) and math.isinf(upper):
        return p + increment
    if math.isinf(upper):
        return lower + (p - lower) * jnp.exp(increment / (p - lower))
    if math.isinf(lower):
        return upper - (upper - p) * jnp.exp(-increment / (upper - p))
    logit, slope = _logit(p, lower, upper)
    return lower + (upper - lower) * jax.nn.sigmoid(logit + increment / slope)


def increment_within(p: Any, moved: Any, lower: float, upper: float) -> Any:
    """Return the increment by which `moved_within` leads from p to `moved`.

    Example:
        >>> p = jnp.array([0.2, 0.5])
        >>> increment_within(p, moved_within(p, 0.3, 0.0, 1.0), 0.0, 1.0).round(6).tolist()
        [0.3, 0.3]
    """
    if math.isinf(lower) and math.isinf(upper):
        return moved - p
    if math.isinf(upper):
        return (p - lower) * jnp.log((moved - lower) / (p - lower))
    if math.isinf(lower):
        return -(upper - p) * jnp.log((upper - moved) / (upper - p))
    (logit, slope), (there, _) = _logit(p, lower, upper), _logit(moved, lower, upper)
    return slope * (there - logit)


def _logit(p: Any, lower: float, upper: float) -> tuple[Any, Any]:
    fraction = (p - lower) / (upper - lower)
    return jnp.log(fraction) - jnp.log1p(-fraction), (upper - lower) * fraction * (1 - fraction)


def declared_bounds(tree: Any, path: str) -> tuple[float, float]:
    """Return the bounds that the objects on the way to a part declare for it in `parameters`; the narrowest hold.

    Args:
        tree: a model, or what holds some.
        path: of the parameter, see `core.paths`.

    Example:
        >>> import diffassim as da
        >>> declared_bounds({"inner": da.models.Lorenz63()}, "inner.rho")
        (0.0, inf)
    """
    bounds = UNBOUNDED
    for node, name, _ in steps_to(tree, path) or ():
        declared = getattr(node, "parameters", None)
        entry = declared.get(name) if isinstance(declared, Mapping) else None
        bounds = narrower(bounds, getattr(entry, "bounds", UNBOUNDED))
    return bounds


def narrower(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Return the bounds within both."""
    return max(first[0], second[0]), min(first[1], second[1])


def require_within(name: str, values: Any, bounds: tuple[float, float]) -> None:
    """Raise, naming `name`, unless values (where they are known) lie inside of bounds that leave room.

    Raises:
        ConfigurationError: if the lower bound is not below the upper one.
        DataError: if a value lies on a bound or beyond.
    """
    lower, upper = bounds
    if not lower < upper:
        raise ConfigurationError(f"{name}: the lower bound {lower} must lie below the upper one, {upper}")
    for leaf in jax.tree.leaves(values):
        known = concrete(leaf)
        if known is not None and not np.all((known > lower) & (known < upper)):
            wrong = known[~((known > lower) & (known < upper))].flat[0]
            raise DataError(
                f"{name}: the value {wrong} does not lie inside of the bounds {lower} to {upper}; it may be close to "
                "one, but neither on it nor beyond"
            )
