"""Error covariances as linear operators that know their square root."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import AssimilationError, ShapeError
from diffassim.core.pytree import Pytree

__all__ = ["Covariance", "NotAvailableError", "as_field", "check_field"]


class NotAvailableError(AssimilationError, NotImplementedError):
    """A covariance does not offer this operation; the message says what to use instead."""


class Covariance(Pytree):
    r"""A symmetric positive (semi)definite operator \(B = L L^\top\) given by its square root L.

    Nothing is ever inverted as a matrix. Arrays are acted on along their trailing axes, pytrees leaf by leaf; leading
    axes beyond the covariance's own are batch axes (times, members).

    Covariances form a cone: `a * B`, `B1 + B2` for a >= 0; the control vector of a sum is the pair of control vectors,
    \((B_1 + B_2)^{1/2} [v_1, v_2] = L_1 v_1 + L_2 v_2\), which is hybrid ensemble-variational assimilation.
    """

    @property
    def ndim(self) -> int:
        """Number of trailing axes that are correlated with each other (matters for `Kronecker`)."""
        return 1

    def control_like(self, x: Any) -> Any:
        """Return the zero control vector v for a state like `x` (default: the space of the state itself)."""
        return tree.zeros_like(x)

    def sqrt(self, v: Any) -> Any:
        """Return L v, a state increment."""
        raise self._unavailable("sqrt")

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x, a control vector."""
        raise self._unavailable("sqrt_transpose")

    def apply(self, x: Any) -> Any:
        """Return B x."""
        return self.sqrt(self.sqrt_transpose(x))

    def whiten(self, x: Any) -> Any:
        """Return W x with W^T W = B^(-1): departures of unit covariance."""
        raise self._unavailable("whiten")

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x."""
        raise self._unavailable("solve")

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return log det B on the space of states like `x`; batch axes count as independent copies."""
        raise self._unavailable("logdet")

    def sample(self, key: jax.Array, x: Any) -> Any:
        """Return a draw from N(0, B), shaped like `x` (leading batch axes give independent draws)."""
        v = self.control_like(x)
        leaves, structure = jax.tree.flatten(v)
        keys = jax.random.split(key, max(len(leaves), 1))
        noise = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=False)]
        return self.sqrt(jax.tree.unflatten(structure, noise))

    def variance(self, x: Float[Array, "time ..."]) -> Float[Array, "time ..."]:
        """Return the diagonal of B, from its products with unit vectors.

        Args:
            x: an array with a leading axis of copies (times), for its shape and dtype.
        """
        size = math.prod(x.shape[1:])
        units = jnp.eye(size, dtype=x.dtype).reshape((size, 1, *x.shape[1:]))
        products = jax.vmap(self.apply)(jnp.broadcast_to(units, (size, *x.shape)))
        return jnp.einsum("iti->ti", products.reshape(size, x.shape[0], size)).reshape(x.shape)

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError`, naming `name`, unless the covariance fits a state like `x`."""

    def masked(self, mask: Any) -> Covariance:
        r"""Return the covariance of the components where `mask` is True, for departures that are zero elsewhere.

        The missing components stay in place with unit variance, independent of all others: whitened departures, their
        norm, the log determinant and all gradients are those of the problem without them.

        Args:
            mask: booleans shaped like what the covariance acts on, batch axes included.
        """
        raise self._unavailable(
            "masked", "Missing observations need a Diagonal or Dense error covariance; see Dense.from_covariance."
        )

    def _unavailable(self, operation: str, advice: str = "") -> NotAvailableError:
        return NotAvailableError(f"{type(self).__name__} has no {operation}. {advice}".strip())

    def __add__(self, other: Any) -> Any:
        from diffassim.covariances.combined import Sum

        if not isinstance(other, Covariance):
            return NotImplemented
        left = self.terms if isinstance(self, Sum) else (self,)
        right = other.terms if isinstance(other, Sum) else (other,)
        return Sum((*left, *right))

    def __mul__(self, factor: Any) -> Any:
        from diffassim.covariances.combined import Scaled

        if isinstance(factor, Covariance):
            return NotImplemented
        return Scaled(self, factor)

    __rmul__ = __mul__


def as_field(value: Any, leaf: Any) -> Any:
    """Return a parameter field in the dtype of a state leaf, with axes of length one in front up to its rank.

    A number given as Python float or in double precision must not promote a float32 state.
    """
    value = jnp.asarray(value)
    dtype, ndim = jnp.result_type(leaf), jnp.ndim(leaf)
    value = value.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else value
    return value.reshape((1,) * (ndim - value.ndim) + value.shape) if 0 < value.ndim < ndim else value


def check_field(name: str, value: Any, leaf: Any) -> None:
    """Raise `ShapeError` unless a parameter field broadcasts to a state leaf; it may have a leading time axis."""
    shape, target = jnp.shape(value), jnp.shape(leaf)
    trailing = shape[len(shape) - len(target) :] if len(shape) > len(target) else shape
    try:
        fits = jnp.broadcast_shapes(trailing, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"{name} has shape {shape}, which does not broadcast to a state of shape {target}")
