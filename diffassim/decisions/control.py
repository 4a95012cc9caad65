"""How an action enters a model: through a parameter, or as an increment of the state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.paths import check_paths, replace_at, value_at
from diffassim.core.pytree import Pytree, static

__all__ = ["Control", "ParameterControl", "StateIncrement"]


class Control(Pytree):
    """An action that enters a model before its step; a plain function (model, x, action) -> (model, x) will do as well.

    Example:
        >>> from diffassim.models import Lorenz96
        >>> control = lambda model, x, action: (model.replace(forcing=action[0]), x)
        >>> control(Lorenz96(), jnp.zeros(4), jnp.array([9.0]))[0].forcing.tolist()
        9.0
    """

    def __call__(self, model: Any, x: Any, action: Any) -> tuple[Any, Any]:
        """Return the model and the state with which the step is made.

        Args:
            model: forward model.
            x: its state.
            action: a vector.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__(model, x, action)")

    def check(self, name: str, model: Any, x: Any, action: Any) -> None:
        """Raise an error, naming `name`, if it fits neither the model nor a state or an action."""


class ParameterControl(Control):
    """The action is a parameter of the model for the length of the step.

    Args:
        path: of the parameter, see `core.paths` (static).

    Example:
        >>> from diffassim.models import Lorenz96
        >>> model, x = ParameterControl("forcing")(Lorenz96(), jnp.zeros(4), jnp.array([9.0]))
        >>> float(model.forcing)
        9.0
    """

    path: str = static()

    def __call__(self, model: Any, x: Any, action: Any) -> tuple[Any, Any]:
        """Return the model with the parameter, and the state as it is."""
        now = jnp.asarray(value_at(model, self.path, "ParameterControl"))
        return replace_at(model, {self.path: jnp.reshape(action, now.shape)}), x

    def check(self, name: str, model: Any, x: Any, action: Any) -> None:
        """Raise `ConfigurationError` if the model has no such parameter, or one of another size."""
        check_paths(f"{name}: ParameterControl", model, (self.path,))
        size, found = tree.size(value_at(model, self.path)), tree.size(action)
        if size != found:
            raise ConfigurationError(f"{name}: {self.path} has {size} components, but an action has {found}")


class StateIncrement(Control):
    r"""The action moves the state before the step: \(x + \sum_i a_i e_i\).

    Args:
        patterns: the e_i, a pytree like the state with a leading axis of the action's components.

    Example:
        >>> control = StateIncrement(jnp.eye(3)[:2])
        >>> control(None, jnp.zeros(3), jnp.array([1.0, 2.0]))[1].tolist()
        [1.0, 2.0, 0.0]
    """

    patterns: Any

    def __call__(self, model: Any, x: Any, action: Any) -> tuple[Any, Any]:
        """Return the model as it is, and the state moved."""
        return model, jax.tree.map(lambda leaf, e: leaf + jnp.tensordot(action, e, axes=1), x, self.patterns)

    def check(self, name: str, model: Any, x: Any, action: Any) -> None:
        """Raise `ConfigurationError` if the patterns are not like the state, one for each component of an action."""
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((tree.size(action), *leaf.shape), leaf.dtype), x)
        if not tree.same_shapes(like, self.patterns):
            raise ConfigurationError(
                f"{name}: StateIncrement needs patterns of {tree.describe_shapes(like)}, found "
                f"{tree.describe_shapes(self.patterns)}"
            )
