"""Parameters of the model and of operators as part of the control vector, within their physical bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.bounds import UNBOUNDED, declared_bounds, moved_within, narrower, require_within
from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, require_finite
from diffassim.core.paths import check_paths, replace_at, value_at
from diffassim.core.pytree import Pytree, static
from diffassim.covariances.base import require_covariance

__all__ = [
    "Bounded", "StandIn", "check_parameters", "control_like", "operator_control", "with_operator_parameters",
    "with_parameters",
]  # fmt: skip


class Bounded(Pytree):
    r"""Covariance of a parameter's background error, with bounds that the parameter never leaves.

    The increment is made in logit (two bounds) or log (one bound) space, \(p = g(g^{-1}(p_b) + L v / s)\) with
    s = dp/du at the background, so that the covariance keeps its physical unit to first order. The prior is Gaussian in
    that space: J is minus the log density of v, in which the Jacobian of g is accounted for, and not that of p.

    Bounds that the model declares for the parameter itself (`Model.parameters`) hold as well, and without this.

    Args:
        covariance: of the background error, in the unit of the parameter.
        lower: lower bound (static).
        upper: upper bound (static).

    Raises:
        ConfigurationError: if the lower bound is not below the upper one.

    Example:
        >>> import diffassim as da
        >>> growth = da.models.FunctionModel(lambda x, t, a: a * x, arguments=1.5)
        >>> y = da.Observations(jnp.array([[8.0]]), [1], error=da.covariances.Diagonal(std=0.1))
        >>> prior = Bounded(da.covariances.Diagonal(std=1.0), lower=1.0, upper=2.0)
        >>> cost = da.StrongConstraint4DVar(growth, jnp.ones(1), None, y, parameters={"arguments": prior})
        >>> float(da.minimize(cost).model.arguments.round(1))  # 8 without bounds
        2.0
    """

    covariance: Any
    lower: float = static(default=-math.inf)
    upper: float = static(default=math.inf)

    def __post_init__(self) -> None:
        self._set(lower=float(self.lower), upper=float(self.upper))
        if not self.lower < self.upper:
            raise ConfigurationError(f"Bounded: lower={self.lower} must lie below upper={self.upper}")


class StandIn(Pytree):
    """What takes the place of a model in a cost, and says itself what that model's parameters change in it."""

    full: Any

    def with_changes(self, changes: Mapping[str, Any]) -> Any:
        """Return it for other values of the full model's parameters, by path."""
        raise NotImplementedError


def check_parameters(name: str, model: Any, priors: Mapping[str, Any]) -> None:
    """Raise, naming `name`, unless each path leads to numbers inside of their bounds that the covariance fits.

    Args:
        name: of who asks.
        model: object in which the parameters have their background values.
        priors: covariance of the background error, or `Bounded`, by path.

    Raises:
        ConfigurationError: if there is nothing at a path, or no covariance.
        ShapeError: if a covariance does not fit its parameter.
        DataError: if a background value is not finite, or lies on a bound or beyond.
    """
    if not isinstance(priors, Mapping):
        raise ConfigurationError(f"{name} must be a dict of covariances by path, found {type(priors).__name__}")
    model = _own(model)
    check_paths(name, model, tuple(priors))
    for path, prior in priors.items():
        of = f"{name}[{path!r}]"
        background = _background(model, path)
        require_finite(of, background)
        covariance, bounds = _prior(model, path, prior)
        require_covariance(of, covariance, background)
        if bounds != UNBOUNDED:
            require_within(of, background, bounds)


def control_like(model: Any, priors: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """Return the zero control vector of the parameters.

    Args:
        model: object in which the parameters have their background values.
        priors: covariance of the background error, or `Bounded`, by path.
        state: background state. A control vector is no less precise than it, so that J is computed in one precision
            where a model of double precision holds a network of single precision.

    Returns:
        Control vectors by path.
    """
    model = _own(model)
    floating = [leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def precise(leaf: Any) -> Any:
        return leaf.astype(max([leaf.dtype, *floating], key=lambda dtype: dtype.itemsize))

    return {
        path: _prior(model, path, prior)[0].control_like(jax.tree.map(precise, _background(model, path)))
        for path, prior in priors.items()
    }


def with_parameters(model: Any, priors: Mapping[str, Any], control: Mapping[str, Any]) -> Any:
    r"""Return the model with its parameters moved from their background by a whitened control vector.

    An unbounded parameter is \(p = p_b + L v\); how it is moved within bounds, says `moved_within`.

    Args:
        model: the model with background values.
        priors: covariance by path; a path may lead to a whole pytree (network weights).
        control: control vectors by path.

    Returns:
        A copy of the model.
    """
    own, changes = _own(model), {}
    for path, prior in priors.items():
        covariance, (lower, upper) = _prior(own, path, prior)
        increment = covariance.sqrt(control[path])
        changes[path] = jax.tree.map(
            lambda p, d, a=lower, b=upper: moved_within(p, d.astype(p.dtype), a, b), _background(own, path), increment
        )
    return model.with_changes(changes) if isinstance(model, StandIn) else replace_at(model, changes)


def operator_control(streams: tuple[Any, ...], state: Any) -> tuple[dict[str, Any], ...] | None:
    """Return zero control vectors of what the streams declare as parameters of their operators, or None for nothing."""
    if not any(stream.parameters for stream in streams):
        return None
    return tuple(control_like(stream.operator, stream.parameters or {}, state) for stream in streams)


def with_operator_parameters(streams: tuple[Any, ...], control: Any) -> tuple[Any, ...]:
    """Return the streams with their operators' parameters moved from their background by a control vector.

    Args:
        streams: tuple of `Observations`.
        control: like `operator_control(streams, state)`; None changes nothing.
    """
    if control is None:
        return streams
    return tuple(
        stream.with_operator(with_parameters(stream.operator, stream.parameters, v)) if stream.parameters else stream
        for stream, v in zip(streams, control, strict=True)
    )


def _own(model: Any) -> Any:
    return model.full if isinstance(model, StandIn) else model


def _prior(model: Any, path: str, prior: Any) -> tuple[Any, tuple[float, float]]:
    """Return the covariance of a parameter, and the bounds that hold for it."""
    declared = declared_bounds(model, path)
    if not isinstance(prior, Bounded):
        return prior, declared
    return prior.covariance, narrower(declared, (prior.lower, prior.upper))


def _background(model: Any, path: str) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(real_array(path, leaf)), value_at(model, path, "parameters"))
