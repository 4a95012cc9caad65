"""Hand-written adjoints, for the few places where the one that JAX derives is measurably slower."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from diffassim.core.errors import ShapeError

__all__ = ["linear_map", "with_adjoint"]


def linear_map(forward: Callable[..., Any], transpose: Callable[..., Any], x: Any, *residuals: Any) -> Any:
    r"""Apply y = A(r) x, and let reverse mode use \(A(r)^\top\) as given instead of deriving it.

    Differentiable in x and r, in both modes and to any order, and it can be batched; only the transpose with respect
    to x is taken from the caller.

    Args:
        forward: (x, *residuals) -> y, linear in x.
        transpose: (y_bar, *residuals) -> x_bar, its exact transpose (checked by the adjoint sweep of the tests).
        x: pytree of arrays.
        *residuals: pytrees of arrays on which the map depends.

    Returns:
        forward(x, *residuals).

    Example:
        >>> f = lambda x: linear_map(lambda x: 2 * x, lambda y: 2 * y, x)
        >>> float(jax.grad(f)(1.0))
        2.0
    """
    x_leaves, x_tree = jax.tree.flatten(x)
    r_leaves, r_tree = jax.tree.flatten(residuals)
    y_tree = jax.tree.structure(jax.eval_shape(forward, x, *residuals))

    def flat_forward(r: list[Any], leaves: list[Any]) -> list[Any]:
        return jax.tree.leaves(forward(jax.tree.unflatten(x_tree, leaves), *jax.tree.unflatten(r_tree, r)))

    def flat_transpose(r: list[Any], leaves: list[Any]) -> list[Any]:
        return jax.tree.leaves(transpose(jax.tree.unflatten(y_tree, leaves), *jax.tree.unflatten(r_tree, r)))

    y_leaves = _linear_map_p.bind(
        *r_leaves, *x_leaves, forward=flat_forward, transpose=flat_transpose, residuals=len(r_leaves)
    )
    return jax.tree.unflatten(y_tree, y_leaves)


def with_adjoint(function: Callable[..., Any], adjoint: Callable[..., Any]) -> Callable[..., Any]:
    r"""Give a function an adjoint of its own, \((\bar y, x) \mapsto (\partial f / \partial x)^\top \bar y\).

    Unlike `jax.custom_vjp`, the result can still be differentiated in forward mode and to any order: the tangent-linear
    map is the derived one, and only its transpose is replaced. Arguments that do not vary are left out of it.

    Args:
        function: (static, *primals) -> y; `static` is hashable, the primals are pytrees of arrays.
        adjoint: (static, y_bar, *primals) -> tuple of one cotangent for each primal, exact (the adjoint sweep of the
            tests checks it); what it computes for arguments that do not vary is dropped by the compiler.

    Returns:
        The function (static, *primals) -> y with this adjoint.

    Raises:
        ShapeError: in reverse mode, if a cotangent is not shaped like its primal.

    Example:
        >>> cube = with_adjoint(lambda _, x: x**3, lambda _, bar, x: (3 * x**2 * bar,))
        >>> f = lambda x: cube(None, x)
        >>> float(jax.grad(f)(2.0)), float(jax.jvp(f, (2.0,), (1.0,))[1]), float(jax.hessian(f)(2.0))
        (12.0, 12.0, 12.0)
    """

    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def call(static: Any, *primals: Any) -> Any:
        return function(static, *primals)

    @partial(call.defjvp, symbolic_zeros=True)
    def rule(static: Any, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(primals)
        directions = jax.tree.leaves(tangents, is_leaf=lambda t: isinstance(t, SymbolicZero))
        active = [i for i, t in enumerate(directions) if not isinstance(t, SymbolicZero)]

        def forward(u: list[Any], *leaves: Any) -> Any:
            def of_active(*values: Any) -> Any:
                full = list(leaves)
                for i, value in zip(active, values, strict=True):
                    full[i] = value
                return function(static, *jax.tree.unflatten(structure, full))

            return jax.jvp(of_active, tuple(leaves[i] for i in active), tuple(u))[1]

        def transpose(bar: Any, *leaves: Any) -> list[Any]:
            bars = jax.tree.leaves(adjoint(static, bar, *jax.tree.unflatten(structure, leaves)))
            return [_like(bars[i], leaves[i]) for i in active]

        y = call(static, *primals)
        return y, linear_map(forward, transpose, [directions[i] for i in active], *leaves)

    return call


def _like(bar: Any, leaf: Any) -> Any:
    if jnp.shape(bar) != jnp.shape(leaf):
        raise ShapeError(f"an adjoint returned a cotangent of shape {jnp.shape(bar)} for an array of {jnp.shape(leaf)}")
    return jnp.asarray(bar, jnp.result_type(leaf))


_linear_map_p = Primitive("diffassim_linear_map")
_linear_map_p.multiple_results = True


def _apply(*arguments: Any, forward: Any, transpose: Any, residuals: int) -> list[Any]:
    return forward(list(arguments[:residuals]), list(arguments[residuals:]))


def _abstract(*arguments: Any, forward: Any, transpose: Any, residuals: int) -> list[Any]:
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in arguments]
    shapes = jax.eval_shape(forward, structs[:residuals], structs[residuals:])
    return [jax.core.ShapedArray(s.shape, s.dtype) for s in shapes]


def _jvp(primals: Any, tangents: Any, *, forward: Any, transpose: Any, residuals: int) -> tuple[Any, Any]:
    bind = partial(_linear_map_p.bind, forward=forward, transpose=transpose, residuals=residuals)
    y = bind(*primals)
    r, x = list(primals[:residuals]), list(primals[residuals:])
    y_dot = None
    x_dot = tangents[residuals:]
    if not all(type(t) is ad.Zero for t in x_dot):
        y_dot = bind(*r, *(ad.instantiate_zeros(t) for t in x_dot))
    active = [i for i, t in enumerate(tangents[:residuals]) if type(t) is not ad.Zero]
    if active:

        def of_residuals(*values: Any) -> Any:
            full = list(r)
            for i, value in zip(active, values, strict=True):
                full[i] = value
            return forward(full, x)

        _, r_part = jax.jvp(of_residuals, tuple(r[i] for i in active), tuple(tangents[i] for i in active))
        y_dot = r_part if y_dot is None else [a + b for a, b in zip(y_dot, r_part, strict=True)]
    return y, [ad.Zero.from_primal_value(leaf) for leaf in y] if y_dot is None else y_dot


def _transpose(cotangents: Any, *arguments: Any, forward: Any, transpose: Any, residuals: int) -> list[Any]:
    if all(type(c) is ad.Zero for c in cotangents):
        return [None] * residuals + [ad.Zero(a.aval) for a in arguments[residuals:]]
    cotangents = [ad.instantiate_zeros(c) for c in cotangents]
    x_bar = _linear_map_p.bind(
        *arguments[:residuals], *cotangents, forward=transpose, transpose=forward, residuals=residuals
    )
    return [None] * residuals + list(x_bar)


def _batch(arguments: Any, axes: Any, *, forward: Any, transpose: Any, residuals: int) -> tuple[Any, list[int]]:
    # JAX marks an operand without a batch axis with None. All linear operands are batched along axis 0, so that the
    # transpose maps axis 0 to axis 0 as well.
    size = next(a.shape[d] for a, d in zip(arguments, axes, strict=True) if d is not None)
    linear = [
        jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        for a, d in zip(arguments[residuals:], axes[residuals:], strict=True)
    ]
    r_axes = list(axes[:residuals])
    y = _linear_map_p.bind(
        *arguments[:residuals],
        *linear,
        forward=jax.vmap(forward, in_axes=(r_axes, 0)),
        transpose=jax.vmap(transpose, in_axes=(r_axes, 0)),
        residuals=residuals,
    )
    return y, [0] * len(y)


_linear_map_p.def_impl(_apply)
_linear_map_p.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear_map_p] = _jvp
ad.primitive_transposes[_linear_map_p] = _transpose
batching.primitive_batchers[_linear_map_p] = _batch
mlir.register_lowering(_linear_map_p, mlir.lower_fun(_apply, multiple_results=True))
