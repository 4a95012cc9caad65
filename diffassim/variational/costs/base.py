"""The protocol of costs: what minimizers and products of solutions may ask of one, and what holds by default."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.observations.container import as_streams

__all__ = ["Cost", "Window", "as_cost", "is_cost", "require_departures"]


class Window(NamedTuple):
    """The run of a model along which a cost compares.

    Args:
        model: forward model, before its parameters are moved.
        background: background state at its start.
        steps: its length in model steps.
        start: number of its first step.
        horizon: steps that count, a run-time integer; None: all.
        segment: steps between the checkpoints of the adjoint; None: not set.
        memory: bytes that the adjoint may take; None: not set.
    """

    model: Any
    background: Any
    steps: int
    start: Any
    horizon: Any
    segment: int | None
    memory: int | None

    @property
    def last(self) -> Any:
        """Last step that counts."""
        return self.steps if self.horizon is None else self.horizon


class Cost:
    r"""Base of the variational costs \(J(v) = \tfrac12 |r(v)|^2\), a sum of squares in a control vector v.

    A cost of your own is a `Pytree` as well (`class Mine(Cost, Pytree)`). It defines `control`, `state` and
    `residuals`, and is minimized. Whatever else it can say makes more possible, and what it does not say is never
    guessed:

    - residuals in two parts, (a dict of whitened controls, a tuple of whitened innovations by stream): `posterior`,
      terms of J by name;
    - `streams`, `with_streams`, `predicted`: the test of consistency, influence and impact of observations;
    - `window`, `with_window`, `trajectory`: quasi-static growth of long windows, stored linearizations, simplified
      models, verified forecasts.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> class Rosenbrock(Cost, Pytree):
        ...     steepness: float
        ...     def control(self):
        ...         return jnp.zeros(2)
        ...     def state(self, v):
        ...         return v
        ...     def residuals(self, v):
        ...         return jnp.stack([1 - v[0], self.steepness * (v[1] - v[0] ** 2)])
        >>> da.minimize(Rosenbrock(10.0)).state.round(3).tolist()
        [1.0, 1.0]
    """

    whitened: ClassVar[bool] = True  # whether the prior is v ~ N(0, I), so that the Hessian is at least the identity

    def control(self) -> Any:
        """Return the control vector of the background, zero, a pytree of arrays."""
        raise _missing(self, "control()")

    def state(self, v: Any) -> Any:
        """Return the state that belongs to v."""
        raise _missing(self, "state(v)")

    def residuals(self, v: Any) -> Any:
        """Return the pytree whose squared norm is 2 J."""
        raise _missing(self, "residuals(v)")

    def __call__(self, v: Any) -> Float[Array, ""]:
        """Return J(v)."""
        return 0.5 * tree.squared_norm(self.residuals(v))

    def streams(self) -> tuple[Any, ...]:
        """Return the observations, one `Observations` for each part of `residuals(v)[1]` (default: none are known)."""
        return ()

    def with_streams(self, streams: tuple[Any, ...]) -> Self:
        """Return the cost with other observations of the same shapes."""
        raise _missing(self, "with_streams(streams)")

    def predicted(self, v: Any) -> tuple[Any, ...]:
        """Return the observation equivalents H(x), one pytree for each stream, like its values."""
        raise _missing(self, "predicted(v)")

    def controlled_model(self, v: Any) -> Any:
        """Return the model with the parameters that belong to v (default: None, there is no model)."""
        return None

    def controlled_observations(self, v: Any) -> tuple[Any, ...]:
        """Return the observations with the operators' parameters that belong to v (default: none are moved)."""
        return self.streams()

    def covariances(self) -> dict[str, Any]:
        """Return the error covariances of the parts of the control vector by name: B is that of 'state'."""
        return {}

    def window(self) -> Window | None:
        """Return the run along which the cost compares (default: None, there is none)."""
        return None

    def with_window(self, **changes: Any) -> Self:
        """Return the cost with other fields of its `window`: model, background, horizon, segment or memory."""
        raise _missing(self, "with_window(**changes)")

    def trajectory(self, v: Any, steps: int | None = None, at: Any = None) -> Any:
        """Return the states that belong to v, from the window start to `steps`, or its rows `at`."""
        raise _missing(self, "trajectory(v, steps, at)")


class _Given(Cost, Pytree):
    """A cost that does not derive from `Cost`: what it has to have, its observations if it has any, else defaults."""

    cost: Any

    @property
    def whitened(self) -> bool:  # type: ignore[override]
        return getattr(self.cost, "whitened", True)

    def control(self) -> Any:
        return self.cost.control()

    def state(self, v: Any) -> Any:
        return self.cost.state(v)

    def residuals(self, v: Any) -> Any:
        return self.cost.residuals(v)

    def streams(self) -> tuple[Any, ...]:
        observations = getattr(self.cost, "observations", None)
        return () if observations is None else as_streams(observations)

    def __getattr__(self, name: str) -> Any:  # a minimizer of the same author may know more of it
        if name.startswith("__") or "cost" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.cost, name)


_REQUIRED = ("control", "state", "residuals")
_NEEDS_THE_BASE = (
    "with_streams", "predicted", "controlled_model", "controlled_observations", "window", "with_window", "trajectory",
    "horizon",
)  # fmt: skip


def is_cost(subject: Any) -> bool:
    """Return whether an object can be minimized: it has `control`, `state` and `residuals`."""
    return not isinstance(subject, type) and all(callable(getattr(subject, name, None)) for name in _REQUIRED)


def as_cost(cost: Any) -> Any:
    """Return a cost in the protocol of `Cost`: itself, or wrapped if it has no more than what it has to have.

    Raises:
        ConfigurationError: if it is no cost, or offers more than that without deriving from `Cost`, so that half of it
            would be passed over.
    """
    if isinstance(cost, Cost):
        return cost
    if not is_cost(cost):
        found = cost.__name__ if isinstance(cost, type) else f"an object of type {type(cost).__name__}"
        raise ConfigurationError(
            f"a cost has control(), state(v) and residuals(v), found {found}; derive it from diffassim.variational.Cost"
        )
    more = [name for name in _NEEDS_THE_BASE if hasattr(cost, name)]
    if more:
        raise ConfigurationError(
            f"{type(cost).__name__} has `{more[0]}`, which counts only in the protocol of costs: derive it from "
            "diffassim.variational.Cost, and see there what belongs to it"
        )
    return _Given(cost)


def require_departures(name: str, residuals: Any) -> None:
    """Raise `ConfigurationError`, naming `name`, unless residuals are (controls, whitened innovations by stream)."""
    match residuals:
        case (dict(), tuple()):
            return
    raise ConfigurationError(
        f"{name}: the residuals of this cost must be a dict of whitened controls and a tuple of whitened innovations, "
        "one for each stream of observations; see diffassim.variational.Cost"
    )


def _missing(cost: Any, member: str) -> ConfigurationError:
    return ConfigurationError(f"{type(cost).__name__} does not define {member}, which is needed here; see `Cost`")
