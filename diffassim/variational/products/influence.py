"""How strongly the analysis listens to each observed value: the diagonal of H K."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.krylov import conjugate_gradients
from diffassim.core.results import Result
from diffassim.variational.minimizers.linearization import stored
from diffassim.variational.products.posterior import Posterior
from diffassim.variational.products.sensitivity import departures_at, with_values

__all__ = ["observation_influence"]

RESIDUAL = {"float64": 1e-8, "float32": 1e-4}  # relative, of the solve for each probe


def observation_influence(found: Posterior, *, probes: int = 0, seed: int = 0) -> tuple[Any, ...]:
    r"""Return the influence (leverage, self-sensitivity) of each observed value on its own analysed value.

    .. math::
        [H K]_{ii} = \partial H_i(x_a) / \partial y_i, \quad
        H K = H L\,(I + A^\top A)^{-1} A^\top\, \partial r_o / \partial y

    It lies between 0 (the value is ignored) and 1 (it is reproduced) where errors are uncorrelated; a tuple over
    streams sums to the degrees of freedom for signal. Without probes, the eigenpairs of the posterior stand for the
    inverse: exact if they are complete, else a lower bound. Probes estimate what they leave out: with z of independent
    signs, the expectation of \(z \circ (H K - \ldots) z\) is the missing diagonal. Each costs one solve.

    Args:
        found: `posterior(cost, solution)`; its rank decides how much the probes have to add.
        probes: number of random probes (static).
        seed: of the probes.

    Returns:
        One pytree for each stream, like its values; zero where nothing is observed, NaN where a solve has failed.

    Raises:
        ConfigurationError: if the number of probes is negative.

    Example:
        >>> import diffassim as da
        >>> B, R = da.covariances.Diagonal(std=jnp.array([1.0, 3**0.5])), da.covariances.Diagonal(std=1.0)
        >>> cost = da.ThreeDVar(jnp.zeros(2), B, da.Observations(jnp.array([[3.0, 1.0]]), [0], error=R))
        >>> observation_influence(da.variational.posterior(cost, da.minimize(cost)))[0].round(6).tolist()
        [[0.5, 0.75]]

    Source: Cardinali, Pezzulli and Andersson (2004), equation 3.6; probes: Bekas, Kokiopoulou and Saad (2007).
    """
    if probes < 0:
        raise ConfigurationError(f"observation_influence: probes must not be negative, found {probes}")
    draws = np.random.default_rng(seed)
    signs = jax.tree.map(
        lambda leaf: jnp.asarray(draws.choice([-1.0, 1.0], (probes, *leaf.shape)), leaf.dtype), _values(found.cost)
    )
    return _influence(found, signs, probes)


def _values(cost: Any) -> tuple[Any, ...]:
    return tuple(stream.values for stream in cost.streams())


@partial(jax.jit, static_argnums=2)
def _influence(found: Posterior, signs: Any, probes: int) -> Any:
    v, cost = found.control, stored(found.cost, found.control) or found.cost
    _, tangent = jax.linearize(lambda v: cost.residuals(v)[1], v)
    adjoint = jax.linear_transpose(tangent, v)
    _, response = jax.linearize(lambda v: departures_at(cost, v), v)  # - H L
    _, weigh = jax.linearize(lambda values: with_values(cost, values).residuals(v)[1], _values(cost))
    spread = jax.linear_transpose(weigh, _values(cost))
    seen = found.seen()

    def weighted(ours: Any, theirs: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.tensordot(seen, a * b, 1), ours, theirs)

    known = weighted(
        jax.vmap(response)(found.vectors), jax.vmap(lambda u: spread(tangent(u))[0])(found.vectors)
    )  # fmt: skip
    if not probes:
        return known
    norm = tree.norm(v)

    def probe(z: Any) -> Any:
        (b,) = adjoint(weigh(z))
        solved = conjugate_gradients(
            lambda w: tree.add(w, adjoint(tangent(w))[0]), b,
            preconditioner=lambda r: found.scaled(-found.values / (1 + found.values), r),
            rtol=RESIDUAL[str(norm.dtype)], max_iterations=1000,
        )  # fmt: skip
        failed = (solved.result != Result.CONVERGED) & (tree.norm(b) > 0)
        left_out = tree.subtract(solved.solution, found.combined(seen, b))
        return jax.tree.map(lambda z, d: jnp.where(failed, jnp.nan, z * d), z, response(left_out))

    estimates = jax.lax.map(probe, signs, batch_size=8)
    return jax.tree.map(lambda a, b: a + jnp.mean(b, axis=0), known, estimates)
