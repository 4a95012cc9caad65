"""The protocol of methods that hand on a Gaussian, and what is the same in all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from diffassim.core import tree
from diffassim.core.checks import forward_mode, real_state
from diffassim.core.errors import ConfigurationError, ShapeError, require_positive
from diffassim.core.linalg import covariance_rows, gram_cholesky
from diffassim.core.results import Result
from diffassim.gaussian.belief import Gaussian, covariance_columns
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.departures import flat, whitened_innovation
from diffassim.methods.likelihood import chi_square, gram_log_ratio, log_density
from diffassim.methods.model_error import EveryStep
from diffassim.methods.sequential import SequentialMethod
from diffassim.observations.container import as_streams

__all__ = ["GaussianMethod", "KalmanMethod", "as_many", "joined"]


class GaussianMethod(SequentialMethod):
    r"""Base of all methods that hand on a Gaussian: (key, Gaussian, observations) -> (Gaussian, info).

    With columns \(A_x\) of the prior and \(Y\) of the whitened observed state, all rows of one matrix each, and the
    whitened innovation d, the analysis is

    .. math::
        C C^\top = I + Y Y^\top,\quad x_a = \bar x_f + A_x^\top C^{-\top} C^{-1} Y d,\quad A_a = C^{-1} A_x

    that of the Kalman filter in square-root form: the covariance stays positive, R may be correlated and P singular.
    Without any observed value the posterior is the prior, bit by bit, also with inflation.

    A subclass says how the Gaussian is forecast.
    """

    @property
    def square(self) -> bool:
        """Whether the belief needs as many columns as the state has components."""
        return False

    def transport(self, function: Callable[[Any], Any], belief: Gaussian) -> tuple[Any, Any, Any]:
        """Return how a Gaussian passes through a function (default: by its tangent at the mean).

        Args:
            function: of a state, with any pytree as its value.
            belief: the Gaussian.

        Returns:
            Mean of the value, columns of the state, and the columns of the value that belong to them: their products
            are the covariances of state and value.
        """

        def tangent(column: Any) -> Any:
            return jax.jvp(function, (belief.mean,), (column,))

        value, moved = jax.vmap(tangent, out_axes=(None, 0))(belief.columns)
        return value, belief.columns, jax.tree.map(_apart, moved)

    def inflated(self, columns: Any) -> Any:
        """Return the posterior columns that are handed on."""
        return columns

    def init(self, belief: Any) -> Gaussian:
        """Return the belief, checked.

        Args:
            belief: a `Gaussian`.

        Raises:
            ConfigurationError: if it is something else.
            ShapeError: if columns and mean do not fit together, there are not enough columns, or Q does not fit.
        """
        name = type(self).__name__
        if not isinstance(belief, Gaussian):
            raise ConfigurationError(
                f"{name}: the belief is a Gaussian, found {type(belief).__name__}; use "
                "da.gaussian.Gaussian.from_covariance(mean, P) or, for an ensemble, Gaussian.from_samples(ensemble)"
            )
        mean, columns = (real_state(f"{name}: the {part}", getattr(belief, part)) for part in ("mean", "columns"))
        belief = belief.replace(mean=mean, columns=columns)
        counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(belief.columns)}
        count, n = min(counts, default=0), tree.size(belief.mean)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), belief.mean)
        if len(counts) != 1 or count == 0 or not tree.same_shapes(like, belief.columns):
            raise ShapeError(
                f"{name}: columns must be states with a leading axis, found {tree.describe_shapes(belief.columns)} for "
                f"a mean of {tree.describe_shapes(belief.mean)}"
            )
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(belief)):
            raise ShapeError(f"{name}: the belief must be of floating-point numbers")
        if self.square and count != n:
            raise ShapeError(
                f"{name}: {n} columns are needed for {n} components of the state, found {count}; use "
                "Gaussian.from_covariance or Gaussian.from_samples"
            )
        return belief

    def state_like(self, belief: Gaussian) -> Any:
        """Return the mean."""
        return belief.mean

    def analyze(self, key: Any, belief: Gaussian, observations: Any) -> tuple[Gaussian, AnalysisInfo]:
        """Analyse one time.

        Args:
            key: not used; None will do.
            belief: prior `Gaussian`.
            observations: `Observations` whose rows all hold now (their `steps` do not matter), or a tuple of streams.

        Returns:
            The posterior `Gaussian`, and `AnalysisInfo`, with the code `DIVERGED` where one of both is not finite.

        Raises:
            ConfigurationError: if the belief is not a `Gaussian`, or a stream has a robust loss.
            ShapeError: if the belief does not fit the observations.
        """
        belief = self.init(belief)
        self.check(belief, observations)
        with forward_mode(type(self).__name__, "UKF and the ensemble filters need no derivatives"):
            return _analyze(self, belief, as_streams(observations))

    def moments(self, belief: Gaussian) -> tuple[Any, Any]:
        """Return mean and standard deviation of every component of the state."""
        return belief.mean, belief.spread()


class KalmanMethod(GaussianMethod):
    r"""Base of the filters that forecast the covariance as well.

    A subclass defines `transport`, how a Gaussian passes through a function; forecast, analysis and smoother follow.

    Args:
        inflation: a number that multiplies the posterior columns (the covariance with its square).
        Q: covariance of the model error that is gathered from one analysis to the next, or `EveryStep` of that of a
            model step; None: a perfect model.
    """

    inflation: Any = 1.0
    Q: Any = None

    def __post_init__(self) -> None:
        require_positive(f"{type(self).__name__}: inflation", self.inflation, "1 is no inflation.")

    @property
    def square(self) -> bool:
        """Whether the belief needs as many columns as the state has components."""
        return self.Q is not None

    def init(self, belief: Any) -> Gaussian:
        """Return the belief, checked."""
        belief = super().init(belief)
        if self.Q is not None:
            self.Q.check(f"{type(self).__name__}: Q", belief.mean)
        return belief

    def inflated(self, columns: Any) -> Any:
        """Return the posterior columns times the inflation."""
        return tree.scale(self.inflation, columns)

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Gaussian) -> Gaussian:
        """Return the Gaussian at the next analysis time, model error included."""
        if isinstance(self.Q, EveryStep):
            each = self.Q.Q
            return propagate(belief, lambda step: lambda now, t: self._moved(lambda x: step(x, t), each, now))
        return self._moved(propagate, self.Q, belief)

    def _moved(self, function: Callable[[Any], Any], Q: Any, belief: Gaussian) -> Gaussian:
        mean, _, columns = self.transport(function, belief)
        if Q is not None:
            columns = joined(columns, covariance_columns(Q, mean))
        return Gaussian(mean, as_many(columns, belief))


def joined(*columns: Any) -> Any:
    """Return the columns of a sum of independent errors."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *columns)


def as_many(columns: Any, belief: Gaussian) -> Any:
    """Return as many columns as the belief has, of the same covariance."""
    if tree.same_shapes(columns, belief.columns):
        return columns
    rows = tree.flat_rows(columns)
    return tree.state_rows(covariance_rows(rows.T @ rows), belief.mean)


@jax.jit
def _analyze(method: GaussianMethod, prior: Gaussian, streams: tuple[Any, ...]) -> tuple[Gaussian, AnalysisInfo]:
    d, columns, departures = method.transport(whitened_innovation(streams), prior)
    mask = flat([stream.mask for stream in streams])
    Y, count = -departures, jnp.sum(mask)
    C, w = gram_cholesky(Y, d)
    density = log_density(gram_log_ratio(Y, d, C, w), streams)
    A = solve_triangular(C, tree.flat_rows(columns), lower=True)
    increment = jax.tree.map(lambda leaf: leaf[0], tree.state_rows((w @ A)[None], prior.mean))
    analysed = Gaussian(tree.add(prior.mean, increment), as_many(tree.state_rows(A, prior.mean), prior))
    analysed = analysed.replace(columns=method.inflated(analysed.columns))
    posterior = tree.select(count > 0, analysed, prior)
    finite = tree.all_finite(prior)
    return posterior, AnalysisInfo(
        count=count,
        chi_square=chi_square(d, 1 + jnp.sum(jnp.square(Y), axis=0), count),
        background_spread=prior.total_spread(),
        analysis_spread=posterior.total_spread(),
        log_likelihood=density,
        non_finite=jnp.where(finite, 0, 1),
        result=jnp.where(finite & tree.all_finite(posterior), Result.CONVERGED, Result.DIVERGED),
    )


def _apart(columns: Any) -> Any:
    """Return the columns by a gather, so that a factorization does not choose their layout where they are made.

    It asks for the last axis to be the slowest, and the Fourier transforms of XLA on CPUs fail at that.
    """
    return columns[jnp.arange(columns.shape[0])]
