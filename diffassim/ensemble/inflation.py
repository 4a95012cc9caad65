"""Inflation: what is done to the anomalies before and after an analysis, against too small a spread."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete, require_positive
from diffassim.core.pytree import Pytree
from diffassim.covariances import Covariance
from diffassim.methods.members import anomalies, mean, recombine, spread

__all__ = [
    "AdditiveInflation",
    "Inflation",
    "Inflations",
    "PosteriorInflation",
    "PriorInflation",
    "RelaxToPriorPerturbations",
    "RelaxToPriorSpread",
    "as_inflation",
]


class Inflation(Pytree):
    """Base of all inflations: `before` changes the prior, `after` the posterior; the mean stays."""

    @property
    def random(self) -> bool:
        """Whether `after` draws random numbers."""
        return False

    def check(self, name: str, x: Any) -> None:
        """Raise an error, naming `name`, unless it fits a state like `x`."""

    def before(self, prior: Any) -> Any:
        """Return the prior ensemble that is analysed."""
        return prior

    def after(self, prior: Any, posterior: Any, key: Any = None) -> Any:
        """Return the posterior ensemble that is handed on; `prior` is the one that was analysed, `key` for draws."""
        return posterior


class PriorInflation(Inflation):
    r"""\(X_f \leftarrow r X_f\) before the analysis.

    Args:
        factor: r > 0, a number.

    Raises:
        ConfigurationError: if the factor is not finite and positive.

    Example:
        >>> PriorInflation(2.0).before(jnp.array([1.0, 3.0])).tolist()
        [0.0, 4.0]

    Source: Anderson and Anderson (1999), section 3d.
    """

    factor: Any

    def __post_init__(self) -> None:
        require_positive("PriorInflation: factor", self.factor, "1 is no inflation.")

    def before(self, prior: Any) -> Any:
        """Return the prior with anomalies multiplied by the factor."""
        return recombine(mean(prior), tree.scale(self.factor, anomalies(prior)))


class PosteriorInflation(Inflation):
    r"""\(X_a \leftarrow r X_a\) after the analysis; what a plain number means.

    Args:
        factor: r > 0, a number.

    Raises:
        ConfigurationError: if the factor is not finite and positive.

    Example:
        >>> PosteriorInflation(2.0).after(None, jnp.array([1.0, 3.0])).tolist()
        [0.0, 4.0]

    Source: Sakov and Oke (2008), section 4.
    """

    factor: Any

    def __post_init__(self) -> None:
        require_positive("PosteriorInflation: factor", self.factor, "1 is no inflation.")

    def after(self, prior: Any, posterior: Any, key: Any = None) -> Any:
        """Return the posterior with anomalies multiplied by the factor."""
        return recombine(mean(posterior), tree.scale(self.factor, anomalies(posterior)))


class RelaxToPriorPerturbations(Inflation):
    r"""\(X_a \leftarrow (1 - \alpha) X_a + \alpha X_f\).

    Args:
        alpha: share of the prior anomalies, in [0, 1].

    Raises:
        ConfigurationError: if alpha is outside [0, 1].

    Example:
        >>> RelaxToPriorPerturbations(0.5).after(jnp.array([0.0, 4.0]), jnp.array([1.0, 3.0])).tolist()
        [0.5, 3.5]

    Source: Zhang, Snyder and Sun (2004), equation 5.
    """

    alpha: Any

    def __post_init__(self) -> None:
        _require_share("RelaxToPriorPerturbations: alpha", self.alpha)

    def after(self, prior: Any, posterior: Any, key: Any = None) -> Any:
        """Return the posterior with anomalies drawn to those of the prior."""
        X_a, X_f = anomalies(posterior), anomalies(prior)
        return recombine(mean(posterior), tree.axpy(self.alpha, tree.subtract(X_f, X_a), X_a))


class RelaxToPriorSpread(Inflation):
    r"""\(X_a \leftarrow X_a (1 + \alpha (\sigma_f - \sigma_a) / \sigma_a)\), component by component.

    Where the posterior has no spread it stays without.

    Args:
        alpha: share of the prior spread, in [0, 1].

    Raises:
        ConfigurationError: if alpha is outside [0, 1].

    Example:
        >>> RelaxToPriorSpread(0.5).after(jnp.array([0.0, 4.0]), jnp.array([1.0, 3.0])).round(6).tolist()
        [0.5, 3.5]

    Source: Whitaker and Hamill (2012), equation 2.
    """

    alpha: Any

    def __post_init__(self) -> None:
        _require_share("RelaxToPriorSpread: alpha", self.alpha)

    def after(self, prior: Any, posterior: Any, key: Any = None) -> Any:
        """Return the posterior with its spread drawn to that of the prior."""

        def widened(X: Any, before: Any, after: Any) -> Any:
            flat = after == 0
            excess = jnp.where(flat, 0, (before - after) / jnp.where(flat, 1, after))
            return X * (1 + jnp.asarray(self.alpha, X.dtype) * excess)[None]

        X = jax.tree.map(widened, anomalies(posterior), spread(prior), spread(posterior))
        return recombine(mean(posterior), X)


class AdditiveInflation(Inflation):
    r"""\(x_{a,i} \leftarrow x_{a,i} + q_i\), \(q_i \sim N(0, Q)\), after every analysis.

    The draws are centered, so that the mean stays; the sample covariance grows by Q on average. They go through the
    model to the next analysis, unlike the model error `Q` of a filter, which is added there. Derivatives hold for
    fixed draws.

    Args:
        Q: covariance of what is added.

    Raises:
        ConfigurationError: if Q is no covariance.

    Example:
        >>> import diffassim as da
        >>> inflation = AdditiveInflation(da.covariances.Diagonal(std=0.1))
        >>> members = inflation.after(None, jnp.array([[1.0], [3.0]]), jax.random.key(0))
        >>> round(float(members.mean()), 5)
        2.0

    Source: Mitchell and Houtekamer (2000); after the analysis: Whitaker and Hamill (2012).
    """

    Q: Any

    def __post_init__(self) -> None:
        if not isinstance(self.Q, Covariance):
            raise ConfigurationError(f"AdditiveInflation: Q must be a covariance, found {type(self.Q).__name__}")

    @property
    def random(self) -> bool:
        """Whether `after` draws random numbers: always."""
        return True

    def check(self, name: str, x: Any) -> None:
        """Raise an error, naming `name`, unless Q fits a state like `x`."""
        self.Q.check(name, x)

    def after(self, prior: Any, posterior: Any, key: Any = None) -> Any:
        """Return the posterior with centered draws added."""
        return tree.add(posterior, anomalies(self.Q.sample(key, posterior)))


class Inflations(Inflation):
    """Several inflations in turn; what a tuple means.

    Args:
        parts: tuple of `Inflation`s or numbers.

    Example:
        >>> Inflations((2.0, PriorInflation(3.0))).after(None, jnp.array([1.0, 3.0])).tolist()
        [0.0, 4.0]
    """

    parts: Any

    def __post_init__(self) -> None:
        self._set(parts=tuple(as_inflation(part) for part in self.parts))

    @property
    def random(self) -> bool:
        """Whether one of them draws random numbers."""
        return any(part.random for part in self.parts)

    def check(self, name: str, x: Any) -> None:
        """Raise an error, naming `name`, unless each of them fits a state like `x`."""
        for part in self.parts:
            part.check(name, x)

    def before(self, prior: Any) -> Any:
        """Return the prior after all of them."""
        for part in self.parts:
            prior = part.before(prior)
        return prior

    def after(self, prior: Any, posterior: Any, key: Any = None) -> Any:
        """Return the posterior after all of them."""
        for number, part in enumerate(self.parts):
            own = jax.random.fold_in(key, number) if part.random else None
            posterior = part.after(prior, posterior, own)
        return posterior


def as_inflation(inflation: Any) -> Inflation:
    """Return the inflation itself, `PosteriorInflation` of a number, or `Inflations` of a tuple."""
    if isinstance(inflation, Inflation):
        return inflation
    return Inflations(inflation) if isinstance(inflation, tuple) else PosteriorInflation(inflation)


def _require_share(name: str, value: Any) -> None:
    known = concrete(value)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ConfigurationError(f"{name} must be in [0, 1], but is {value}; 0 is no relaxation")
