"""Split Gibbs sampling: in turn from what the observations and what the prior make of the other's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core import tree
from diffassim.core.checks import count_of
from diffassim.core.errors import require_positive
from diffassim.core.pytree import static
from diffassim.ensemble.score.reverse import geometric_levels, reverse_diffusion
from diffassim.learned.priors.base import GenerativePrior
from diffassim.learned.priors.posterior import Guidance, PosteriorSampler

__all__ = ["SplitGibbs"]


class SplitGibbs(PosteriorSampler):
    r"""Draws from \(p(x)\, N(u; x, \rho^2 I)\, L_\rho(u)\), x and u in turn.

    Given u, x is what is behind noise of the size \(\rho\): the reverse diffusion from that level on, exact for any
    prior. Given x, u moves by the gradient of the likelihood and by noise,

    .. math::
        u = x + \rho^2 A^\top d + \rho\, (I - \rho^2 A^\top A)^{1/2} \eta,\qquad d = R^{-1/2} (y - H(x)),\quad
        A = R^{-1/2} H'(x)

    which is exact for a linear H and the likelihood \(L_\rho\) with the error covariance \(R - \rho^2 H H^\top\): what
    the coupling adds is taken off beforehand, so that x is a draw from the posterior itself. The coupling is therefore
    bounded by the most precise observation, and a start is moved by about \(\sqrt{\mathrm{sweeps}}\, \rho\): this
    corrects draws of `Guidance` rather than replacing them. In normalized units.

    Args:
        sweeps: turns (static).
        coupling: largest \(\rho\), in units of the prior's spread; it is at most half of the smallest error with which
            something is observed.
        levels: noise levels of each reverse diffusion (static).
        first: method that draws the start.

    Raises:
        ConfigurationError: if the number of sweeps or levels, or the coupling, is impossible.

    Source: Vono, Dobigeon and Chainais (2019) for the split; Wu et al. (2024), algorithm 1, with a diffusion prior, at
    whose end the coupling stays in the likelihood.
    """

    sweeps: int = static(default=32)
    coupling: Any = 0.3
    levels: int = static(default=12)
    first: Any = Guidance()

    def __post_init__(self) -> None:
        count_of("SplitGibbs: sweeps", self.sweeps, least=1)
        count_of("SplitGibbs: levels", self.levels, least=2)
        require_positive("SplitGibbs: coupling", self.coupling)

    def draw(self, prior: GenerativePrior, innovation: Callable[[Any], Any], key: Any) -> Any:
        """Return one draw, normalized."""
        first_key, key = jax.random.split(key)

        def sweep(x: Any, key: Any) -> tuple[Any, None]:
            keys = jax.random.split(key, self.levels + 1)
            u, rho = self._observed(innovation, x, prior.noise(keys[0]))
            levels = geometric_levels(rho, rho / 20, self.levels)
            return reverse_diffusion(prior.denoise, u, levels, churn=1.0, noise=prior.noise, keys=keys[1:]), None

        x, _ = lax.scan(sweep, self.first.draw(prior, innovation, first_key), jax.random.split(key, self.sweeps))
        return x

    def _observed(self, innovation: Callable[[Any], Any], x: Any, eta: Any) -> tuple[Any, Any]:
        """Return u given x, and the coupling."""
        d, push = jax.linearize(innovation, x)
        pull = jax.linear_transpose(push, x)

        def product(s: Any) -> Any:
            return pull(push(s))[0]

        rho = jnp.asarray(self.coupling, x.dtype)
        squared = jnp.minimum(rho**2, 0.25 / jnp.maximum(_largest(product, x), 0.25 / rho**2))

        def once(s: Any) -> Any:
            return squared * product(s)

        # The root as its series, whose argument is at most a quarter.
        second = once(once(eta))
        xi = eta - once(eta) / 2 - second / 8 - once(second) / 16
        return x - squared * pull(d)[0] + jnp.sqrt(squared) * xi, jnp.sqrt(squared)


def _largest(product: Callable[[Any], Any], x: Any, iterations: int = 6) -> Any:
    """Return about the largest eigenvalue of a symmetric product, from above: powers of it, and what they grow by."""

    def step(s: Any, _: Any) -> tuple[Any, Any]:
        image = product(s)
        size = tree.norm(image)
        return image / jnp.where(size > 0, size, 1), size

    start = jnp.ones_like(x) + 0.5 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    _, sizes = lax.scan(step, start / tree.norm(start), length=iterations)
    return 1.1 * sizes[-1]
