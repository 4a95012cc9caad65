"""Parameters of the model and of operators as part of the control vector, within their physical bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.errors import ConfigurationError
from diffassim.covariances.base import require_covariance

__all__ = ["control_like", "operator_control", "with_operator_parameters", "with_parameters"]


def control_like(model: Any, priors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the zero control vector of the named parameters.

    Args:
        model: object whose attributes are the background values.
        priors: covariance of the background error by attribute name.

    Returns:
        Control vectors by attribute name.

    Raises:
        ConfigurationError: if the model has no such attribute.
        ShapeError: if a covariance does not fit its attribute.
    """
    control = {}
    for name, prior in priors.items():
        background = _background(model, name)
        require_covariance(f"parameters[{name!r}]", prior, background)
        control[name] = prior.control_like(background)
    return control


def with_parameters(model: Any, priors: Mapping[str, Any], control: Mapping[str, Any]) -> Any:
    r"""Return the model with its parameters moved from their background by a whitened control vector.

    An unbounded parameter is \(p = p_b + L v\). A parameter with bounds [a, b] declared in `model.parameters` is moved
    in logit (two bounds) or log (one bound) space, \(p = a + (b - a)\,\sigma(u_b + L v / s)\), where
    s = dp/du at the background: it cannot leave its bounds, and the prior standard deviation keeps its physical unit to
    first order.

    Args:
        model: the model with background values.
        priors: covariance by attribute name; an attribute may be a whole pytree (network weights).
        control: control vectors by attribute name.

    Returns:
        A copy of the model.
    """
    changes = {}
    for name, prior in priors.items():
        increment = prior.sqrt(control[name])
        lower, upper = _bounds(model, name)
        background = _background(model, name)
        changes[name] = jax.tree.map(lambda p, d: _move(p, d, lower, upper), background, increment)  # noqa: B023
    return model.replace(**changes)


def operator_control(streams: tuple[Any, ...]) -> tuple[dict[str, Any], ...] | None:
    """Return zero control vectors of what the streams declare as parameters of their operators, or None for nothing."""
    if not any(stream.parameters for stream in streams):
        return None
    return tuple(control_like(stream.operator, stream.parameters or {}) for stream in streams)


def with_operator_parameters(streams: tuple[Any, ...], control: Any) -> tuple[Any, ...]:
    """Return the streams with their operators' parameters moved from their background by a control vector.

    Args:
        streams: tuple of `Observations`.
        control: like `operator_control(streams)`; None changes nothing.
    """
    if control is None:
        return streams
    return tuple(
        stream.with_operator(with_parameters(stream.operator, stream.parameters, v)) if stream.parameters else stream
        for stream, v in zip(streams, control, strict=True)
    )


def _background(model: Any, name: str) -> Any:
    if not hasattr(model, name):
        known = ", ".join(getattr(model, "parameters", {})) or "none declared"
        raise ConfigurationError(f"parameters: {type(model).__name__} has no parameter {name!r}; it has {known}")
    return jax.tree.map(_as_float, getattr(model, name))


def _as_float(value: Any) -> Any:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


def _bounds(model: Any, name: str) -> tuple[float, float]:
    declared = getattr(model, "parameters", {})
    return declared[name].bounds if name in declared else (-math.inf, math.inf)


def _move(p: Any, increment: Any, lower: float, upper: float) -> Any:
    if math.isinf(lower) and math.isinf(upper):
        return p + increment
    if math.isinf(upper):
        return lower + (p - lower) * jnp.exp(increment / (p - lower))
    if math.isinf(lower):
        return upper - (upper - p) * jnp.exp(-increment / (upper - p))
    fraction = (p - lower) / (upper - lower)
    logit = jnp.log(fraction) - jnp.log1p(-fraction)
    slope = (upper - lower) * fraction * (1 - fraction)
    return lower + (upper - lower) * jax.nn.sigmoid(logit + increment / slope)
