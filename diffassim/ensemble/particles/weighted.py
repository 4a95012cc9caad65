"""Weighted particles: members with the logarithms of their weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ShapeError, concrete
from diffassim.core.linalg import covariance_rows, safe_sqrt
from diffassim.core.pytree import Pytree
from diffassim.methods.members import check_ensemble

__all__ = ["Particles", "as_particles", "bandwidth", "jittered"]


class Particles(Pytree):
    r"""Members \(x_i\) with weights \(w_i\) of sum one.

    Args:
        members: pytree with a leading member axis.
        log_weights: log w_i, shape (N,); minus infinity is a particle without weight.

    Example:
        >>> particles = Particles(jnp.array([[0.0], [4.0]]), jnp.log(jnp.array([0.25, 0.75])))
        >>> round(float(particles.mean()[0]), 6)
        3.0
    """

    members: Any
    log_weights: Float[Array, " N"]

    @property
    def weights(self) -> Float[Array, " N"]:
        """The weights w_i."""
        return jnp.exp(self.log_weights)

    def effective_size(self) -> Float[Array, ""]:
        r"""Return \(1 / \sum_i w_i^2\), between 1 and N."""
        return jnp.exp(-jax.nn.logsumexp(2 * self.log_weights))

    def mean(self) -> Any:
        """Return the weighted mean."""
        w = self.weights
        return jax.tree.map(lambda leaf: jnp.tensordot(w.astype(leaf.dtype), _dead_to_zero(leaf, w), 1), self.members)

    def anomalies(self) -> Any:
        r"""Return \(\sqrt{w_i / (1 - \sum_j w_j^2)}\, (x_i - \bar x)\), whose products are the unbiased covariance."""
        w = self.weights
        rest = 1 - jnp.sum(w**2)
        alone = rest <= w.shape[0] * jnp.finfo(w.dtype).eps
        root = safe_sqrt(jnp.where(alone, 0, w / jnp.where(alone, 1, rest)))

        def of_leaf(leaf: Any, mean: Any) -> Any:
            return root.reshape((-1,) + (1,) * mean.ndim).astype(leaf.dtype) * (_dead_to_zero(leaf, w) - mean[None])

        return jax.tree.map(of_leaf, self.members, self.mean())

    def spread(self) -> Any:
        """Return the standard deviation of every component, with derivative zero where it is zero."""
        return jax.tree.map(lambda X: safe_sqrt(jnp.sum(jnp.square(X), axis=0)), self.anomalies())

    def total_spread(self) -> Float[Array, ""]:
        """Return the root of the variance averaged over all components of the state."""
        N = self.log_weights.shape[0]
        return tree.norm(self.anomalies()) / (tree.size(self.members) // N) ** 0.5


def as_particles(name: str, belief: Any) -> Particles:
    """Return the particles, checked; members alone have equal weights.

    Args:
        name: who asks, for the message.
        belief: `Particles`, or an ensemble.

    Raises:
        ShapeError: if it is no ensemble, there is not one weight for each member, or all weights are zero.
    """
    if not isinstance(belief, Particles):
        members = check_ensemble(name, belief)
        first = jax.tree.leaves(members)[0]
        N = first.shape[0]
        return Particles(members, jnp.full(N, -jnp.log(N), first.dtype))
    members, log_weights = check_ensemble(name, belief.members), jnp.asarray(belief.log_weights)
    N = jax.tree.leaves(members)[0].shape[0]
    if log_weights.shape != (N,):
        raise ShapeError(f"{name}: one log weight for each of {N} members is needed, found shape {log_weights.shape}")
    known = concrete(log_weights)
    if known is not None and not (known > -float("inf")).any() and not (known != known).any():
        raise ShapeError(f"{name}: all {N} particles have weight zero; give log_weights of which one is finite")
    return Particles(members, log_weights - jax.nn.logsumexp(log_weights))


def bandwidth(N: int, n: int) -> float:
    """Return Scott's bandwidth of a kernel of n dimensions for N particles, in units of their spread."""
    return float(N ** (-1 / (n + 4)))


def jittered(key: jax.Array, particles: Particles, indices: Any, jitter: Any, move_first: bool = False) -> Any:
    r"""Return the resampled members; further copies of a particle are moved by draws of a narrow kernel.

    The kernel is Gaussian with the weighted covariance times \(h^2\), \(h = \text{jitter}\, N^{-1/(n + 4)}\).

    Args:
        key: random key.
        particles: before resampling.
        indices: which are kept, in ascending order.
        jitter: factor of the bandwidth; None: no kernel.
        move_first: whether the first copy is moved as well.

    Returns:
        Members.

    Source: Silverman (1986), section 4.3, and Musso, Oudjane and Le Gland (2001) for the regularized filter.
    """
    kept = jax.tree.map(lambda leaf: leaf[indices], particles.members)
    if jitter is None:
        return kept
    rows = tree.flat_rows(particles.anomalies())
    N, n = rows.shape
    kernel = covariance_rows(rows.T @ rows) * (jnp.asarray(jitter, rows.dtype) * bandwidth(N, n))
    copy = jnp.concatenate([jnp.zeros(1, bool), indices[1:] == indices[:-1]]) | move_first
    noise = jnp.where(copy[:, None], jax.random.normal(key, (N, n), rows.dtype) @ kernel, 0)
    return tree.add(kept, tree.state_rows(noise, jax.tree.map(lambda leaf: leaf[0], kept)))


def _dead_to_zero(leaf: Any, w: Any) -> Any:
    """Return the members with zeros for those without weight, which may be anything but must not count."""
    return jnp.where((w == 0).reshape((-1,) + (1,) * (leaf.ndim - 1)), 0, leaf)
