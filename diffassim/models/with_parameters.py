"""A model whose parameters are part of its state: every member has its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from diffassim.core.bounds import UNBOUNDED, increment_within, moved_within, require_within
from diffassim.core.checks import real_state
from diffassim.core.errors import ConfigurationError
from diffassim.core.paths import check_paths, replace_at, steps_to, value_at
from diffassim.core.pytree import static
from diffassim.models.base import Model, Parameter, Variable

__all__ = ["WithParameters"]


class WithParameters(Model):
    r"""The model of the state {"state": x, "parameters": {path: value}}; the parameters stay what they are.

    Members with draws of their own are an ensemble of stochastic parameters. With a filter's
    `Q=Blocks({"state": Zero(), "parameters": {path: Diagonal(std=...)}})` they walk at random from analysis to
    analysis, and as they are part of the state, observations correct them (`Field("state")` observes the rest).

    A filter knows of no bounds. A parameter with `bounds` is held as \(p_b + d\), where p_b is the model's own value
    and d the increment in logit or log space that leads to p (`core.bounds.moved_within`): in the unit of the parameter
    to first order, and any number is a parameter within its bounds. `augmented` makes such states, `values` reads them.

    Args:
        model: any model.
        names: paths of the parts of the model that become part of the state (static), see `core.paths`.
        bounds: (lower, upper) by path, infinite where there is none (static).

    Raises:
        ConfigurationError: if there is nothing at a path, or bounds belong to none of the parameters.
        DataError: if the model's own value lies on a bound or beyond.

    Example:
        >>> from diffassim.models import FunctionModel, Lorenz96
        >>> model = WithParameters(Lorenz96(), ("forcing",))
        >>> x = model.step({"state": jnp.full(40, 5.0), "parameters": {"forcing": jnp.array(5.0)}}, 0)
        >>> bool(jnp.allclose(x["state"], 5.0)), float(x["parameters"]["forcing"])  # at rest with this forcing
        (True, 5.0)
        >>> model = WithParameters(Lorenz96(), ("forcing",), bounds={"forcing": (0.0, 10.0)})
        >>> far = {"state": jnp.zeros(40), "parameters": {"forcing": jnp.array(30.0)}}
        >>> float(model.values(far)["forcing"].round(2))
        10.0
    """

    model: Any
    names: tuple[str, ...] = static()
    bounds: Any = static(default=())

    def __post_init__(self) -> None:
        names = (self.names,) if isinstance(self.names, str) else tuple(self.names)
        given = self.bounds.items() if isinstance(self.bounds, Mapping) else (self.bounds or ())
        bounds = tuple((path, (float(lower), float(upper))) for path, (lower, upper) in given)
        self._set(names=names, bounds=bounds)
        if not names:
            raise ConfigurationError("WithParameters: name at least one path of the model")
        check_paths("WithParameters", self.model, names)
        for path, pair in bounds:
            if path not in names:
                raise ConfigurationError(f"WithParameters: bounds for {path!r}, which is none of {', '.join(names)}")
            require_within(f"WithParameters: {path}", value_at(self.model, path), pair)

    @property
    def dt(self) -> Any:
        """Time step of the model."""
        return self.model.dt

    def forced_steps(self) -> tuple[int, int] | None:
        """Return the steps that the model has forcing for."""
        return self.model.forced_steps() if isinstance(self.model, Model) else None

    def augmented(self, x: Any, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the state of this model that belongs to a state and to values of the parameters.

        Args:
            x: state of the model, of one member or of many.
            values: values by path, with a leading axis where there are members; default: the model's own.
        """
        values = values or {}
        unknown = [path for path in values if path not in self.names]
        if unknown:
            raise ConfigurationError(
                f"WithParameters: {unknown[0]!r} is none of the parameters {', '.join(self.names)}"
            )
        held = {}
        for path in self.names:
            p = self._own(path)
            moved = real_state(path, values.get(path, p))
            lower, upper = self._bounds(path)
            require_within(f"WithParameters: {path}", moved, (lower, upper))
            held[path] = jax.tree.map(lambda p, q, a=lower, b=upper: _held(p, q, a, b), p, moved)
        return {"state": x, "parameters": held}

    def values(self, x: Any) -> dict[str, Any]:
        """Return the parameters in a state, by path, within their bounds."""
        found = {}
        for path in self.names:
            lower, upper = self._bounds(path)
            found[path] = x["parameters"][path]
            if (lower, upper) != UNBOUNDED:
                p, held = self._own(path), real_state(path, found[path])
                found[path] = jax.tree.map(lambda p, q, a=lower, b=upper: _moved(p, q, a, b), p, held)
        return found

    def step(self, x: Any, t: Any) -> Any:
        """Return the state one step later, with the parameters unchanged."""
        changed = replace_at(self.model, self.values(x))
        return {"state": changed.step(x["state"], t), "parameters": x["parameters"]}

    def variables(self) -> Any:
        """Return the variables of the model and of the parameters, like a state."""
        return {"state": self.model.variables(), "parameters": {path: self._variables(path) for path in self.names}}

    def _own(self, path: str) -> Any:
        return real_state(path, value_at(self.model, path))

    def _bounds(self, path: str) -> tuple[float, float]:
        return dict(self.bounds).get(path, UNBOUNDED)

    def _variables(self, path: str) -> Any:
        """Return the variable that a parameter is, with the unit that its owner declares; for a part, of each leaf."""
        owner, name, part = (steps_to(self.model, path) or [(None, path, None)])[-1]
        p = (getattr(owner, "parameters", None) or {}).get(name, Parameter())
        return jax.tree.map(lambda _: Variable(path, (), p.units, p.long_name or path), part)


def _moved(p: Any, held: Any, lower: float, upper: float) -> Any:
    p = _like(p, held)
    return moved_within(p, held - p, lower, upper)


def _held(p: Any, moved: Any, lower: float, upper: float) -> Any:
    p = _like(p, moved)
    return p + increment_within(p, moved, lower, upper)


def _like(p: Any, values: Any) -> Any:
    """Return the model's own value in the precision of a state, with axes in front if that has members."""
    return p.astype(values.dtype).reshape((1,) * (values.ndim - p.ndim) + p.shape)
