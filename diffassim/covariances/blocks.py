"""Independent errors of the parts of a pytree state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import jax
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances.base import Covariance

__all__ = ["Blocks"]


class Blocks(Covariance):
    """Block-diagonal covariance: one covariance for each part of the state.

    Args:
        blocks: a dict, tuple or state object whose entries are covariances, with the state's own structure down to
            where they stand. `Zero` marks parts that are not controlled.

    Example:
        >>> import jax.numpy as jnp
        >>> from diffassim.covariances import Diagonal, Zero
        >>> B = Blocks({"store": Diagonal(std=2.0), "flow": Zero()})
        >>> {k: float(v) for k, v in B.apply({"store": jnp.ones(()), "flow": jnp.ones(())}).items()}
        {'flow': 0.0, 'store': 4.0}
    """

    blocks: Any

    def _map(self, function: Any, *trees: Any) -> Any:
        return jax.tree.map(function, self.blocks, *trees, is_leaf=_is_covariance)

    @property
    def uncorrelated(self) -> bool:
        """Whether all blocks are."""
        return all(block.uncorrelated for block in jax.tree.leaves(self.blocks, is_leaf=_is_covariance))

    def control_like(self, x: Any) -> Any:
        """Return the control vectors of the blocks, in the structure of `blocks`."""
        return self._map(lambda block, part: block.control_like(part), x)

    def sqrt(self, v: Any) -> Any:
        """Return L v, block by block."""
        return self._map(lambda block, part: block.sqrt(part), v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x, block by block."""
        return self._map(lambda block, part: block.sqrt_transpose(part), x)

    def whiten(self, x: Any) -> Any:
        """Return W x, block by block."""
        return self._map(lambda block, part: block.whiten(part), x)

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x, block by block."""
        return self._map(lambda block, part: block.solve(part), x)

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return the sum of the blocks' log determinants."""
        parts = self._map(lambda block, part: block.logdet(part), x)
        first, *rest = jax.tree.leaves(parts)
        return sum(rest, first)

    def masked(self, mask: Any) -> Blocks:
        """Return the blocks' masked covariances."""
        return Blocks(self._map(lambda block, part: block.masked(part), mask))

    def variance(self, x: Any) -> Any:
        """Return the diagonals of the blocks."""
        return self._map(lambda block, part: block.variance(part), x)

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the blocks have the state's structure and each one fits its part."""
        for place, block, part in self._named(name, x):
            block.check(place, part)

    def check_error(self, name: str, x: Any, mask: Any) -> None:
        """Check each block with its part of the observations."""
        for (place, block, part), (*_, m) in zip(self._named(name, x), self._named(name, mask), strict=True):
            block.check_error(place, part, m)

    def rows(self, x: Any, take: Callable[[Any], Any], otherwise: Callable[[Any], Any] = lambda array: array) -> Self:
        """Return the blocks of some times."""
        return self._with(blocks=self._map(lambda block, part: block.rows(part, take, otherwise), x))

    def _named(self, name: str, x: Any) -> list[tuple[str, Covariance, Any]]:
        """Return for each block where it stands, and its part of x."""
        named, structure = jax.tree_util.tree_flatten_with_path(self.blocks, is_leaf=_is_covariance)
        try:
            parts = structure.flatten_up_to(x)
        except (ValueError, TypeError) as error:
            raise ShapeError(f"{name}: the structure of Blocks is not that of the state: {error}") from None
        for path, block in named:
            if not _is_covariance(block):
                raise ConfigurationError(
                    f"{name}{jax.tree_util.keystr(path)}: Blocks needs a covariance here, found {type(block).__name__}"
                )
        return [
            (name + jax.tree_util.keystr(path), block, part) for (path, block), part in zip(named, parts, strict=True)
        ]


def _is_covariance(node: Any) -> bool:
    return isinstance(node, Covariance)
