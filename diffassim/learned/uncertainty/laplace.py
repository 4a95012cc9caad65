"""The posterior of a network's last layer, in closed form."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, cholesky

from diffassim.core.errors import ShapeError, require_finite
from diffassim.core.pytree import Pytree

__all__ = ["LastLayerLaplace"]


class LastLayerLaplace(Pytree):
    r"""Bayesian linear regression on the features that a network's last layer sees.

    .. math:: y = W^\top \phi(x) + \varepsilon,\quad W \sim N(0, \tau^2 I),\ \varepsilon \sim N(0, \sigma^2)
        \ \Rightarrow\ W \mid \mathrm{data} \sim N(\hat W, P),\quad
        P = (\Phi^\top \Phi / \sigma^2 + I / \tau^2)^{-1}

    It costs one factorization and needs no other training. Features should hold a constant for the bias. Prior and
    noise are those of the largest evidence, by its fixed-point equations; with square errors the Laplace approximation
    of the last layer is exact.

    Args:
        weights: mean of the weights, shape (feature, output).
        root: lower Cholesky factor of the precision of one output's weights, in units of 1 / noise.
        noise: sigma, one for all outputs.
        prior: tau.

    Example:
        >>> x = jnp.linspace(-1, 1, 50)
        >>> features = jnp.stack([x, jnp.ones(50)], axis=1)
        >>> fitted = LastLayerLaplace.fit(features, 3 * x[:, None] + 0.1 * jnp.sin(40 * x)[:, None])
        >>> mean, std = fitted(jnp.array([[0.0, 1.0], [9.0, 1.0]]))
        >>> bool(jnp.all(std[1] > 1.5 * std[0]))  # far from the data
        True

    Source: MacKay (1992), sections 4 and 5; for networks: Daxberger et al. (2021).
    """

    weights: Any
    root: Any
    noise: Any
    prior: Any

    @classmethod
    def fit(cls, features: Any, targets: Any, *, noise: Any = None, prior: Any = None, rounds: int = 50) -> Any:
        """Fit to samples.

        Args:
            features: shape (sample, feature).
            targets: shape (sample, output).
            noise: sigma, if it is known.
            prior: tau, if it is known.
            rounds: iterations for what is not known (static).

        Raises:
            ShapeError: if samples do not agree.
            DataError: if there is something that is not finite.
        """
        features, targets = jnp.asarray(features), jnp.asarray(targets)
        if features.ndim != 2 or targets.ndim != 2 or features.shape[0] != targets.shape[0]:
            raise ShapeError(
                f"LastLayerLaplace: features {features.shape} and targets {targets.shape} must be (sample, feature) "
                "and (sample, output)"
            )
        require_finite("LastLayerLaplace: features and targets", (features, targets))
        n, size = features.shape
        outputs = targets.shape[1]
        G, c = features.T @ features, features.T @ targets
        eye = jnp.eye(size, dtype=G.dtype)
        s2 = jnp.var(targets) if noise is None else jnp.asarray(noise, G.dtype) ** 2
        t2 = jnp.asarray(1.0, G.dtype) if prior is None else jnp.asarray(prior, G.dtype) ** 2

        def solved(s2: Any, t2: Any) -> tuple[Any, Any]:
            root = cholesky(G + (s2 / t2) * eye, lower=True)
            return root, cho_solve((root, True), c)

        def improve(carry: Any, _: Any) -> tuple[Any, None]:
            s2, t2 = carry
            root, W = solved(s2, t2)
            # Weights that the data determine, out of all.
            known = size - (s2 / t2) * jnp.trace(cho_solve((root, True), eye))
            misfit = jnp.sum((targets - features @ W) ** 2)
            s2 = misfit / (outputs * jnp.maximum(n - known, 1)) if noise is None else s2
            t2 = jnp.sum(W**2) / (outputs * jnp.maximum(known, 1e-6)) if prior is None else t2
            smallest = jnp.finfo(G.dtype).tiny ** 0.5
            return (jnp.maximum(s2, smallest), jnp.maximum(t2, smallest)), None

        (s2, t2), _ = lax.scan(improve, (s2, t2), length=rounds)
        root, W = solved(s2, t2)
        return cls(W, root, jnp.sqrt(s2), jnp.sqrt(t2))

    def __call__(self, features: Any) -> tuple[Any, Any]:
        """Return mean and standard deviation of the network's output, without the noise, each of shape (..., output).

        Args:
            features: shape (..., feature).
        """
        flat = features.reshape(-1, features.shape[-1])
        mean = flat @ self.weights
        variance = self.noise**2 * jnp.sum(flat.T * cho_solve((self.root, True), flat.T), axis=0)
        std = jnp.broadcast_to(jnp.sqrt(variance)[:, None], mean.shape)
        shape = (*features.shape[:-1], self.weights.shape[1])
        return mean.reshape(shape), std.reshape(shape)
