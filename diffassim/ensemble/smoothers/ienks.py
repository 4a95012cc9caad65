"""The iterative ensemble Kalman smoother."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.linalg import symmetric_inverse_sqrt
from diffassim.core.loops import bounded_while
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.ensemble.finite_size import hyperprior
from diffassim.ensemble.inflation import as_inflation
from diffassim.ensemble.rotation import rotated
from diffassim.ensemble.smoothers.asynchronous import prior_of
from diffassim.methods.account import WindowInfo, account
from diffassim.methods.departures import Departures, along_window, departures_of
from diffassim.methods.likelihood import innovation_log_ratio, log_density
from diffassim.methods.members import transformed
from diffassim.methods.sequential import require_key
from diffassim.methods.windows import EnsembleWindowMethod
from diffassim.models.rollout import rollout

__all__ = ["IEnKS", "Search", "sensitivities", "updated"]

SLACK = 1e-3  # share by which J may rise: it is a mean over members, and moves with their spread as well


class IEnKS(EnsembleWindowMethod):
    r"""Iterative ensemble Kalman smoother: 4D-Var in the space of the members, with a posterior ensemble.

    The state at the window start is \(\bar x_f + X_f^\top w\). Gauss-Newton minimizes

    .. math:: J(w) = \tfrac12 |R^{-1/2} (y - H(x(w)))|^2 + \tfrac{N - 1}{2} |w|^2

    with sensitivities \(S = \partial (R^{-1/2} H) / \partial w\) taken from the ensemble that is propagated in each
    iteration,

    .. math::
        A = I + S S^\top / (N - 1),\quad w \leftarrow w + A^{-1} (S d - (N - 1) w) / (N - 1),\quad T = A^{-1/2}

    in the transform version from members with anomalies \(T X_f\), as the posterior of the iteration before
    (\(S = T^{-1}\) times their observed anomalies), in the bundle version from \(\epsilon X_f\), small enough to
    be tangents. A step that raises J is halved. The posterior members \(\bar x_f + (w_j + T_{ij}) X_f\) are run through
    the window once more; at its end they are the filter's ensemble.

    The lag is the window length, the shift that of the cycle: with windows of one observation time this is the IEnKF,
    and with one iteration in a window of no dynamics the ETKF. In overlapping windows each observation is used once;
    for multiple data assimilation cut the record by `split_windows(..., reuse=True)`, with its error variances
    multiplied by the number of windows an observation is used in. With `finite_size` the prior is that of the `EnKFN`,
    whose effective precision takes the place of N - 1 in J.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies (at the window start).
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).
        tolerance: root mean square change of the weights w below which the iterations end.
        max_iterations: bound of the iterations (static). Reverse mode keeps the ensembles of each.
        bundle: \(\epsilon\) of the bundle version, a number such as 1e-4; None: the transform version.
        finite_size: exponent of the hyperprior, see `EnKFN`; None: the ensemble's covariance is taken as exact.

    Raises:
        ConfigurationError: if tolerance, bundle or finite_size is not positive, or `max_iterations` is below one.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[4.0]]), [1], error=da.covariances.Diagonal(std=1e-3))
        >>> squaring = da.models.FunctionModel(lambda x, t: x**2)
        >>> prior = 1.5 + jnp.array([[-0.1], [0.0], [0.1]])
        >>> _, x_a, info = IEnKS(tolerance=1e-6).analyze(None, squaring, prior, y, 0, 1, [0, 1])
        >>> x_a.mean(0).ravel().round(3).tolist(), bool(info.iterations > 2)
        ([2.0, 4.0], True)

    Source: Bocquet and Sakov (2014), algorithm 1, with multiple data assimilation in section 2.4; Sakov, Oliver and
    Bertino (2012) and Bocquet and Sakov (2012) for the IEnKF, transform and bundle; the transform version follows
    Raanes, Stordal and Evensen (2019).
    """

    inflation: Any = 1.0
    rotation: bool = static(default=False)
    tolerance: Any = 1e-3
    max_iterations: int = static(default=20)
    bundle: Any = None
    finite_size: Any = None

    def __post_init__(self) -> None:
        if as_inflation(self.inflation).random:
            raise ConfigurationError("IEnKS: inflation must be deterministic, found one that draws random numbers")
        require_positive("IEnKS: tolerance", self.tolerance)
        require_positive("IEnKS: bundle", self.bundle, "None is the transform version.")
        require_positive("IEnKS: finite_size", self.finite_size, "None is no finite-size prior.")
        if self.max_iterations < 1:
            raise ConfigurationError(f"IEnKS: max_iterations={self.max_iterations} must be at least 1")

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers."""
        return self.rotation

    def analyze(
        self, key: Any, model: Any, ensemble: Any, observations: Any, start: Any, steps: int, rows: Any
    ) -> tuple[Any, Any, WindowInfo]:
        """Analyse one window; see `EnsembleWindowMethod.analyze`.

        Raises:
            ShapeError: if the ensemble has fewer than two members or does not fit the observations.
            ConfigurationError: if a key is needed and missing.
        """
        name = type(self).__name__
        require_key(name, self.random, key)
        prior, streams = prior_of(name, self.inflation, ensemble, observations)
        self.check(prior, streams, steps)
        path = along_window(model, streams, start, steps)
        background, innovations = jax.vmap(path, (0, None))(prior, rows)
        departures = departures_of(innovations, streams)

        space = self.space(prior, streams)
        found = bounded_while(
            lambda s: s.increment > self.tolerance,
            lambda s: space.updated(s, self.departures(space, path, prior, streams, s)),
            self.first(space, path, prior, streams, departures),
            self.max_iterations - 1,
            unrolled=True,
        )
        w = jnp.where(found.shortened[..., None], found.base, found.w)  # not where the cost may be higher
        posterior = space.members(prior, w, found.T)
        posterior = as_inflation(self.inflation).after(prior, posterior)
        if self.rotation:
            posterior = rotated(key, posterior)
        posterior = tree.select(departures.count > 0, posterior, prior)
        analysis = jax.vmap(lambda x: rollout(model, x, steps, start=start, at=jnp.asarray(rows, jnp.int32)))(posterior)
        density = space.log_likelihood(departures, streams)
        report = account(ensemble, prior, posterior, departures, density)
        ended = jnp.where(jnp.any(found.shortened), Result.STALLED, Result.CONVERGED)
        ended = jnp.where(found.increment > self.tolerance, Result.MAX_ITERATIONS, ended)
        result = jnp.where(report.result == Result.CONVERGED, ended, report.result)
        count = jnp.max(found.count)
        info = WindowInfo(**(vars(report) | {"result": result}), iterations=count, increment=found.increment)
        return background, analysis, info

    def space(self, prior: Any, streams: tuple[Any, ...]) -> Any:
        """Return the space in which a window's weights are sought."""
        return _Everywhere(self.bundle, self.finite_size)

    def departures(self, space: Any, path: Any, prior: Any, streams: tuple[Any, ...], search: Search) -> Departures:
        """Run the members that are tried next through the window, and return what is seen of them."""
        T = search.T
        if self.bundle is not None:
            T = jnp.broadcast_to(jnp.asarray(self.bundle, T.dtype) * jnp.eye(T.shape[-1], dtype=T.dtype), T.shape)
        return departures_of(jax.vmap(path)(space.members(prior, search.w, T))[1], streams)

    def first(self, space: Any, path: Any, prior: Any, streams: tuple[Any, ...], known: Departures) -> Search:
        """Return the search after its first step, from the departures of the prior where these will do."""
        start = space.start(prior, known.d.dtype)
        tried = known if self.bundle is None else self.departures(space, path, prior, streams, start)
        return space.updated(start, tried)


class _Everywhere(Pytree):
    """The space of weights that hold everywhere.

    Args:
        bundle: as for `IEnKS`.
        finite_size: as there.
    """

    bundle: Any
    finite_size: Any

    def start(self, prior: Any, dtype: Any) -> Search:
        """Return the search at the prior."""
        return Search.at_prior(len(jax.tree.leaves(prior)[0]), dtype)

    def members(self, prior: Any, w: Any, T: Any) -> Any:
        """Return the members whose mean has the weights w, with anomalies transformed by T."""
        return transformed(prior, w[None] + T)

    def updated(self, search: Search, departures: Departures) -> Search:
        """Return the search after a step, from the departures of the members that it has tried."""
        S = sensitivities(search, departures.S, self.bundle)
        return updated(search, departures.d, S, self.finite_size)

    def log_likelihood(self, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the log density of the observed values."""
        return log_density(innovation_log_ratio(departures.S, departures.d), streams)


class Search(Pytree):
    """Where the search is; with one axis more in front where every point has a search of its own.

    Args:
        base: weights of the mean whose departures were known last.
        change: step from there to the weights that are tried next.
        T: transform of the anomalies of the members that are tried next.
        inverse: its inverse.
        cost: J at the base.
        shortened: whether the change is a part of one that did not lower J.
        count: number of steps.
    """

    base: Float[Array, " N"]
    change: Float[Array, " N"]
    T: Float[Array, "N N"]
    inverse: Float[Array, "N N"]
    cost: Float[Array, ""]
    shortened: Bool[Array, ""]
    count: Int[Array, ""]

    @property
    def w(self) -> Float[Array, " N"]:
        """Weights of the mean that are tried next; in the end those of the posterior."""
        return self.base + self.change

    @property
    def increment(self) -> Float[Array, ""]:
        """Root mean square of the last change."""
        return tree.norm(self.change) / self.change.size**0.5

    @classmethod
    def at_prior(cls, N: int, dtype: Any) -> Search:
        """Return the search before its first step."""
        identity, zero, infinity = jnp.eye(N, dtype=dtype), jnp.zeros(N, dtype), jnp.asarray(jnp.inf, dtype)
        return cls(zero, zero, identity, identity, infinity, jnp.asarray(False), jnp.asarray(0, jnp.int32))


def sensitivities(search: Search, S: Any, bundle: Any) -> Any:
    """Return the sensitivities to the weights, from the observed anomalies of the members that were tried."""
    return search.inverse @ S if bundle is None else S / bundle


def updated(search: Search, d: Any, S: Any, exponent: Any) -> Search:
    """Return the search after one Gauss-Newton step, given innovation d and sensitivities S of the members tried.

    Where these are not finite, or J is higher than before, the step before was too long, and half of it is tried.
    """
    degrees = S.shape[0] - 1
    finite = jnp.all(jnp.isfinite(d)) & jnp.all(jnp.isfinite(S))
    d, S = jnp.where(finite, d, 0), jnp.where(finite, S, 0)
    C, square = S @ S.T, jnp.vdot(search.w, search.w)
    if exponent is None:
        zeta, penalty = degrees, degrees * square
    else:
        prior = hyperprior(C, exponent)
        zeta, penalty = prior.precision(search.w), degrees * prior.c * jnp.log1p(square / prior.epsilon)
    cost = 0.5 * (jnp.vdot(d, d) + penalty)
    sound = (finite & (cost <= (1 + SLACK) * search.cost)) | (search.count == 0)
    A = (C + zeta * jnp.eye(degrees + 1, dtype=S.dtype)) / degrees
    T = symmetric_inverse_sqrt(A * degrees / zeta, 1.0) * jnp.sqrt(jnp.asarray(degrees / zeta, A.dtype))
    change = T @ (T @ (S @ d - zeta * search.w)) / degrees
    forward = Search(search.w, change, T, A @ T, cost, jnp.asarray(False), search.count)
    back = search.replace(change=search.change / 2, shortened=jnp.asarray(True))
    return tree.select(sound, forward, back).replace(count=search.count + 1)
