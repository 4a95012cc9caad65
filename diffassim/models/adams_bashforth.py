"""The third-order Adams-Bashforth scheme, for any model that has a tendency."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.models.base import Model, Variable

__all__ = ["AdamsBashforth3", "AdamsBashforthState"]


class AdamsBashforthState(Pytree):
    """A state with the two tendencies before it.

    Args:
        x: state of the model.
        earlier: tendency one step ago, like x.
        earliest: tendency two steps ago, like x.
        known: how many of them are known: 0, 1, 2; a floating-point number, because states are differentiated.
    """

    x: Any
    earlier: Any
    earliest: Any
    known: Float[Array, ""]


class AdamsBashforth3(Model):
    r"""A model in steps that evaluate its tendency once.

    .. math:: x_{k+1} = x_k + \tfrac{\Delta t}{12} \big(23 f(x_k) - 16 f(x_{k-1}) + 5 f(x_{k-2})\big)

    The first step is Euler's, the second \(x_2 = x_1 + \tfrac{\Delta t}{2} (3 f(x_1) - f(x_0))\). If the model has a
    method `filtered(x)`, its result is handed on.

    Steps are a quarter of the work of a Runge-Kutta step, but have to be shorter, and the state is three states: an
    analysis that changes x alone leaves tendencies of another state in it. Meant for long runs, and for agreement with
    programs that step like this.

    Args:
        model: with `tendency(x)` and `dt`.

    Raises:
        ConfigurationError: if the model has no tendency.

    Example:
        >>> from diffassim.models.lorenz63 import Lorenz63
        >>> model = AdamsBashforth3(Lorenz63(dt=0.125))
        >>> state = model.step(model.start(jnp.array([1.0, 2.0, 20.0])), 0)
        >>> state.x.tolist()[0], float(state.known)
        (2.25, 1.0)

    Source: Hairer, Norsett and Wanner (1993), section III.1.
    """

    model: Any

    def __post_init__(self) -> None:
        if not hasattr(self.model, "tendency"):
            raise ConfigurationError(
                f"AdamsBashforth3: {type(self.model).__name__} has no method tendency(x); take a model that has one"
            )

    @property
    def dt(self) -> Any:
        """Time step of the model."""
        return self.model.dt

    def start(self, x: Any) -> AdamsBashforthState:
        """Return a state from which the first step is Euler's."""
        none = jax.tree.map(jnp.zeros_like, x)
        return AdamsBashforthState(x, none, none, jnp.zeros((), jax.tree.leaves(x)[0].real.dtype))

    def step(self, state: AdamsBashforthState, t: Any) -> AdamsBashforthState:
        """Advance by dt."""
        slope = self.model.tendency(state.x)
        dt = jnp.asarray(self.dt, state.known.dtype)
        first, second = state.known < 0.5, state.known < 1.5
        factors = [
            dt * jnp.where(first, euler, jnp.where(second, two, three))
            for euler, two, three in ((1.0, 1.5, 23 / 12), (0.0, -0.5, -16 / 12), (0.0, 0.0, 5 / 12))
        ]

        def moved(x: Array, *slopes: Array) -> Array:
            for factor, s in zip(factors, slopes, strict=True):
                x = x + factor.astype(x.dtype) * s
            return x

        x = jax.tree.map(moved, state.x, slope, state.earlier, state.earliest)
        if hasattr(self.model, "filtered"):
            x = self.model.filtered(x)
        return AdamsBashforthState(x, slope, state.earlier, jnp.minimum(state.known + 1, 2))

    def variables(self) -> AdamsBashforthState:
        """Return the metadata of the state."""
        inner = self.model.variables()

        def renamed(suffix: str, text: str) -> Any:
            def rename(v: Variable) -> Variable:
                units = f"{v.units} {self.model.time_units}-1" if self.model.time_units != "1" else v.units
                return Variable(f"{v.name}_{suffix}", v.dims, units, f"tendency of {v.long_name}, {text}")

            return jax.tree.map(rename, inner, is_leaf=lambda v: isinstance(v, Variable))

        return AdamsBashforthState(
            inner, renamed("earlier", "one step ago"), renamed("earliest", "two steps ago"),
            Variable("known", (), "1", "number of known tendencies"),
        )  # fmt: skip
