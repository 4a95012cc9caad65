"""Which cost a cycle minimizes in each of its windows."""

from __future__ import annotations

from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.variational.costs.strong_constraint import StrongConstraint4DVar
from diffassim.variational.costs.weak_constraint import WeakConstraint4DVar

__all__ = ["CostFactory", "PerfectModel", "WithModelError"]


class CostFactory(Pytree):
    """Base of what makes the cost of a window, `FourDVar(cost=...)`; one of your own defines `__call__`.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> class Hopeful(CostFactory):
        ...     share: Any = 0.5  # of R that is believed
        ...     def __call__(self, model, background, B, observations, **options):
        ...         better = [y.replace(error=self.share * y.error) for y in observations]
        ...         return da.StrongConstraint4DVar(model, background, B, better, **options)
        >>> one, still = da.covariances.Diagonal(std=1.0), da.models.FunctionModel(lambda x, t: x)
        >>> windows = da.split_windows(da.Observations(jnp.full((1, 1), 3.0), [1], error=one), 1, 1)
        >>> da.cycle(da.FourDVar(one, cost=Hopeful()), still, jnp.zeros(1), windows, steps=1)[0].round(6).tolist()
        [2.0]
    """

    def __call__(
        self, model: Any, background: Any, B: Any, observations: Any, *, parameters: Any, start: Any, steps: int
    ) -> Any:
        """Return the `Cost` of a window.

        Args:
            model: forward model.
            background: state at the window start.
            B: its error covariance.
            observations: `Observations` of the window, or a tuple of them.
            parameters: covariances of model parameters by path, or None.
            start: number of the window's first step.
            steps: window length.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__(model, background, B, ...)")


class PerfectModel(CostFactory):
    """Costs of a model without error.

    Args:
        form: `StrongConstraint4DVar` or `ThreeDVarFGAT`, or another class with the same arguments (static).

    Raises:
        ConfigurationError: if the form has a model error.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> one, still = da.covariances.Diagonal(std=1.0), da.models.FunctionModel(lambda x, t: x)
        >>> windows = da.split_windows(da.Observations(jnp.full((2, 1), 3.0), [1, 2], error=one), 1, 2)
        >>> method = da.FourDVar(one, cost=PerfectModel(da.ThreeDVarFGAT))
        >>> da.cycle(method, still, jnp.zeros(1), windows, steps=1)[0].round(6).tolist()
        [2.25]
    """

    form: Any = static(default=StrongConstraint4DVar)

    def __post_init__(self) -> None:
        if "Q" in _fields(self.form):
            raise ConfigurationError(f"PerfectModel: {self.form.__name__} has model errors; take WithModelError(Q)")

    def __call__(self, model: Any, background: Any, B: Any, observations: Any, **options: Any) -> Any:
        """Return the cost of a window; see `CostFactory`."""
        return self.form(model, background, B, observations, **options)


class WithModelError(CostFactory):
    """Costs of a model with additive errors: the next background is the end of a trajectory with the analysed ones.

    Args:
        Q: covariance of the error of `every` steps.
        every: model steps between model errors (static).
        form: `WeakConstraint4DVar` or `StateWeakConstraint4DVar`, or another class with the same arguments (static).

    Raises:
        ConfigurationError: if the form has no model error.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> one, still = da.covariances.Diagonal(std=1.0), da.models.FunctionModel(lambda x, t: x)
        >>> windows = da.split_windows(da.Observations(jnp.full((2, 1), 3.0), [1, 2], error=one), 1, 2)
        >>> method = da.FourDVar(one, cost=WithModelError(one))
        >>> da.cycle(method, still, jnp.zeros(1), windows, steps=1)[0].round(6).tolist()  # 0 -> 2 -> 2 + 2/3
        [2.666667]
    """

    Q: Any
    every: int = static(default=1)
    form: Any = static(default=WeakConstraint4DVar)

    def __post_init__(self) -> None:
        if _fields(self.form) and "Q" not in _fields(self.form):
            raise ConfigurationError(f"WithModelError: {self.form.__name__} has no model error; take PerfectModel()")

    def __call__(self, model: Any, background: Any, B: Any, observations: Any, **options: Any) -> Any:
        """Return the cost of a window; see `CostFactory`."""
        return self.form(model, background, B, self.Q, observations, every=self.every, **options)


def _fields(form: Any) -> tuple[str, ...]:
    """Return the fields of a class of costs; none of what is another callable, which is taken as it is."""
    return tuple(getattr(form, "__dataclass_fields__", ()))
