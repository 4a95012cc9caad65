"""What an analysis reports."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffassim.core.pytree import Pytree
from diffassim.core.results import Result
from diffassim.methods.departures import Departures
from diffassim.methods.members import finite_members, total_spread

__all__ = ["AnalysisInfo", "WindowInfo", "account"]


class AnalysisInfo(Pytree):
    r"""What the analysis of one time reports.

    Args:
        count: number of observed values that were used.
        chi_square: mean over the observed values of innovation squared over its expected variance,
            \(\frac1m \sum_j d_j^2 / (1 + \mathrm{var}\, S_j)\) in units of the observation error; about one where the
            spread and R are right, 0 without observations.
        background_spread: root of the prior's sample variance averaged over the state (after prior inflation).
        analysis_spread: the same of the posterior (after inflation).
        log_likelihood: \(\log p(y)\), the log density of the observed values under the forecast, 0 without any; the
            sum over a cycle is that of the record (`EnsembleHistory.log_likelihood`). The forecast is normal, H(x) with
            the prior's mean and covariance (after prior inflation), \(N(\overline{H(x)}, S^\top S / (N - 1) + R)\) for
            an ensemble; for methods that weight members (particle filters, NETF) it is the mean of the members'
            likelihoods. With localization it is the sum of the log densities of the single values, a composite
            likelihood that leaves out how forecast errors of different values belong together. NaN where R does not
            know its determinant, with a robust loss, or where a method knows no error of its forecast.
        non_finite: number of prior members (one for a Gaussian) that hold something not finite.
        result: `Result` code: `DIVERGED` where the prior or the posterior is not finite.
    """

    count: Int[Array, ""]
    chi_square: Float[Array, ""]
    background_spread: Float[Array, ""]
    analysis_spread: Float[Array, ""]
    log_likelihood: Float[Array, ""]
    non_finite: Int[Array, ""]
    result: Int[Array, ""]


class WindowInfo(AnalysisInfo):
    r"""What the analysis of one window reports; spreads belong to the window start.

    Args:
        count: number of observed values that were used.
        chi_square: of the prior's departures, as in `AnalysisInfo`.
        background_spread: root of the prior's sample variance averaged over the state (after prior inflation).
        analysis_spread: the same of the posterior (after inflation).
        log_likelihood: of all values of the window, from the prior's departures, as in `AnalysisInfo`.
        non_finite: number of prior members that hold something not finite.
        result: `Result` code: `DIVERGED` where prior or posterior is not finite, `MAX_ITERATIONS` where the last
            increment is above the tolerance, `STALLED` where even a step as short as it does not lower the cost.
        iterations: updates that were made.
        increment: root mean square of the last change of the weights of the mean.
    """

    iterations: Int[Array, ""]
    increment: Float[Array, ""]


def account(
    ensemble: Any, prior: Any, posterior: Any, departures: Departures, log_likelihood: Float[Array, ""]
) -> AnalysisInfo:
    """Return the account of an analysis.

    Args:
        ensemble: members as they were given.
        prior: the same, failed ones replaced, after prior inflation.
        posterior: members that are handed on.
        departures: of the prior.
        log_likelihood: log density of the observed values under the forecast.
    """
    sound = jnp.all(finite_members(prior)) & jnp.all(finite_members(posterior))
    return AnalysisInfo(
        count=departures.count,
        chi_square=departures.chi_square(),
        background_spread=total_spread(prior),
        analysis_spread=total_spread(posterior),
        log_likelihood=log_likelihood,
        non_finite=jnp.sum(~finite_members(ensemble)),
        result=jnp.where(sound, Result.CONVERGED, Result.DIVERGED),
    )
