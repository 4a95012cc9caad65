"""Networks trained alike from different first weights: where they disagree, they do not know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.partition import compilable
from diffassim.core.pytree import Pytree

__all__ = ["DeepEnsemble"]


class DeepEnsemble(Pytree):
    r"""Networks of one architecture as one callable; its output is their mean.

    .. math:: \bar N(x) = \frac1M \sum_i N_i(x),\qquad s^2(x) = \frac1{M-1} \sum_i (N_i(x) - \bar N(x))^2

    It stands wherever a network stands. All members are trained in one call of `fit` with `loss`, each on its own
    random part of every batch.

    Args:
        members: networks as one pytree, with a leading axis on every leaf.

    Raises:
        ConfigurationError: if there are fewer than two members, or leaves have no common leading axis.

    Example:
        >>> from diffassim.learned import Network
        >>> three = DeepEnsemble.of([Network(jnp.multiply, jnp.array(w)) for w in (1.0, 2.0, 3.0)])
        >>> float(three(jnp.array(1.0))), float(three.spread(jnp.array(1.0)))
        (2.0, 1.0)

    Source: Lakshminarayanan, Pritzel and Blundell (2017), section 2.4.
    """

    members: Any

    def __post_init__(self) -> None:
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(self.members) if hasattr(leaf, "shape")}
        if len(sizes) > 1 or (sizes <= {(), (1,)} and sizes):
            raise ConfigurationError(
                f"DeepEnsemble: every leaf needs the same leading axis of two or more members, found {sorted(sizes)}"
            )

    @classmethod
    def of(cls, networks: Sequence[Any]) -> DeepEnsemble:
        """Stack networks.

        Raises:
            ConfigurationError: if there are fewer than two.
            ShapeError: if they are not of one architecture.
        """
        if len(networks) < 2:
            raise ConfigurationError(f"DeepEnsemble: {len(networks)} network(s) cannot disagree; give at least two")
        networks = [compilable(f"DeepEnsemble: network {k}", network) for k, network in enumerate(networks)]
        structure = jax.tree.structure(networks[0])
        for k, network in enumerate(networks):
            if jax.tree.structure(network) != structure or not tree.same_shapes(network, networks[0]):
                raise ShapeError(f"DeepEnsemble: network {k} is of another architecture than network 0")
        return cls(jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks))

    @property
    def size(self) -> int:
        """Number of members."""
        return jax.tree.leaves(self.members)[0].shape[0]

    def outputs(self, *inputs: Any, key: Any = None) -> Any:
        """Return the outputs of all members, with a leading axis; with a key each draws for itself (dropout)."""
        if key is None:
            return jax.vmap(lambda network: network(*inputs))(self.members)
        return jax.vmap(lambda network, key: network(*inputs, key=key))(self.members, jax.random.split(key, self.size))

    def __call__(self, *inputs: Any, key: Any = None) -> Any:
        """Return their mean."""
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), self.outputs(*inputs, key=key))

    def spread(self, *inputs: Any, key: Any = None) -> Any:
        """Return their standard deviation."""
        return jax.tree.map(lambda leaf: jnp.std(leaf, axis=0, ddof=1), self.outputs(*inputs, key=key))

    @staticmethod
    def loss(each: Callable[[Any, Any, Any], Any], share: float = 0.8) -> Callable[[Any, Any, Any], Any]:
        """Return a loss for `fit` of all members: the sum of theirs, so that each is trained as if alone.

        Args:
            each: (network, batch, key) -> scalar.
            share: part of every batch that a member sees, drawn for itself.

        Raises:
            ConfigurationError: if the share is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise ConfigurationError(f"DeepEnsemble.loss: share={share} must lie between 0 and 1")

        def total(ensemble: DeepEnsemble, batch: Any, key: Any) -> Any:
            count = jax.tree.leaves(batch)[0].shape[0]
            seen = max(int(share * count), 1)

            def one(network: Any, key: Any) -> Any:
                draw, use = jax.random.split(key)
                rows = jax.random.choice(draw, count, (seen,), replace=False)
                return each(network, jax.tree.map(lambda leaf: leaf[rows], batch), use)

            return jnp.sum(jax.vmap(one)(ensemble.members, jax.random.split(key, ensemble.size)))

        return total
