"""What a solution knows about its own uncertainty: covariance, variance, draws, information, consistency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.krylov import lanczos
from diffassim.core.pytree import Pytree
from diffassim.variational.costs.base import Cost, as_cost, require_departures
from diffassim.variational.costs.terms import observed_counts
from diffassim.variational.minimizers.base import as_minimizer
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.linearization import stored
from diffassim.variational.minimizers.solution import require_converged

__all__ = ["Consistency", "Posterior", "posterior", "randomized_solutions"]


class Posterior(Pytree):
    r"""Gaussian posterior at a solution, from the leading eigenpairs of the observations' part of the Hessian.

    With A the Jacobian of the whitened innovations at the solution, \(A^\top A \approx U \Lambda U^\top\), the
    Gauss-Newton Hessian is \(I + A^\top A\) in control space and the analysis-error covariance

    .. math::
        P_a = L (I - U \Lambda (I + \Lambda)^{-1} U^\top) L^\top,

    L the derivative of the state by v (B^(1/2)), at a later step of the window that of the state there. Directions that
    are left out keep their background uncertainty. It is exact for linear problems when the rank reaches that of A.

    Args:
        cost: the cost.
        control: the solution's control vector.
        values: eigenvalues \(\lambda_i \ge 0\) of A^T A, shape (rank,); zero where a pair has not converged.
        vectors: orthonormal eigenvectors, control vectors with a leading axis of size rank.
    """

    cost: Any
    control: Any
    values: Float[Array, " rank"]
    vectors: Any

    def covariance(self, x: Any, at: Any = None) -> Any:
        """Return P_a x for a state x; with `at` the covariance at that step of the window."""
        root, transposed = self._root(at)
        return root(self.scaled(-self.values / (1 + self.values), transposed(x)))

    def variance(self, at: Any = None) -> Any:
        """Return the diagonal of P_a, shaped like the state, from one product for each of its components.

        Args:
            at: step of the window, a run-time integer; default: its start.
        """
        return self.variance_of(lambda v: self._state(v, at))

    def variance_of(self, quantity: Callable[[Any], Any]) -> Any:
        r"""Return the variances of what a function makes of the control vector, to first order, shaped like it.

        For example the posterior variance of a parameter: `lambda v: cost.controlled_model(v).forcing`.

        Args:
            quantity: control vector -> pytree of arrays; one product with the transpose of its derivative is made for
                each of its components.

        Example:
            >>> import diffassim as da
            >>> growth = da.models.FunctionModel(lambda x, t, rate: rate * x, arguments=1.0)
            >>> one = da.covariances.Diagonal(std=1.0)
            >>> y = da.Observations(jnp.array([[6.0]]), [1], error=one)
            >>> cost = da.StrongConstraint4DVar(growth, jnp.array([3.0]), None, y, parameters={"arguments": one})
            >>> found = posterior(cost, da.minimize(cost))
            >>> round(float(found.variance_of(lambda v: cost.controlled_model(v).arguments)), 6)  # 1 / (1 + 3^2)
            0.1
        """
        shapes, tangent = jax.eval_shape(quantity, self.control), jax.linearize(quantity, self.control)[1]
        transposed = jax.linear_transpose(tangent, self.control)
        leaves, structure = jax.tree.flatten(shapes)

        def of_leaf(i: int, leaf: Any) -> Any:
            def component(j: Any) -> Any:
                unit = jnp.zeros(leaf.size, leaf.dtype).at[j].set(1).reshape(leaf.shape)
                others = [unit if i == k else jnp.zeros(other.shape, other.dtype) for k, other in enumerate(leaves)]
                (w,) = transposed(jax.tree.unflatten(structure, others))
                known = _products(self.vectors, w)
                return tree.squared_norm(w) - jnp.sum(self.values / (1 + self.values) * known**2)

            return jax.lax.map(component, jnp.arange(leaf.size, dtype=jnp.int32), batch_size=64).reshape(leaf.shape)

        return jax.tree.unflatten(structure, [of_leaf(i, leaf) for i, leaf in enumerate(leaves)])

    def variance_reduction(self, at: Any = None) -> Any:
        """Return the diagonal of B - P_a (at step `at`: of both carried there): what the observations took away."""
        root, _ = self._root(at)
        images = jax.vmap(root)(self.vectors)
        return jax.tree.map(lambda u: jnp.tensordot(self.values / (1 + self.values), u**2, 1), images)

    def draw_controls(self, key: jax.Array, count: int) -> Any:
        """Return `count` draws of the control vector, with a leading axis."""
        leaves, structure = jax.tree.flatten(self.control)
        keys = jax.random.split(key, max(len(leaves), 1))
        noise = [jax.random.normal(k, (count, *x.shape), x.dtype) for k, x in zip(keys, leaves, strict=False)]
        return jax.vmap(self.control_from)(jax.tree.unflatten(structure, noise))

    def control_from(self, noise: Any) -> Any:
        """Return v + (I + A^T A)^(-1/2) noise; with noise N(0, I) a draw of the control vector."""
        return tree.add(self.control, self.scaled((1 + self.values) ** -0.5 - 1, noise))

    def draw(self, key: jax.Array, count: int, at: Any = None) -> Any:
        """Return `count` draws of the state at the window start, or at step `at`; through what is nonlinear on the way.

        The same key gives the same draws at all steps.
        """
        return jax.vmap(lambda v: self._state(v, at))(self.draw_controls(key, count))

    def degrees_of_freedom(self) -> Float[Array, ""]:
        r"""Return the degrees of freedom for signal, \(\sum_i \lambda_i / (1 + \lambda_i)\): observed numbers used."""
        return jnp.sum(self.values / (1 + self.values))

    def degrees_of_freedom_by_stream(self) -> tuple[Float[Array, ""], ...]:
        r"""Return the part of each stream, the trace of its block of the influence matrix A (I + A^T A)^(-1) A^T."""
        _, tangent = jax.linearize(lambda v: self.cost.residuals(v)[1], self.control)
        images = jax.vmap(tangent)(self.vectors)
        seen = self.seen()
        return tuple(
            sum((jnp.tensordot(seen, a, 1) for a in _squares(stream)), jnp.zeros((), seen.dtype)) for stream in images
        )

    def used_by_part(self) -> dict[str, Float[Array, ""]]:
        """Return the degrees of freedom for signal of each part of the control vector; they sum to the whole."""
        weights = self.values / (1 + self.values)

        def of(part: Any) -> Any:
            return sum((jnp.tensordot(weights, u, 1) for u in _squares(part)), jnp.zeros((), weights.dtype))

        return {name: of(part) for name, part in self.vectors.items()}

    def seen(self) -> Float[Array, " rank"]:
        r"""Return \(1 / (1 + \lambda_i)\), the weights of the influence matrix's pairs; zero where left out."""
        return jnp.where(self.values > 0, 1 / (1 + self.values), 0)

    def consistency(self) -> Consistency:
        """Compare each term of the cost with what it should be if B, R (and Q) are right."""
        v, departures = self.cost.residuals(self.control)
        streams = self.degrees_of_freedom_by_stream()
        found, expected, count = [], [], []
        for counted, used, innovation in zip(observed_counts(self.cost), streams, departures, strict=True):
            found.append(tree.squared_norm(innovation))
            expected.append(counted.astype(used.dtype) - used)
            count.append(counted)
        return Consistency(
            {name: tree.squared_norm(part) for name, part in v.items()}, self.used_by_part(),
            tuple(found), tuple(expected), sum(count, jnp.asarray(0, jnp.int32)),
        )  # fmt: skip

    def _state(self, v: Any, at: Any) -> Any:
        return self.cost.state(v) if at is None else self.cost.state(v, at)

    def _root(self, at: Any = None) -> tuple[Any, Any]:
        _, root = jax.linearize(lambda v: self._state(v, at), self.control)
        transposed = jax.linear_transpose(root, self.control)
        return root, lambda x: transposed(x)[0]

    def scaled(self, factors: Any, w: Any) -> Any:
        """Return w + U diag(factors) U^T w."""
        return tree.add(w, self.combined(factors, w))

    def combined(self, factors: Any, w: Any) -> Any:
        """Return U diag(factors) U^T w."""
        coefficients = factors * _products(self.vectors, w)
        return jax.tree.map(lambda u: jnp.tensordot(coefficients, u, 1), self.vectors)


class Consistency(Pytree):
    r"""Terms of 2 J at the analysis beside their expectations; printed as a table.

    If the covariances are right and the problem is linear, \(E\,|v_a|^2 = d_s\), the degrees of freedom for signal,
    and \(E\,|R^{-1/2}(y - H(x_a))|^2 = m - d_s\); their sum, 2 J, is chi-square distributed with m degrees of freedom.

    Args:
        background: twice the background term, by part of the control vector.
        background_expected: its expectation.
        observations: twice the observation term, by stream.
        observations_expected: its expectation.
        count: m, observed values that count.

    Source: Bennett (1992); Talagrand (1999); Desroziers and Ivanov (2001), equations 6 and 7.
    """

    background: dict[str, Any]
    background_expected: dict[str, Any]
    observations: tuple[Any, ...]
    observations_expected: tuple[Any, ...]
    count: Int[Array, ""]

    @property
    def total(self) -> Any:
        """2 J at the analysis."""
        return sum(self.background.values()) + sum(self.observations)

    @property
    def deviation(self) -> Any:
        """(2 J - m) / sqrt(2 m): standard deviations from what is expected."""
        m = jnp.maximum(self.count, 1).astype(self.total.dtype)
        return (self.total - self.count.astype(m.dtype)) / jnp.sqrt(2 * m)

    def __str__(self) -> str:
        rows = [(name, self.background[name], self.background_expected[name]) for name in self.background]
        pairs = zip(self.observations, self.observations_expected, strict=True)
        rows += [(f"observations {i}", found, expected) for i, (found, expected) in enumerate(pairs)]
        rows.append(("total", self.total, float(self.count)))
        lines = [f"{name:<20s} {float(found):>12.2f} {float(expected):>12.2f}" for name, found, expected in rows]
        head = f"{'twice the cost of':<20s} {'found':>12s} {'expected':>12s}"
        return "\n".join([head, *lines, f"{float(self.deviation):+.1f} standard deviations from consistency"])


def posterior(
    cost: Any, solution: Any, rank: int | None = None, *, tolerance: float = 1e-3, seed: int = 0
) -> Posterior:
    r"""Return the Gaussian posterior at a solution, by Lanczos iterations with the Gauss-Newton Hessian.

    One product with the linearized model and one with its adjoint for each of `rank` iterations; no matrix is formed.
    The starting vector lies in the range of A^T, so that the iterations are complete after as many as A has rank.

    Args:
        cost: the cost that was minimized.
        solution: `Solution` of `minimize(cost, ...)`.
        rank: number of eigenpairs (static); default: as many as there are observed numbers or control variables,
            whichever is less (exact for linear problems, and only meant for small ones).
        tolerance: pairs whose residual is larger than this times 1 + lambda are left out.
        seed: of the starting vector.

    Returns:
        `Posterior`.

    Raises:
        ConfigurationError: if the rank is not positive, or larger than the control vector, or the cost is not whitened
            (weak constraint in state form).
        DataError: if the search met something that is not finite.

    Warns:
        AssimilationWarning: if the search did not converge: there is no posterior around such a point.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> cost = da.ThreeDVar(jnp.zeros(2), one, da.Observations(jnp.array([[3.0, jnp.nan]]), [0], error=one))
        >>> posterior(cost, da.minimize(cost)).variance().round(6).tolist()
        [0.5, 1.0]

    Source: Fisher and Courtier (1995), section 5; Golub and Van Loan (2013), algorithm 10.1.1.
    """
    if rank is not None and rank < 1:
        raise ConfigurationError(f"posterior: rank must be positive, found {rank}")
    cost = as_cost(cost)
    if not cost.whitened:
        raise ConfigurationError(f"posterior: {type(cost).__name__} is not whitened; use cost.forcing_form(v)")
    require_converged("posterior", solution)
    v = solution.control
    if rank is not None and rank > tree.size(v):
        raise ConfigurationError(
            f"posterior: rank = {rank} is larger than the control vector, which has {tree.size(v)} components; "
            "leave it out for all eigenpairs"
        )
    residuals = jax.eval_shape(cost.residuals, v)
    require_departures("posterior", residuals)
    return _eigenpairs(cost, v, _host_noise(residuals[1], seed), tolerance, rank)


def _squares(vectors: Any) -> list[Any]:
    """Return the squared norm of each vector (leading axis), leaf by leaf."""
    return [jnp.sum(u**2, axis=tuple(range(1, u.ndim))) for u in jax.tree.leaves(vectors)]


def _products(vectors: Any, w: Any) -> Any:
    products = jax.tree.leaves(jax.tree.map(lambda u, x: jnp.tensordot(u, x, x.ndim), vectors, w))
    return sum(products[1:], products[0])


def _host_noise(like: Any, seed: int) -> Any:
    draws = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(draws.normal(size=leaf.shape), leaf.dtype), like)


def _lanczos_at(cost: Any, v: Any, noise: Any, tolerance: Any, rank: int | None) -> Posterior:
    linear = stored(cost, v) or cost
    _, tangent = jax.linearize(lambda v: linear.residuals(v)[1], v)
    transposed = jax.linear_transpose(tangent, v)
    size = min(tree.size(noise), tree.size(v))
    rank = size if rank is None else min(rank, size)

    def again(k: Any) -> Any:
        # Another vector in the range of A^T: the noise, its signs changed by a rule that has no short period.
        def flip(leaf: Any) -> Any:
            i = jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
            return leaf * jnp.cos(1.3 * (k.astype(leaf.dtype) + 1) * (i + 0.5) ** 1.5)

        return transposed(jax.tree.map(flip, noise))[0]

    (start,) = transposed(noise)
    if rank == 0:
        return Posterior(cost, v, jnp.zeros(0, tree.norm(v).dtype), jax.tree.map(lambda leaf: leaf[None][:0], v))
    # Where nothing is observed A is zero, and any vector serves.
    start = tree.select(tree.norm(start) == 0, jax.tree.map(jnp.ones_like, start), start)
    found = lanczos(lambda w: transposed(tangent(w))[0], start, rank, again)
    values, vectors = found.ritz()
    last = jax.tree.map(lambda leaf: leaf[-1], found.basis)
    residuals = found.off_diagonal[-1] * jnp.abs(_products(vectors, last))
    converged = residuals <= jnp.asarray(tolerance, values.dtype) * (1 + values)
    return Posterior(cost, v, jnp.where(converged, jnp.maximum(values, 0), 0), vectors)


_eigenpairs = jax.jit(_lanczos_at, static_argnums=4)


class _Perturbed(Cost, Pytree):
    """A cost with noise added to its residuals: no test of consistency, whose expectation is another."""

    cost: Any
    noise: Any

    def control(self) -> Any:
        return self.cost.control()

    def state(self, v: Any) -> Any:
        return self.cost.state(v)

    def residuals(self, v: Any) -> Any:
        return tree.add(self.cost.residuals(v), self.noise)


def randomized_solutions(
    cost: Any, solution: Any, key: jax.Array, count: int, method: Any = None
) -> tuple[Any, Int[Array, " count"]]:
    r"""Return control vectors that minimize the cost with randomly perturbed residuals: draws that know nonlinearity.

    .. math::
        v_i = \arg\min_v \tfrac12 |r(v) + \varepsilon_i|^2, \quad \varepsilon_i \sim N(0, I)

    Background and observations are perturbed according to B and R, and the analysis is repeated: an ensemble of data
    assimilations. Exact draws from the posterior where the problem is linear, otherwise close to it but for a factor
    that varies slowly along the posterior (no acceptance step is made).

    Args:
        cost: the cost that was minimized.
        solution: `Solution`, from which every search starts.
        key: of the perturbations.
        count: number of draws (static).
        method: minimizer; default `GaussNewton()`.

    Returns:
        Control vectors with a leading axis, and the `Result` code of each search; `jax.vmap(cost.state)` turns the
        vectors into states.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> cost = da.ThreeDVar(jnp.zeros(1), one, da.Observations(jnp.array([[3.0]]), [0], error=one))
        >>> v, code = randomized_solutions(cost, da.minimize(cost), jax.random.key(0), 4000)
        >>> bool(abs(v["state"].std() - 0.5**0.5) < 0.03), int(code.max())
        (True, 0)

    Source: Oliver, He and Reynolds (1996); Bardsley et al. (2014), from which the acceptance weights are missing here.
    """
    cost, method = as_cost(cost), as_minimizer(method or GaussNewton())
    like = jax.eval_shape(cost.residuals, solution.control)
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, max(len(leaves), 1))
    noise = [jax.random.normal(k, (count, *x.shape), x.dtype) for k, x in zip(keys, leaves, strict=False)]
    return _optimize(cost, solution.control, jax.tree.unflatten(structure, noise), method)


@jax.jit
def _optimize(cost: Any, v: Any, noise: Any, method: Any) -> tuple[Any, Any]:
    linear = stored(cost, v) or cost

    def one(noise: Any) -> Any:
        found = method.search(_Perturbed(linear, noise), v)
        return found.control, found.result

    return jax.vmap(one)(noise)
