"""What the observations of a window can see, and how well-conditioned that makes the analysis."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.variational.products.posterior import Posterior, posterior

__all__ = ["Observability", "observability"]

SMALL = 2048  # components of a state up to which variances are computed one by one
UNSEEN = 0.01  # share of the uncertainty below which a reduction counts as none


class Observability(Pytree):
    r"""Result of `observability`; its text is a table.

    Args:
        posterior: the `Posterior`, for the directions themselves (`vectors`), draws, and more.
        eigenvalues: of the whitened Hessian \(I + A^\top A\), descending: prior over posterior variance of the
            direction; those that are left out are taken for one.
        size: components of the control vector.
        complete: whether all eigenpairs were asked for; else eigenvalues, degrees of freedom and directions are those
            of the leading part.
        used: degrees of freedom for signal by part of the control vector.
        sizes: components by part of the control vector.
        variance_ratio: posterior over prior variance, shaped like the state; NaN where the prior has none.
    """

    posterior: Posterior
    eigenvalues: np.ndarray
    used: dict[str, float]
    variance_ratio: Any
    sizes: dict[str, int] = static()
    size: int = static()
    complete: bool = static()

    @property
    def condition_number(self) -> float:
        """Ratio of the largest to the smallest eigenvalue of the whitened Hessian."""
        whole = self.complete and len(self.eigenvalues) == self.size
        least = self.eigenvalues[-1] if whole else 1.0
        return float(self.eigenvalues[0] / least) if len(self.eigenvalues) else 1.0

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom for signal."""
        return float(np.sum(1 - 1 / self.eigenvalues))

    @property
    def above_noise(self) -> int:
        """Directions whose signal exceeds the noise: the observations at least halve the variance."""
        return int(np.sum(self.eigenvalues >= 2))

    @property
    def unseen(self) -> int:
        """Directions whose variance the observations reduce by less than one percent; at most, if not complete."""
        return self.size - int(np.sum(1 - 1 / self.eigenvalues >= UNSEEN))

    def __str__(self) -> str:
        # A truncated spectrum cannot tell what is not observed from what was not asked for or has not converged.
        seen = int(np.sum(self.eigenvalues > 1))
        some = "" if self.complete else f", at least: {seen} pairs converged of the leading {len(self.eigenvalues)}"
        hidden = f", {self.unseen} not observed" if self.complete else ""
        leading = ", ".join(f"{value:.3g}" for value in self.eigenvalues[:6])
        lines = [
            f"eigenvalues of the whitened Hessian: {leading}{', ...' if len(self.eigenvalues) > 6 else ''}",
            f"condition number {self.condition_number:.3g}: about {np.sqrt(self.condition_number):.0f} "
            "conjugate-gradient iterations for each digit",
            f"degrees of freedom for signal {self.degrees_of_freedom:.2f} of {self.size}{some}",
            f"directions: {self.above_noise} with signal above noise{hidden}{some}",
            f"{'part of v':<16s} {'components':>11s} {'signal':>10s}",
            *(f"{name:<16s} {size:>11d} {float(self.used[name]):>10.2f}" for name, size in self.sizes.items()),
            f"{'variable':<16s} {'components':>11s} {'posterior/prior variance: mean, min, max':>42s} {'unseen':>7s}",
        ]
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variance_ratio):
            known = np.asarray(leaf)[np.isfinite(leaf)]
            name = jax.tree_util.keystr(path) or "state"
            if not known.size:
                lines.append(f"{name:<16s} {np.size(leaf):>11d} {'not controlled':>42s}")
                continue
            numbers = f"{known.mean():.3f}, {known.min():.3f}, {known.max():.3f}"
            unseen = int(np.sum(known > 1 - UNSEEN))
            lines.append(f"{name:<16s} {np.size(leaf):>11d} {numbers:>42s} {unseen:>7d}")
        return "\n".join(lines)


def observability(
    cost: Any, solution: Any, rank: int | None = None, *, draws: int | None = None, seed: int = 0
) -> Observability:
    r"""Return what the observations can see: eigenvalues, signal, and variance left in each variable.

    Matrix-free: a product with the linearized model and one with its adjoint for each eigenpair, and the square root
    of B for each variance or draw.

    Args:
        cost: the cost that was minimized.
        solution: its `Solution`.
        rank: number of leading eigenpairs (static); default: all (for small problems).
        draws: number of random vectors from which the variances are estimated, prior and posterior from the same
            ones; 0: exactly, one component after the other. Default: 0 up to a state of 2048 components, else 200.
        seed: of the draws and of the starting vector.

    Returns:
        `Observability`; `print` it.

    Raises:
        ConfigurationError: if the rank is not positive or larger than the control vector, or `draws` is negative.
        DataError: if the search met something that is not finite.

    Warns:
        AssimilationWarning: if the search did not converge.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> y = da.Observations(jnp.array([[2.0, jnp.nan]]), [0], error=da.covariances.Diagonal(std=3**-0.5))
        >>> cost = da.ThreeDVar(jnp.zeros(2), one, y)
        >>> found = observability(cost, da.minimize(cost))
        >>> found.eigenvalues.round(6).tolist(), found.unseen, found.variance_ratio.round(6).tolist()
        ([4.0, 1.0], 1, [0.25, 1.0])

    Source: Rabier and Courtier (1992); Fisher (2003), degrees of freedom; Rodgers (2000), section 2.4.
    """
    if draws is not None and draws < 0:
        raise ConfigurationError(f"observability: draws must not be negative, found {draws}")
    found = posterior(cost, solution, rank, seed=seed)
    if draws is None:
        draws = 0 if tree.size(jax.eval_shape(found.cost.state, found.control)) <= SMALL else 200
    host = np.random.default_rng(seed)
    noise = jax.tree.map(lambda leaf: jnp.asarray(host.normal(size=(draws, *leaf.shape)), leaf.dtype), found.control)
    ratio, used = _ratios(found, noise) if draws else _exact(found)
    sizes = {name: tree.size(part) for name, part in found.control.items()}
    values = 1 + np.sort(np.asarray(found.values))[::-1]
    complete = rank is None or len(values) < rank or len(values) == tree.size(found.control)
    return Observability(found, values, used, ratio, sizes, sum(sizes.values()), complete)


def _ratio(posterior_variance: Any, prior_variance: Any) -> Any:
    def of_leaf(a: Any, b: Any) -> Any:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), jnp.nan)

    return jax.tree.map(of_leaf, posterior_variance, prior_variance)


@jax.jit
def _exact(found: Posterior) -> Any:
    variance = found.variance()
    return _ratio(variance, tree.add(variance, found.variance_reduction())), found.used_by_part()


@jax.jit
def _ratios(found: Posterior, noise: Any) -> Any:
    _, root = jax.linearize(found.cost.state, found.control)
    factors = (1 + found.values) ** -0.5 - 1

    def squares(e: Any) -> Any:
        return tuple(jax.tree.map(jnp.square, root(w)) for w in (found.scaled(factors, e), e))

    after, before = jax.tree.map(lambda s: jnp.mean(s, axis=0), jax.lax.map(squares, noise, batch_size=16))
    return _ratio(after, before), found.used_by_part()
