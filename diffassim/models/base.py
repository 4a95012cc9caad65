"""The model protocol: one step forward in time, and what its variables and parameters are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from diffassim.core.errors import ConfigurationError, DataError, concrete
from diffassim.core.fourier import Split
from diffassim.core.pytree import Pytree, static

__all__ = ["FunctionModel", "Model", "Parameter", "SpectralModel", "Variable", "require_forcing"]


class Variable(NamedTuple):
    """Name, dimensions and unit of one leaf of a model's state, as CF output needs them."""

    name: str
    dims: tuple[str, ...] = ()
    units: str = "1"
    long_name: str = ""


class Parameter(NamedTuple):
    """Unit and admissible range of one physical parameter (an attribute of the model)."""

    units: str = "1"
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    long_name: str = ""


class Model(Pytree):
    r"""A discrete-time dynamical system \(x_{k+1} = M(x_k, t_k)\).

    A subclass defines `step`, has an attribute `dt`, and lists its physical parameters in `parameters`; parameters
    are ordinary fields and so leaves: differentiable, sweepable, replaceable without a new compilation. The state is
    any pytree of arrays.

    Time: `t` is the integer number of the step that is being taken, counted from the origin of the model's forcing
    data (autonomous models ignore it); the time at its start is `t * dt`.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    time_units: ClassVar[str] = "1"

    def step(self, x: Any, t: Any) -> Any:
        """Advance the state by one step.

        Args:
            x: state, a pytree of arrays.
            t: integer number of the step.

        Returns:
            The state one step later, of the same structure, shapes and dtypes.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step(x, t)")

    def forced_steps(self) -> tuple[int, int] | None:
        """Return the steps t the model has forcing for, first <= t < end, as (first, end); None: it can take any.

        Rollouts, costs and cycles that would leave this range are refused where it is known; inside of traced code the
        step itself has to return NaN there.
        """
        return None

    def variables(self) -> Any:
        """Return a pytree like the state whose leaves are `Variable`s (default: one array named x)."""
        return Variable("x", ("space",), "1", "state")


class SpectralModel(Model):
    """A model that makes all of its Fourier transforms by `core.fourier`, and so takes fields in parts.

    It passes `split` on to `to_modes`, `to_grid` and `frequencies`, and what it multiplies modes by has the shape of
    the latter.

    Args:
        split: how fields lie in parts on several devices, put here by `da.models.in_parts`; None: whole (static).
    """

    space_axes: ClassVar[int] = 1  # trailing axes of the state that are transformed

    split: Split | None = static(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.split is None or isinstance(self.split, Split)):
            raise ConfigurationError(
                f"{type(self).__name__}: split says how fields lie in parts, found {self.split!r}; da.models.in_parts "
                "gives it"
            )


def require_forcing(name: str, model: Any, start: Any, steps: int) -> None:
    """Raise `DataError`, naming `name`, if a run is known to leave the steps that a model has forcing for.

    Args:
        name: who runs the model.
        model: the model.
        start: number of the first step.
        steps: how many are taken.
    """
    known = concrete(start)
    forced = model.forced_steps() if isinstance(model, Model) else None
    if forced is None or known is None or not known.size or not steps:
        return
    first, end = forced
    if known.min() < first or known.max() + steps > end:
        raise DataError(
            f"{name}: steps {int(known.min())} to {int(known.max()) + steps - 1} are asked for, but "
            f"{type(model).__name__} has forcing for steps {first} to {end - 1}; give it a longer record (for a "
            "forecast, forecast forcing), or run less far"
        )


class FunctionModel(Model):
    """A model made of a plain function, for quick work in a notebook.

    The function is static: another function object compiles anew. What should be changed or differentiated goes into
    `arguments`, a pytree that is passed as third argument.

    Example:
        >>> decay = FunctionModel(lambda x, t, rate: (1 - rate) * x, arguments=0.5)
        >>> decay.step(8.0, 0)
        4.0
    """

    function: Callable[..., Any] = static()
    dt: float = 1.0
    arguments: Any = None

    def step(self, x: Any, t: Any) -> Any:
        """Return function(x, t) or function(x, t, arguments)."""
        return self.function(x, t) if self.arguments is None else self.function(x, t, self.arguments)
