"""Error covariances as linear operators that know their square root."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import AssimilationError, ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree

__all__ = ["Covariance", "NotAvailableError", "as_field", "check_field", "check_rows", "one_time", "require_covariance"]


class NotAvailableError(AssimilationError, NotImplementedError):
    """A covariance does not offer this operation; the message says what to use instead."""


class Covariance(Pytree):
    r"""A symmetric positive (semi)definite operator \(B = L L^\top\) given by its square root L.

    Nothing is ever inverted as a matrix. Arrays are acted on along their trailing axes, pytrees leaf by leaf; leading
    axes beyond the covariance's own are batch axes (times, members).

    Covariances form a cone: `a * B`, `B1 + B2` for a >= 0; the control vector of a sum is the pair of control vectors,
    \((B_1 + B_2)^{1/2} [v_1, v_2] = L_1 v_1 + L_2 v_2\), which is hybrid ensemble-variational assimilation.

    A covariance of your own defines `sqrt` and `sqrt_transpose`, and for observation errors `whiten` and `masked`. If
    arrays of its own have a row for each time, it says so in `rows`; if its errors are independent, in `uncorrelated`.
    """

    @property
    def ndim(self) -> int:
        """Number of trailing axes that are correlated with each other (matters for `Kronecker`)."""
        return 1

    @property
    def uncorrelated(self) -> bool:
        """Whether the errors of different components are known to be independent, and all have one."""
        return False

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

    def variance(self, x: Any) -> Any:
        """Return the diagonal of B, from its products with unit vectors (or with ones, where it is all there is).

        Args:
            x: an array with a leading axis of copies (times), for its shape and dtype.
        """
        if self.uncorrelated:
            return self.apply(jax.tree.map(jnp.ones_like, x))
        size = math.prod(x.shape[1:])
        units = jnp.eye(size, dtype=x.dtype).reshape((size, 1, *x.shape[1:]))
        products = jax.vmap(self.apply)(jnp.broadcast_to(units, (size, *x.shape)))
        return jnp.einsum("iti->ti", products.reshape(size, x.shape[0], size)).reshape(x.shape)

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError`, naming `name`, unless the covariance fits a state like `x`."""

    def check_error(self, name: str, x: Any, mask: Any) -> None:
        """Raise, naming `name`, unless it can be the error covariance of the observations `x`, first axis time.

        It has to fit them at every time, to have an inverse, and to leave out what is missing.

        Args:
            name: what to call it.
            x: observed values with the time axis first (their shapes matter).
            mask: True where observed, shaped like `x`.

        Raises:
            ShapeError: if it does not fit, or has other numbers of rows than there are times.
            NotAvailableError: if it cannot leave out what is missing, or does not say which arrays have rows.
            ConfigurationError: if it is singular.
            DataError: if the error of an observed value is NaN.
        """
        self.check(name, one_time(x))
        self.rows(x, partial(check_rows, name, x))
        try:
            jax.eval_shape(self.masked, jax.tree.map(lambda m: jax.ShapeDtypeStruct(jnp.shape(m), bool), mask))
        except NotAvailableError as error:
            raise NotAvailableError(f"{name}: {error}") from None

    def rows(self, x: Any, take: Callable[[Any], Any], otherwise: Callable[[Any], Any] = lambda array: array) -> Self:
        """Return the covariance of some times of `x`, or of all times arranged otherwise.

        Here no array has rows. A class whose arrays have some, and does not say which, is found out by what it makes of
        a single time.

        Args:
            x: what it acts on, with the time axis first (shapes only).
            take: what to do with an array that has a row for each time ...
            otherwise: ... and with one that serves all times.

        Raises:
            NotAvailableError: if the covariance of all times is not that of one.
        """
        problem = self._more_than_one_time(one_time(x))
        if problem:
            raise self._unavailable(
                "rows",
                f"{problem}; if its arrays have a row for each time, define rows(x, take, otherwise), which applies "
                "`take` to them and `otherwise` to all others",
            )
        return jax.tree.map(otherwise, self)

    def _more_than_one_time(self, one: Any) -> str:
        """Return what is wrong with the covariance of a single time, or no text."""
        for operation in ("whiten", "apply"):
            try:
                found = jax.eval_shape(getattr(self, operation), one)
            except NotAvailableError:
                continue
            except Exception as error:
                return f"{operation} fails for values of one time, {tree.describe_shapes(one)}: {error}".rstrip(".")
            if tree.size(found) != tree.size(one):
                found, wanted = tree.describe_shapes(found), tree.describe_shapes(one)
                return f"{operation} makes {found} of values of one time, {wanted}"
        return ""

    def masked(self, mask: Any) -> Covariance:
        r"""Return the covariance of the components where `mask` is True, for departures that are zero elsewhere.

        The missing components stay in place with unit variance, independent of all others: whitened departures, their
        norm, the log determinant and all gradients are those of the problem without them.

        Args:
            mask: booleans shaped like what the covariance acts on, batch axes included.
        """
        if self.uncorrelated:
            from diffassim.covariances.diagonal import Diagonal

            ones = jax.tree.map(lambda m: jnp.ones(jnp.shape(m)), mask)
            return Diagonal.from_variance(self.variance(ones)).masked(mask)
        raise self._unavailable(
            "masked", "Missing observations need a Diagonal or Dense error covariance; see Dense.from_covariance."
        )

    def _with(self, **fields: Any) -> Self:
        """Return a copy with other fields, without checking them (they may have axes of times or windows)."""
        changed = copy.copy(self)
        changed._set(**fields)
        return changed

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


def require_covariance(name: str, covariance: Any, x: Any) -> None:
    """Raise, naming `name`, unless this can be the covariance of the background (or model) errors of a state.

    An object that is no `Covariance` will do if it has a control vector, and a square root that makes states of it.

    Args:
        name: what to call it.
        covariance: what was given.
        x: state.

    Raises:
        ConfigurationError: if it is nothing of the kind.
        ShapeError: if it does not fit the state.

    Example:
        >>> import diffassim as da
        >>> require_covariance("B", da.covariances.Diagonal(std=1.0), jnp.zeros(3))
    """
    if isinstance(covariance, Covariance):
        covariance.check(name, x)
        return
    if isinstance(covariance, type) or not (hasattr(covariance, "sqrt") and hasattr(covariance, "control_like")):
        raise ConfigurationError(
            f"{name} must be a covariance, found {covariance!r}; standard deviations are "
            "da.covariances.Diagonal(std=...)"
        )
    made = jax.eval_shape(lambda x: covariance.sqrt(covariance.control_like(x)), x)
    if not tree.same_shapes(made, x):
        raise ShapeError(
            f"{name}: the square root of {type(covariance).__name__} makes {tree.describe_shapes(made)} for a state of "
            f"{tree.describe_shapes(x)}"
        )


def as_field(value: Any, leaf: Any) -> Any:
    """Return a parameter field in the dtype of a state leaf, with axes of length one in front up to its rank.

    A number given as Python float or in double precision must not promote a float32 state.
    """
    value = jnp.asarray(value)
    dtype, ndim = jnp.result_type(leaf), jnp.ndim(leaf)
    value = value.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else value
    return value.reshape((1,) * (ndim - value.ndim) + value.shape) if 0 < value.ndim < ndim else value


def check_field(name: str, value: Any, leaf: Any) -> None:
    """Raise `ShapeError` unless a parameter field broadcasts to a state leaf."""
    shape, target = jnp.shape(value), jnp.shape(leaf)
    try:
        fits = jnp.broadcast_shapes(shape, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"{name} has shape {shape}, which does not broadcast to a state of shape {target}")


def one_time(x: Any) -> Any:
    """Return the shapes of what has a leading time axis at one time."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), x)


def check_rows(name: str, x: Any, array: Any) -> Any:
    """Return an array that has a row for each time; raise `ShapeError` if it has others than `x` has times."""
    times = jnp.shape(jax.tree.leaves(x)[0])[0]
    if jnp.shape(array)[0] != times:
        raise ShapeError(
            f"{name}: an array of shape {jnp.shape(array)} has {jnp.shape(array)[0]} rows, but there are {times} "
            "observation times"
        )
    return array
