"""Models that JAX cannot see through: NumPy, PyTorch, Fortran, a program, called back from compiled code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.core.linear import linear_map
from diffassim.core.pytree import static
from diffassim.models.base import Model
from diffassim.models.ensemble_tangent import EnsembleTangent

__all__ = ["ExternalModel"]


class ExternalModel(Model):
    r"""A step function of NumPy arrays, with derivatives if they are given.

    .. math:: x_{k+1} = f(x_k, t_k), \qquad \delta x_{k+1} = M(x_k)\,\delta x_k, \qquad
              \bar x_k = M(x_k)^\top \bar x_{k+1}

    The function is called back from compiled code, once for each step and all members. It gets copies, which it may
    overwrite, and must depend on nothing but its arguments: JAX may call it more or less often than the mathematics
    says. It must not call JAX. Its results are brought to the precision of the state.

    What needs no derivatives always works: ensemble and particle filters, `UKF`, `FourDEnVar`. With `tangent` and
    `adjoint` everything works that needs first derivatives (4D-Var, `EKF`, training through rollouts); with `adjoint`
    alone what needs reverse mode only (`minimize` with `LBFGS`, training); with `tangent` alone what needs forward mode
    only. There are no second derivatives (gradients through a minimization). `da.diagnostics.check_model` tests
    derivatives against differences and each other.

    Functions are static: another function object compiles anew, so build them once.

    Args:
        function: f, (state, t) -> state, or (state, t, arguments) -> state; pytrees of NumPy arrays, t an int.
        dt: time that one step takes.
        tangent: M, (dx, x, t) -> dy, and the arguments behind them if there are any (static).
        adjoint: its transpose, (y_bar, x, t) -> x_bar, likewise (static).
        linearization: `EnsembleTangent`, instead of `tangent` and `adjoint`: derivatives estimated from differences.
        arguments: pytree of arrays that is passed on, or None; it may change without a new compilation and differ
            between members (`WithParameters`), but nothing is differentiated with respect to it.
        batched: whether the functions take all members at once: every state (and all arguments) with one leading member
            axis, also for a single member (static). Otherwise a loop calls them member by member.

    Raises:
        ConfigurationError: if a derivative is needed that is not given, or both kinds are given.
        ShapeError: (from `checked`; inside of compiled code within an error of JAX) if a function returns something
            not shaped like the state.

    Example:
        >>> model = ExternalModel(lambda x, t: 2 * x, tangent=lambda dx, x, t: 2 * dx, adjoint=lambda w, x, t: 2 * w)
        >>> model.step(jnp.ones(2), 0).tolist(), float(jax.grad(lambda x: model.step(x, 0)[1])(jnp.ones(2))[1])
        ([2.0, 2.0], 2.0)
    """

    function: Callable[..., Any] = static()
    dt: Any = 1.0
    tangent: Callable[..., Any] | None = static(default=None)
    adjoint: Callable[..., Any] | None = static(default=None)
    linearization: EnsembleTangent | None = None
    arguments: Any = None
    batched: bool = static(default=False)

    def __post_init__(self) -> None:
        for name in ("function", "tangent", "adjoint"):
            given = getattr(self, name)
            if not callable(given) and (name == "function" or given is not None):
                raise ConfigurationError(f"ExternalModel: {name} must be a function of NumPy arrays, found {given!r}")
        if self.linearization is not None:
            if self.tangent is not None or self.adjoint is not None:
                raise ConfigurationError("ExternalModel: give `linearization`, or `tangent` and `adjoint`, not both")
            if not isinstance(self.linearization, EnsembleTangent):
                raise ConfigurationError(
                    f"ExternalModel: linearization must be an EnsembleTangent, found {self.linearization!r}"
                )

    def step(self, x: Any, t: Any) -> Any:
        """Return function(x, t) or function(x, t, arguments)."""
        arguments = _not_differentiated(self.arguments)
        t = jnp.asarray(t, jnp.int32)
        if self.linearization is not None:
            self.linearization.check(x)
            return self.linearization.stepped(partial(_call, self._host("function")), x, t, arguments)
        if self.tangent is None and self.adjoint is not None:
            return _reverse_only(self._host("function"), self._host("adjoint"), x, t, arguments)
        return _stepped(*map(self._host, ("function", "tangent", "adjoint")), x, t, arguments)

    def checked(self, x: Any, start: int = 0) -> Self:
        """Run the function at a state, outside of compiled code, and return the model if all is well.

        Args:
            x: state, a pytree of arrays.
            start: number of the step.

        Raises:
            ShapeError: if the function returns something not shaped like the state.
            DataError: if it returns values that are not finite.
            ConfigurationError: if two calls differ, or one for two members from one for each.
        """
        numbers, arguments = np.asarray(start), jax.tree.map(np.asarray, self.arguments)
        x = jax.tree.map(np.asarray, x)
        host = self._host("function")
        first, again = host(numbers, arguments, x), host(numbers, arguments, x)
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(first)):
            raise DataError("ExternalModel: the function returns values that are not finite")
        if not _equal(first, again):
            raise ConfigurationError(
                "ExternalModel: two calls with the same state give different results; the function must not remember "
                "anything or draw random numbers (noise of the model is the `Q` of a method)"
            )
        pair = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), (numbers, arguments, x))
        if not _equal(jax.tree.map(lambda leaf: leaf[1], host(*pair)), first, rounding=True):
            raise ConfigurationError("ExternalModel: the function treats two equal members differently from one")
        return self

    def _host(self, name: str) -> _Host:
        return _Host(name, getattr(self, name), self.batched)


class _Host(NamedTuple):
    """Calls a function with NumPy arrays: members one by one, or all at once. Equal ones share compiled programs."""

    name: str
    function: Any
    batched: bool

    def __call__(self, t: Any, arguments: Any, *states: Any) -> Any:
        """Apply the function to states with the axes of t, those of batches, in front."""
        numbers = np.asarray(t)
        axes, count = numbers.ndim, numbers.size

        def members(leaf: Any) -> np.ndarray:  # a copy: the function may overwrite it
            return np.array(leaf).reshape((count, *np.shape(leaf)[axes:]))

        flat = jax.tree.map(members, states)
        extra = () if arguments is None else (jax.tree.map(members, arguments),)
        found = jax.tree.map(np.empty_like, flat[0])
        ts = numbers.reshape(count)
        groups = [np.flatnonzero(ts == t) for t in np.unique(ts)] if self.batched else range(count)
        for chosen in groups:
            own = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen, ...], (flat, extra))
            shapes, structure = [leaf.shape for leaf in jax.tree.leaves(own[0][0])], jax.tree.structure(own[0][0])
            result = self.function(*own[0], int(np.max(ts[chosen])), *own[1])
            result = self._matching(result, shapes, structure)
            for leaf, values in zip(jax.tree.leaves(found), result, strict=True):
                leaf[chosen] = values
        return jax.tree.map(lambda leaf: leaf.reshape((*numbers.shape, *leaf.shape[1:])), found)

    def _matching(self, result: Any, shapes: list[Any], structure: Any) -> list[np.ndarray]:
        """Return the leaves of a result as arrays; raise an error unless they fit."""
        leaves = list(map(np.asarray, jax.tree.leaves(result)))
        same = jax.tree.structure(result) == structure
        if not same or [leaf.shape for leaf in leaves] != shapes:
            found = "None (it must return the new state)" if result is None else [leaf.shape for leaf in leaves]
            members = ", with the leading member axis" if self.batched else ""
            raise ShapeError(
                f"ExternalModel: {self.name} must return arrays shaped like the state{members}, {shapes}, found {found}"
                + ("" if same or result is None else f" in the structure {jax.tree.structure(result)}")
            )
        for leaf in leaves:
            if leaf.dtype.kind not in "biuf":
                raise DataError(f"ExternalModel: {self.name} must return real numbers, found {leaf.dtype}")
        return leaves


def _equal(a: Any, b: Any, rounding: bool = False) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    if not rounding:
        return all(np.array_equal(u, v) for u, v in pairs)
    return all(np.allclose(u, v, rtol=0, atol=1e3 * _precision(v) * np.max(np.abs(v), initial=0)) for u, v in pairs)


def _precision(leaf: Any) -> float:
    return float(np.finfo(leaf.dtype).eps) if leaf.dtype.kind == "f" else 0.0


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _call(host: _Host, t: Any, arguments: Any, *states: Any) -> Any:
    """Return host(t, arguments, *states) from inside of compiled code."""
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), states[0])
    return jax.pure_callback(host, like, t, arguments, *states, vmap_method="broadcast_all")


@_call.defjvp
def _second_derivative(host: _Host, primals: Any, tangents: Any) -> Any:
    raise ConfigurationError(
        f"ExternalModel: the derivative of its {host.name} is asked for, a second derivative of the model, which "
        "cannot be given. Minimizations do without; gradients through them need a model written in JAX"
    )


@jax.custom_jvp
def _not_differentiated(arguments: Any) -> Any:
    return arguments


@_not_differentiated.defjvp
def _no_derivative(primals: Any, tangents: Any) -> Any:
    raise ConfigurationError(
        "ExternalModel: a derivative with respect to its `arguments` is asked for, which it does not have; estimate "
        "them with an ensemble (da.models.WithParameters and a filter), or take jax.lax.stop_gradient of them"
    )


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _stepped(function: _Host, tangent: _Host, adjoint: _Host, x: Any, t: Any, arguments: Any) -> Any:
    return _call(function, t, arguments, x)


@_stepped.defjvp
def _with_derivatives(function: _Host, tangent: _Host, adjoint: _Host, primals: Any, tangents: Any) -> Any:
    if tangent.function is None:
        raise ConfigurationError(
            "ExternalModel: a derivative of the model is asked for, but the function has none. Ensemble methods (ETKF, "
            "LETKF, EnKF, IEnKS, particle filters), UKF and FourDEnVar do without; or give tangent= and adjoint=, or "
            "linearization=da.models.EnsembleTangent(perturbations)"
        )
    x, t, arguments = primals
    _require_floating(x)

    def forward(u: Any, *kept: Any) -> Any:
        x, t, arguments = kept
        return _call(tangent, t, arguments, u, x)

    def transpose(w: Any, *kept: Any) -> Any:
        if adjoint.function is None:
            raise ConfigurationError(
                "ExternalModel: reverse mode (a gradient) is asked for, but only the tangent is given; give adjoint= "
                "as well, or take a method that needs forward mode or no derivatives (EKF, UKF, ensemble filters)"
            )
        x, t, arguments = kept
        return _call(adjoint, t, arguments, w, x)

    y = _stepped(function, tangent, adjoint, x, t, arguments)
    return y, linear_map(forward, transpose, tangents[0], x, t, arguments)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reverse_only(function: _Host, adjoint: _Host, x: Any, t: Any, arguments: Any) -> Any:
    return _call(function, t, arguments, x)


def _forward(function: _Host, adjoint: _Host, x: Any, t: Any, arguments: Any) -> Any:
    _require_floating(x)
    return _reverse_only(function, adjoint, x, t, arguments), (x, t, arguments)


def _backward(function: _Host, adjoint: _Host, kept: Any, bar: Any) -> Any:
    x, t, arguments = kept
    return _call(adjoint, t, arguments, bar, x), None, None


_reverse_only.defvjp(_forward, _backward)


def _require_floating(x: Any) -> None:
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(x)):
        raise ConfigurationError(
            f"ExternalModel: derivatives need a state of floating-point numbers, found {tree.describe_shapes(x)}"
        )
