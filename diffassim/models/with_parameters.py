"""A model whose parameters are part of its state: every member has its own."""

from __future__ import annotations

from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import static
from diffassim.models.base import Model, Parameter, Variable

__all__ = ["WithParameters"]


class WithParameters(Model):
    """The model of the state {"state": x, "parameters": {name: value}}; the parameters stay what they are.

    Members with draws of their own are an ensemble of stochastic parameters. With a filter's
    `Q=Blocks({"state": Zero(), "parameters": {name: Diagonal(std=...)}})` they walk at random from analysis to
    analysis, and as they are part of the state, observations correct them (`Field("state")` observes the rest).

    Args:
        model: any model whose fields the parameters are.
        names: fields that become part of the state (static).

    Raises:
        ConfigurationError: if the model has no such field.

    Example:
        >>> from diffassim.models import FunctionModel, Lorenz96
        >>> model = WithParameters(Lorenz96(), ("forcing",))
        >>> x = model.step({"state": jnp.full(40, 5.0), "parameters": {"forcing": jnp.array(5.0)}}, 0)
        >>> bool(jnp.allclose(x["state"], 5.0)), float(x["parameters"]["forcing"])  # at rest with this forcing
        (True, 5.0)
    """

    model: Any
    names: tuple[str, ...] = static()

    def __post_init__(self) -> None:
        self._set(names=tuple(self.names))
        missing = [name for name in self.names if not hasattr(self.model, name)]
        if missing or not self.names:
            raise ConfigurationError(
                f"WithParameters: names must be fields of {type(self.model).__name__}, found {missing or 'none'}"
            )

    @property
    def dt(self) -> Any:
        """Time step of the model."""
        return self.model.dt

    def forced_steps(self) -> tuple[int, int] | None:
        """Return the steps that the model has forcing for."""
        return self.model.forced_steps() if isinstance(self.model, Model) else None

    def step(self, x: Any, t: Any) -> Any:
        """Return the state one step later, with the parameters unchanged."""
        changed = self.model.replace(**{name: x["parameters"][name] for name in self.names})
        return {"state": changed.step(x["state"], t), "parameters": x["parameters"]}

    def variables(self) -> Any:
        """Return the variables of the model and of the parameters."""
        known = getattr(type(self.model), "parameters", {})
        described = {name: known.get(name, Parameter()) for name in self.names}
        parameters = {name: Variable(name, (), p.units, p.long_name or name) for name, p in described.items()}
        return {"state": self.model.variables(), "parameters": parameters}
