"""The ensemble score filter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.ensemble.score.base import TransportFilter, component_signal
from diffassim.ensemble.score.guidance import guided_mean
from diffassim.ensemble.score.reverse import normal_like, reverse_diffusion
from diffassim.methods.departures import Departures
from diffassim.methods.members import anomalies, mean, recombine, spread

__all__ = ["EnSF"]


class EnSF(TransportFilter):
    r"""Ensemble score filter: draws from the posterior by a reverse diffusion whose score the members give.

    The prior is a kernel density of the members, drawn together so that mean and variances stay,

    .. math::
        p(x) = \frac1N \sum_j N(x;\ c_j,\ h^2 D),\qquad c_j = \bar x_f + \sqrt{1 - h^2}\, x_j',\quad
        D = \mathrm{diag}\,\mathrm{var}\, x

    and the noise has the covariance \(\sigma^2 D\). The mean and covariance of x behind a noisy z are sums over the
    members with weights \(w_j \propto N(z; c_j, (h^2 + \sigma^2) D)\); observations enter by a gain with this
    covariance, at every noise level anew. Nothing is trained, and the prior may have any shape. The kernels know no
    covariances between components: those come from differences of members alone, as long as several have weight. With
    few members in many dimensions h is nearly one, and every component is analysed on its own.

    The published filter has point kernels and one kernel for each draw. Its likelihood term then vanishes as steps get
    small; here kernels have a width, and the result converges.

    Args:
        inflation, rotation, steps, iterations, largest, batch: as for `TransportFilter`.
        bandwidth: h in (0, 1]; 1 is a Gaussian prior. None: \(N^{-1/(n + 4)}\) for n components (Scott's rule).
        single: whether the kernels are one, h = 1, whatever the bandwidth: nothing is then summed over the members
            (static). Set where a bandwidth of 1 is known outside of traced code.

    Raises:
        ConfigurationError: if the bandwidth is not in (0, 1], or steps, iterations, largest or batch are impossible.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> prior = jax.random.normal(jax.random.key(0), (500, 1))
        >>> ensemble, _ = EnSF(steps=50).analyze(jax.random.key(1), prior, y)
        >>> bool(abs(ensemble.mean() - 1.5) < 0.15), bool(abs(ensemble.var() - 0.5) < 0.1)
        (True, True)

    Source: Bao, Zhang and Zhang (2024), section 3, for the score of an ensemble; kernels after Liu and West (2001),
    section 10.3.2; guidance with a covariance: Song et al. (2023).
    """

    bandwidth: Any = None
    single: bool = static(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = concrete(self.bandwidth)
        if known is not None and not ((known > 0) & (known <= 1)).all():
            raise ConfigurationError(f"EnSF: bandwidth must be in (0, 1], but is {self.bandwidth}; 1 is one Gaussian")

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers: always."""
        return True

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> Any:
        """Return the method that knows whether its kernels are one; see `SequentialMethod`."""
        h = concrete(self.bandwidth)
        return (self.replace(single=True) if h is not None and (h == 1).all() else self), None

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        center, X, scale = mean(ensemble), anomalies(ensemble), spread(ensemble)
        innovation, levels = self.innovation(streams), self.levels(component_signal(departures))
        N = jax.tree.leaves(X)[0].shape[0]
        h = N ** (-1 / (tree.size(center) + 4)) if self.bandwidth is None else self.bandwidth
        kernels = _Kernels(X, scale, jnp.asarray(h, levels.dtype) ** 2)
        behind = kernels.behind_one if self.single else kernels.behind

        def denoise(z: Any, sigma: Any) -> Any:
            known, covariance, std = behind(z, sigma)
            found = guided_mean(innovation, tree.add(center, known), covariance, self.iterations, std)
            return tree.subtract(found, center)

        def noise(key: Any) -> Any:
            return jax.tree.map(jnp.multiply, scale, normal_like(key, scale))

        def drawn(x: Any, keys: Any) -> Any:
            z = tree.axpy(levels[0], noise(keys[0]), x)
            return reverse_diffusion(denoise, z, levels, churn=1.0, noise=noise, keys=keys[1:])

        keys = jax.vmap(lambda k: jax.random.split(k, self.steps + 1))(jax.random.split(key, N))
        return recombine(center, self.each(drawn, X, keys))


class _Kernels(Pytree):
    """Kernel density of members, all in departures from their mean.

    Args:
        members: with a leading axis.
        scale: standard deviation of each component.
        squared: of the bandwidth.
    """

    members: Any
    scale: Any
    squared: Any

    def behind(self, z: Any, sigma: Any) -> tuple[Any, Any, Any]:
        """Return mean, product with the covariance, and standard deviations of x behind z = x + sigma scale noise."""
        total = self.squared + sigma**2
        c = tree.scale(jnp.sqrt(1 - self.squared), self.members)
        w = self._weights(c, z, total)
        middle = jax.tree.map(lambda leaf: jnp.tensordot(w.astype(leaf.dtype), leaf, 1), c)
        share = self.squared / total  # of z in the mean of one kernel
        own, between = sigma**2 * share, jnp.square(1 - share)
        found = tree.axpy(share, z, tree.scale(1 - share, middle))
        apart = jax.tree.map(lambda leaf, m: leaf - m[None], c, middle)

        def covariance(u: Any) -> Any:
            along = between * w * sum(
                jnp.tensordot(leaf, part, part.ndim).astype(w.dtype)
                for leaf, part in zip(jax.tree.leaves(apart), jax.tree.leaves(u), strict=True)
            )  # fmt: skip
            within = jax.tree.map(lambda part, s: own.astype(s.dtype) * s * s * part, u, self.scale)
            return jax.tree.map(lambda a, leaf: a + jnp.tensordot(along.astype(a.dtype), leaf, 1), within, apart)

        variance = jax.tree.map(
            lambda leaf, s: own.astype(s.dtype) * s * s + jnp.tensordot((between * w).astype(s.dtype), leaf**2, 1),
            apart, self.scale,
        )  # fmt: skip
        return found, covariance, jax.tree.map(safe_sqrt, variance)

    def behind_one(self, z: Any, sigma: Any) -> tuple[Any, Any, Any]:
        """Return what `behind` does for h = 1: one kernel around the mean."""
        share = 1 / (1 + sigma**2)
        own = sigma**2 * share

        def covariance(u: Any) -> Any:
            return jax.tree.map(lambda part, s: own.astype(s.dtype) * s * s * part, u, self.scale)

        return tree.scale(share, z), covariance, tree.scale(jnp.sqrt(own), self.scale)

    def _weights(self, c: Any, z: Any, total: Any) -> Float[Array, " N"]:
        """Return the share of each kernel in the density at z; components without spread do not count."""

        def closeness(leaf: Any, part: Any, s: Any) -> Any:  # products instead of all differences of all members
            constant = s == 0
            scaled = jnp.where(constant, 0, 1 / jnp.where(constant, 1, s) ** 2)
            axes = tuple(range(1, leaf.ndim))
            return jnp.tensordot(leaf, scaled * part, part.ndim) - 0.5 * jnp.sum(leaf**2 * scaled[None], axis=axes)

        parts = jax.tree.leaves(jax.tree.map(closeness, c, z, self.scale))
        return jax.nn.softmax(sum(parts[1:], parts[0]) / total)
