"""Uncorrelated errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete, require_positive
from diffassim.covariances.base import Covariance, NotAvailableError, as_field, check_field

__all__ = ["Diagonal", "Zero"]


class Diagonal(Covariance):
    r"""Independent errors, \(B = \mathrm{diag}(\sigma^2)\), on an array or any pytree.

    Args:
        std: standard deviation \(\sigma\), in the unit of the state: a number for all components, an array that
            broadcasts to the state (a leading time axis is allowed for observation errors), or a pytree prefix of such.
            NaN in an array is the error of an observation that is missing as well.

    Raises:
        ConfigurationError: if a standard deviation is not finite and positive (or NaN in an array of others).

    Example:
        >>> Diagonal(std=2.0).apply(jnp.ones(3)).tolist()
        [4.0, 4.0, 4.0]
    """

    std: Any

    def __post_init__(self) -> None:
        _require_positive("Diagonal: std", self.std, "Use covariances.Zero() for a component that is known exactly.")

    @classmethod
    def from_variance(cls, variance: Any) -> Diagonal:
        """Build from variances instead of standard deviations."""
        _require_positive("Diagonal: variance", variance)
        return cls(jax.tree.map(jnp.sqrt, jax.tree.map(jnp.asarray, variance)))

    @property
    def uncorrelated(self) -> bool:
        """True."""
        return True

    def _map(self, function: Any, x: Any) -> Any:
        def over_subtree(std: Any, subtree: Any) -> Any:
            return jax.tree.map(lambda leaf: function(leaf, as_field(std, leaf)), subtree)

        return jax.tree.map(over_subtree, self.std, x)

    def sqrt(self, v: Any) -> Any:
        """Return std * v."""
        return self._map(lambda leaf, std: leaf * std, v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return std * x."""
        return self.sqrt(x)

    def whiten(self, x: Any) -> Any:
        """Return x / std."""
        return self._map(lambda leaf, std: leaf / std, x)

    def solve(self, x: Any) -> Any:
        """Return x / std^2."""
        return self._map(lambda leaf, std: leaf / std / std, x)

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return 2 sum log std."""
        logs = self._map(lambda leaf, std: 2 * jnp.sum(jnp.log(jnp.broadcast_to(std, jnp.shape(leaf)))), x)
        first, *rest = jax.tree.leaves(logs)
        return sum(rest, first)

    def masked(self, mask: Any) -> Diagonal:
        """Return the covariance with unit variance where something is missing."""

        def fill(std: Any, subtree: Any) -> Any:
            def fill_leaf(m: Any) -> Any:
                given = jnp.asarray(std)
                given = given.reshape((1,) * (m.ndim - given.ndim) + given.shape)
                return jnp.where(m, given, jnp.ones((), given.dtype))

            return jax.tree.map(fill_leaf, subtree)

        return Diagonal(jax.tree.map(fill, self.std, jax.tree.map(jnp.asarray, mask)))

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless std is a prefix of the state's structure and broadcasts to its leaves.

        Raises:
            ConfigurationError: if a standard deviation is NaN.
        """
        for std, leaf in self._pairs(name, x):
            check_field(f"{name}: Diagonal std", std, leaf)
            known = concrete(std)
            if known is not None and np.isnan(known).any():
                raise ConfigurationError(
                    f"{name}: Diagonal std holds {np.isnan(known).sum()} NaN of {known.size}; only an observation that "
                    "is missing needs no error"
                )

    def check_error(self, name: str, x: Any, mask: Any) -> None:
        """Raise unless std broadcasts to the observations of all times, and no observed one has NaN as its error."""
        missing = jax.tree.leaves(mask)
        for (std, leaf), m in zip(self._pairs(name, x), missing, strict=True):
            shape, target = jnp.shape(std), jnp.shape(leaf)
            if len(shape) == len(target) and shape[1:] == target[1:] and shape[:1] not in (target[:1], (1,)):
                raise ShapeError(
                    f"{name}: Diagonal std of shape {shape} has a row for each of {shape[0]} times, but the "
                    f"observations have {target[0]}; give one for each time, or one for all of shape {target[1:]}"
                )
            check_field(f"{name}: Diagonal std", std, leaf)
            known, observed = concrete(std), concrete(m)
            if known is None or observed is None or not np.isnan(known).any():
                continue
            bad = np.isnan(np.broadcast_to(known, target)) & observed.astype(bool)
            if bad.any():
                raise DataError(
                    f"{name}: the error of {bad.sum()} observed value(s) is NaN, the first at index "
                    f"{tuple(int(i) for i in np.argwhere(bad)[0])}; give their std, or mask them"
                )

    def rows(self, x: Any, take: Callable[[Any], Any], otherwise: Callable[[Any], Any] = lambda array: array) -> Self:
        """Return the covariance of some times; a std has rows if it has as many axes as the values with their times."""

        def of(std: Any, subtree: Any) -> Any:
            found = jax.tree.map(lambda leaf: _has_rows(std, leaf), subtree)
            each = set(jax.tree.leaves(found))
            if len(each) > 1:  # one array that is a row for one part of the values and a field for another
                return jax.tree.map(lambda rows: take(std) if rows else otherwise(std), found)
            return take(std) if True in each else otherwise(std)

        return self._with(std=jax.tree.map(of, self.std, x))

    def _pairs(self, name: str, x: Any) -> list[tuple[Any, Any]]:
        """Return each leaf of x with its std."""
        pairs: list[tuple[Any, Any]] = []
        try:
            jax.tree.map(lambda std, part: pairs.extend((std, leaf) for leaf in jax.tree.leaves(part)), self.std, x)
        except ValueError as error:
            raise ShapeError(f"{name}: the std given to Diagonal has not the structure of the state: {error}") from None
        return pairs


def _has_rows(std: Any, leaf: Any) -> bool:
    return 0 < jnp.ndim(std) == jnp.ndim(leaf) and jnp.shape(std)[0] != 1  # one row serves all times


def _require_positive(name: str, value: Any, advice: str = "") -> None:
    """Raise `ConfigurationError` unless all known entries are positive; arrays may have NaN beside numbers."""
    for leaf in jax.tree.leaves(value):
        known = concrete(leaf)
        if known is not None and known.ndim and not np.isnan(known).all():
            known = known[~np.isnan(known)]
        require_positive(name, known, advice)


class Zero(Covariance):
    """No error: a component that is known, or that is not to be controlled.

    Its control vector has no entries, so it costs nothing. It is singular: there is no `whiten`, `solve` or `logdet`.

    Example:
        >>> Zero().sqrt(Zero().control_like(jnp.ones(3))).tolist()
        [0.0, 0.0, 0.0]
    """

    def control_like(self, x: Any) -> Any:
        """Return arrays without entries: the state's shape, then an axis of length zero."""

        def empty(leaf: Any) -> Any:  # of floating-point numbers, also for a counter, a mask or a random key
            inexact = jnp.issubdtype(leaf.dtype, jnp.inexact) if hasattr(leaf, "dtype") else isinstance(leaf, float)
            return jnp.zeros((*jnp.shape(leaf), 0), jnp.result_type(leaf if inexact else float))

        return jax.tree.map(empty, x)

    def sqrt(self, v: Any) -> Any:
        """Return zeros (as the empty sum, so that batching and differentiation see the control vector)."""
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=-1), v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return the empty control vector."""
        return self.control_like(x)

    def _unavailable(self, operation: str, advice: str = "") -> NotAvailableError:
        return super()._unavailable(
            operation,
            "A component without error has no density: leave it out, and give observations that are "
            "nearly perfect a small std.",
        )
