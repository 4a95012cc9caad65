"""The posterior of a network's last layer, in closed form."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from diffassim.core.checks import count_of, real_array
from diffassim.core.errors import DataError, ShapeError, require_finite, require_positive
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
        root: lower triangular factor of the precision of one output's weights, in units of 1 / noise.
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
            DataError: if there is something that is not finite, or no sample.
            ConfigurationError: if noise or prior are not positive.
        """
        features, targets = (
            jnp.asarray(real_array(f"LastLayerLaplace: {name}", each))
            for name, each in (("features", features), ("targets", targets))
        )
        for name, given in (("noise", noise), ("prior", prior)):
            if given is not None:
                require_positive(f"LastLayerLaplace: {name}", given)
        rounds = count_of("LastLayerLaplace: rounds", rounds, 1)
        if features.ndim != 2 or targets.ndim != 2 or features.shape[0] != targets.shape[0]:
            raise ShapeError(
                f"LastLayerLaplace: features {features.shape} and targets {targets.shape} must be (sample, feature) "
                "and (sample, output)"
            )
        require_finite("LastLayerLaplace: features and targets", (features, targets))
        n, size = features.shape
        if not n:
            raise DataError("LastLayerLaplace: there is no sample")
        outputs, eye = targets.shape[1], jnp.eye(size, dtype=features.dtype)
        targets = targets.astype(features.dtype)
        # Triangular factors instead of products of features, which square their condition number.
        reduced = jnp.linalg.qr(jnp.concatenate([features, targets], axis=1), mode="r")
        F, y, left = reduced[:size, :size], reduced[:size, size:], jnp.sum(reduced[size:, size:] ** 2)
        smallest = jnp.finfo(F.dtype).tiny ** 0.5
        least = jnp.maximum((8 * size * jnp.finfo(F.dtype).eps) ** 2 * jnp.sum(F**2), smallest)  # lost in rounding
        s2 = jnp.maximum(jnp.var(targets), smallest) if noise is None else jnp.asarray(noise, F.dtype) ** 2
        t2 = jnp.asarray(1.0, F.dtype) if prior is None else jnp.asarray(prior, F.dtype) ** 2

        def solved(s2: Any, t2: Any) -> tuple[Any, Any, Any]:
            ratio = jnp.maximum(s2 / t2, least)
            Q, upper = jnp.linalg.qr(jnp.concatenate([F, jnp.sqrt(ratio) * eye]))
            return upper.T, solve_triangular(upper, Q[: len(F)].T @ y), ratio

        def improve(carry: Any, _: Any) -> tuple[Any, None]:
            s2, t2 = carry
            root, W, ratio = solved(s2, t2)
            # Weights that the data determine, out of all.
            known = size - ratio * jnp.sum(solve_triangular(root, eye, lower=True) ** 2)
            misfit = left + jnp.sum((y - F @ W) ** 2)
            t2 = jnp.sum(W**2) / (outputs * jnp.maximum(known, 1e-6)) if prior is None else t2
            t2 = jnp.maximum(t2, smallest)
            s2 = jnp.maximum(misfit / (outputs * jnp.maximum(n - known, 1)), least * t2) if noise is None else s2
            return (s2, t2), None

        (s2, t2), _ = lax.scan(improve, (s2, t2), length=rounds)
        root, W, _ = solved(s2, t2)
        return cls(W, root, jnp.sqrt(s2), jnp.sqrt(t2))

    def __call__(self, features: Any) -> tuple[Any, Any]:
        """Return mean and standard deviation of the network's output, without the noise, each of shape (..., output).

        Args:
            features: shape (..., feature).

        Raises:
            ShapeError: if there is another number of features than in `fit`.
        """
        features = jnp.asarray(features)
        if features.shape[-1:] != self.weights.shape[:1]:
            raise ShapeError(
                f"LastLayerLaplace: features of shape {features.shape}, but it was fitted to {self.weights.shape[0]}"
            )
        flat = features.reshape(-1, features.shape[-1])
        mean = flat @ self.weights
        variance = self.noise**2 * jnp.sum(flat.T * cho_solve((self.root, True), flat.T), axis=0)
        std = jnp.broadcast_to(jnp.sqrt(variance)[:, None], mean.shape)
        shape = (*features.shape[:-1], self.weights.shape[1])
        return mean.reshape(shape), std.reshape(shape)
