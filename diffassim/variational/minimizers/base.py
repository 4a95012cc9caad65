"""The protocol of minimizers: one search, how exact it is, and what goes on where it did not converge."""

from __future__ import annotations

from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["AroundMinimizer", "Minimizer", "as_minimizer"]


class Minimizer:
    """Base of what `minimize` can call; a minimizer of your own is a `Pytree` as well, and defines `search`.

    `tolerance` is the norm of the gradient of J at which the search ends: how exact the implicit derivative has to be.
    Zero (the default) asks for all digits.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> class InTurn(Minimizer, Pytree):
        ...     first: Any = da.LBFGS(max_iterations=10)
        ...     then: Any = da.GaussNewton()
        ...     tolerance = 1e-3
        ...     def search(self, cost, start, unrolled=False):
        ...         return self.then.search(cost, self.first.search(cost, start, unrolled).control, unrolled)
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> da.minimize(cost, InTurn()).state.round(6).tolist()
        [2.0]
    """

    tolerance: Any = 0.0

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        """Minimize a cost.

        Args:
            cost: `Cost`.
            start: control vector to start from.
            unrolled: use loops that reverse mode can pass through.

        Returns:
            `Minimum`; the call can stand inside of `jit` and `vmap`.
        """
        raise ConfigurationError(f"{type(self).__name__} does not define search(cost, start, unrolled)")

    def stages(self, start: Any) -> tuple[Any, ...]:
        """Return minimizers to be called one after the other until one converges, where that is known.

        Each goes on where the one before ended, in a program of its own that is compiled only if it is needed.

        Args:
            start: control vector with which the first of them starts.
        """
        return (self,)


class AroundMinimizer(Minimizer):
    """Base of minimizers that call another, their field `minimizer`: as exact as that, and with its later stages."""

    minimizer: Any

    @property
    def tolerance(self) -> Any:  # type: ignore[override]
        """The tolerance of the minimizer that is called: how exact the implicit gradient has to be."""
        return self.minimizer.tolerance

    def stages(self, start: Any) -> tuple[Any, ...]:
        """Return this around the first stage of the minimizer, and the minimizer's other stages."""
        first, *others = self.minimizer.stages(start)
        return self.replace(minimizer=first), *others  # type: ignore[attr-defined]


class _Given(Minimizer, Pytree):
    """A minimizer that does not derive from `Minimizer`."""

    method: Any

    @property
    def tolerance(self) -> Any:  # type: ignore[override]
        return getattr(self.method, "tolerance", 0.0)

    def search(self, cost: Any, start: Any, unrolled: bool = False) -> Minimum:
        return self.method.search(cost, start, unrolled=unrolled)


def as_minimizer(method: Any) -> Any:
    """Return a minimizer in the protocol of `Minimizer`: itself, or wrapped if it has no more than `search`.

    Raises:
        ConfigurationError: if it has no `search`, or stages without deriving from `Minimizer`.
    """
    if isinstance(method, Minimizer):
        return method
    if isinstance(method, type) or not callable(getattr(method, "search", None)):
        found = f"the class {method.__name__}; call it" if isinstance(method, type) else type(method).__name__
        raise ConfigurationError(
            f"a minimizer has search(cost, start, unrolled), like GaussNewton() or LBFGS(); found {found}"
        )
    if hasattr(method, "stages"):
        raise ConfigurationError(
            f"{type(method).__name__} has `stages`, which counts only in the protocol of minimizers: derive it from "
            "diffassim.variational.Minimizer"
        )
    return _Given(method)
