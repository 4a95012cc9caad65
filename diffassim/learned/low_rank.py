"""Low-rank adapters: a large network is moved to a new task by few numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, untrained
from diffassim.learned.network import Network

__all__ = ["LowRankAdapted"]


class LowRankAdapted(Pytree):
    r"""A frozen network whose matrices are moved by products of thin ones.

    .. math:: W' = W + s\, A B,\qquad A \in \mathbb{R}^{n \times r},\; B \in \mathbb{R}^{r \times m}

    Gradients reach A and B alone, so that it can be trained like any network, without an optimizer that knows of it.
    B starts at zero: the adapted network is the given one, to rounding. Vectors (biases) and stacks of matrices, of
    which each slice along the first axes gets its own thin pair, are treated as what they are: only leaves with two or
    more axes are moved.

    Args:
        network: the frozen `Network`.
        left: A by leaf of the weights, None where a leaf is not moved.
        right: B, likewise.
        scale: s.

    Example:
        >>> net = Network(lambda w, x: x @ w, jnp.eye(3))
        >>> adapted = LowRankAdapted.create(net, rank=1, key=jax.random.key(0))
        >>> adapted(jnp.ones(3)).tolist(), adapted.count()
        ([1.0, 1.0, 1.0], 6)

    Source: Hu et al. (2022), section 4.1.
    """

    network: Any = untrained()
    left: Any
    right: Any
    scale: Any = untrained(default=1.0)

    @classmethod
    def create(cls, network: Network, *, rank: int, key: jax.Array, scale: float = 1.0) -> LowRankAdapted:
        """Build adapters that change nothing yet.

        Args:
            network: the trained network.
            rank: r, columns of A and rows of B.
            key: random key of A.
            scale: s.

        Raises:
            ConfigurationError: if the rank is not positive, or no weight of the network is a matrix.
        """
        rank = count_of("LowRankAdapted: rank", rank, 1)
        if not hasattr(network, "weights"):
            raise ConfigurationError(
                f"LowRankAdapted: found {type(network).__name__}, expected a Network; of a Normalized network adapt "
                "what is inside, normalized.replace(network=...); a module of Equinox becomes one by "
                "Network(lambda net, x: net(x), module)"
            )
        leaves, structure = jax.tree.flatten(network.weights)
        if not any(jnp.ndim(leaf) >= 2 for leaf in leaves):
            raise ConfigurationError("LowRankAdapted: no weight of the network is a matrix; fine-tune it as a whole")
        left: list[Any] = []
        right: list[Any] = []
        for leaf, k in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
            if jnp.ndim(leaf) < 2:
                left.append(None)
                right.append(None)
                continue
            *stack, n, m = jnp.shape(leaf)
            left.append(jax.random.normal(k, (*stack, n, rank), leaf.dtype) / n**0.5)
            right.append(jnp.zeros((*stack, rank, m), leaf.dtype))
        return cls(network, jax.tree.unflatten(structure, left), jax.tree.unflatten(structure, right), scale)

    def merged(self) -> Network:
        """Return an ordinary `Network` with the moved weights, as fast as the given one."""
        return self.network.replace(weights=self._weights(self.network.weights))

    def count(self) -> int:
        """Return how many numbers are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves((self.left, self.right)))

    def __call__(self, *inputs: Any, key: Any = None) -> Any:
        """Apply the adapted network."""
        frozen = stop_gradient(self.network)
        return frozen.replace(weights=self._weights(frozen.weights))(*inputs, key=key)

    def _weights(self, weights: Any) -> Any:
        leaves, structure = jax.tree.flatten(weights)
        thin = (structure.flatten_up_to(side) for side in (self.left, self.right))
        scale = stop_gradient(jnp.asarray(self.scale))
        moved = [
            leaf if A is None else leaf + (scale * (A @ B)).astype(leaf.dtype)
            for leaf, A, B in zip(leaves, *thin, strict=True)
        ]
        return jax.tree.unflatten(structure, moved)
