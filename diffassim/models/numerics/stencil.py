"""Tendencies that depend on neighbours on a periodic line, with an adjoint that gathers instead of scattering."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import DataError, ShapeError
from diffassim.core.kernels import kernel
from diffassim.core.linear import with_adjoint

__all__ = ["HERE", "Extended", "Margin", "PeriodicStencil", "extend", "matched", "window", "with_margin"]

# An array with margin (l, r) covers the points -l, ..., n - 1 + r of a periodic line of n points.
Margin = tuple[int, int]
HERE: Margin = (0, 0)


class Extended(NamedTuple):
    """A field, or a pytree of fields and numbers, and its margin."""

    values: Any
    margin: Margin


@dataclasses.dataclass(frozen=True)
class PeriodicStencil:
    r"""A tendency that is one formula at every point of a periodic line.

    .. math:: \dot x_i = f(x_{i + o_1}, \dots, x_{i + o_m};\ \theta)

    The formula is all that has to be written. Forward, the shifted fields are slices of one padded copy, which on CPU
    is several times faster than `jnp.roll`; in reverse, the pointwise derivatives of f are shifted back and summed,
    \(\bar x_j = \sum_k \big(\partial f / \partial x_{+o_k}\, \bar y\big)_{j - o_k}\), where the derived transpose of
    a slice would scatter into arrays of zeros. All derivatives, in both modes and to any order, are available.

    Args:
        function: (values, parameters) -> tendency, pointwise; `values` holds one array for each offset. A module-level
            function: it is part of the compiled program's key.
        offsets: the o_k, integers.

    Raises:
        ShapeError: when called, if a parameter is neither a number nor a field like the state.
        DataError: when called, if the state is not floating point.

    Example:
        >>> upwind = PeriodicStencil(lambda u, a: a * (u[0] - u[1]), offsets=(-1, 0))
        >>> upwind(jnp.array([0.0, 1.0, 0.0, 0.0]), 0.5).tolist()
        [0.0, -0.5, 0.5, 0.0]
    """

    function: Callable[[tuple[Array, ...], Any], Array]
    offsets: tuple[int, ...]

    @property
    def reach(self) -> Margin:
        """How far the formula looks to the left and to the right."""
        return max(0, -min(self.offsets)), max(0, max(self.offsets))

    def __call__(self, x: Float[Array, "... n"], parameters: Any = None) -> Float[Array, "... n"]:
        """Return the tendency at x; parameters are a pytree of numbers and of fields that broadcast to x."""
        return _tendency(self, x, matched(parameters, x))

    def evaluate(self, p: Extended, parameters: Extended, want: Margin) -> Array:
        """Return the tendency at p with margin `want`; p has a margin that is larger by the reach."""
        return self.function(self._values(p, want), window(parameters, want))

    def gather(self, p: Extended, bar: Extended, parameters: Extended, want: Margin) -> Array:
        """Return the cotangent of p with margin `want`, from the cotangent `bar` of the tendency at p."""
        left, right = self.reach
        wide = (want[0] + right, want[1] + left)
        inner = window(parameters, wide)
        _, pull_back = jax.vjp(lambda values: self.function(values, inner), self._values(p, wide))
        (terms,) = pull_back(window(bar, wide))
        total, *rest = (window(Extended(term, wide), want, -o) for term, o in zip(terms, self.offsets, strict=True))
        for term in rest:
            total = total + term
        return total

    def _values(self, p: Extended, want: Margin) -> tuple[Array, ...]:
        return tuple(window(p, want, offset) for offset in self.offsets)


def matched(parameters: Any, x: Float[Array, "... n"]) -> Any:
    """Return parameters in the dtype of x: numbers as they are, fields with as many axes as x.

    Raises:
        ShapeError: if a leaf is neither.
        DataError: if x is not floating point.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise DataError(f"the state must be floating point, found {x.dtype}; convert it with x.astype(float)")

    def match(path: Any, leaf: Any) -> Array:
        leaf = jnp.asarray(leaf, x.dtype)
        if leaf.ndim == 0:
            return leaf
        fits = leaf.ndim <= x.ndim and all(a in (1, b) for a, b in zip(leaf.shape[::-1], x.shape[::-1], strict=False))
        if not fits:
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "the parameter"
            raise ShapeError(
                f"{name} of shape {leaf.shape} does not broadcast to a state of shape {x.shape}; give a number, or one "
                "value for each point"
            )
        return leaf.reshape((1,) * (x.ndim - leaf.ndim) + leaf.shape)

    return jax.tree_util.tree_map_with_path(match, parameters)


def window(p: Extended, want: Margin, shift: int = 0) -> Any:
    """Return the part with margin `want`, read at i + shift; numbers are passed on."""
    start = p.margin[0] - want[0] + shift
    less = sum(p.margin) - sum(want)

    def cut(leaf: Array) -> Array:
        return lax.slice_in_dim(leaf, start, start + leaf.shape[-1] - less, axis=-1) if _is_field(leaf) else leaf

    return jax.tree.map(cut, p.values)


def extend(parameters: Any, margin: Margin) -> Extended:
    """Give a margin to every field of a pytree of matched parameters."""
    return Extended(jax.tree.map(lambda leaf: _padded(leaf, margin) if _is_field(leaf) else leaf, parameters), margin)


@kernel("margin")
def with_margin(x: Float[Array, "... n"], *, margin: Margin) -> Array:
    """Return a periodic field with a margin, stored."""
    return _padded(x, margin)


def _padded(x: Array, margin: Margin) -> Array:
    n = x.shape[-1]
    left, right = margin  # may be longer than the line
    before = [x[..., n - left % n :]] if left % n else []
    after = [x[..., : right % n]] if right % n else []
    return jnp.concatenate([*before, *[x] * (left // n + 1 + right // n), *after], axis=-1)


def _is_field(leaf: Array) -> bool:
    return leaf.ndim > 0 and leaf.shape[-1] > 1


def _plain(stencil: PeriodicStencil, x: Array, parameters: Any) -> Array:
    p = Extended(with_margin(x, margin=stencil.reach), stencil.reach)
    return stencil.evaluate(p, Extended(parameters, HERE), HERE)


def _adjoint(stencil: PeriodicStencil, bar: Array, x: Array, parameters: Any) -> tuple[Array, Any]:
    left, right = stencil.reach
    both, around = (left + right, left + right), (right, left)
    p, wide_bar = Extended(with_margin(x, margin=both), both), Extended(with_margin(bar, margin=around), around)
    x_bar = stencil.gather(p, wide_bar, extend(parameters, around), HERE)
    _, pull_back = jax.vjp(lambda q: stencil.evaluate(p, Extended(q, HERE), HERE), parameters)
    return x_bar, pull_back(bar)[0]


_tendency = with_adjoint(_plain, _adjoint)
