"""A model plus a learned correction of its tendency is a model."""

from __future__ import annotations

from typing import Any

import jax

from diffassim.core.checks import require_alike
from diffassim.core.partition import compilable
from diffassim.models.base import Model

__all__ = ["CorrectedModel"]


class CorrectedModel(Model):
    r"""A forward model with a learned model-error term.

    .. math:: x_{k+1} = M(x_k, t_k) + \Delta t\, s\, N(x_k)

    with a network N of the state; the correction is added to each step, so forecasts of any length, adjoints, parameter
    control and cycling see one ordinary model. A network that returns zero changes nothing.

    Args:
        model: the model to correct.
        network: callable pytree, state -> correction of the tendency, shaped like the state.
        scale: s, a factor that brings the network's output to the size of a tendency.

    Raises:
        ShapeError: (at the first step) if the network's output is shaped unlike the state.

    Example:
        >>> import jax.numpy as jnp
        >>> from diffassim.models import Lorenz96
        >>> from diffassim.learned import Network
        >>> still = CorrectedModel(Lorenz96(forcing=8.0), Network(lambda w, x: w * x, 0.0))
        >>> still.step(jnp.full(5, 8.0), 0).tolist()
        [8.0, 8.0, 8.0, 8.0, 8.0]

    Source: the resolvent correction of Farchi et al. (2021), section 2.2; Brajard et al. (2021).
    """

    model: Any
    network: Any
    scale: Any = 1.0

    def __post_init__(self) -> None:
        self._set(network=compilable("CorrectedModel: network", self.network))

    @property
    def dt(self) -> Any:
        """Time step of the corrected model."""
        return self.model.dt

    @property
    def parameters(self) -> Any:  # type: ignore[override]
        """Parameters of the corrected model (reach them as `corrected.model`)."""
        return {}

    def variables(self) -> Any:
        """Variables of the corrected model."""
        return self.model.variables()

    def forced_steps(self) -> tuple[int, int] | None:
        """Return the steps that the corrected model has forcing for."""
        return self.model.forced_steps() if isinstance(self.model, Model) else None

    def step(self, x: Any, t: Any) -> Any:
        """Advance by one step of the model and add the correction."""
        following, change = self.model.step(x, t), self.network(x)
        require_alike("CorrectedModel: the network's correction", change, following)
        factor = self.model.dt * self.scale
        return jax.tree.map(lambda a, c: a + (factor * c).astype(a.dtype), following, change)
