"""A loss that passes through an analysis: how well does the forecast from it predict observations it has not seen?"""

from __future__ import annotations

from typing import Any

from diffassim.training.routes import AnalysisForecast
from diffassim.training.scores import Loss, MeanSquare
from diffassim.variational.minimizers.gauss_newton import GaussNewton

__all__ = ["ForecastMisfit"]


def ForecastMisfit(B: Any, steps: int, lead: int, minimizer: Any = GaussNewton()) -> Loss:  # noqa: B008
    r"""Return the mean squared whitened misfit of the forecast that starts from the 4D-Var analysis.

    .. math:: L(\theta) = \frac1m \sum_i |R_i^{-1/2}(y_i - H_i(M_\theta(x_a(\theta))))|^2

    The derivative with respect to the model parameters \(\theta\) has two parts, through the forecast and, by the
    implicit function theorem, through the analysis. Only observations enter: no truth.

    Args:
        B: background-error covariance of the analysis.
        steps: window length.
        lead: model steps from the window start to the last future observation.
        minimizer: see `minimize`.

    Returns:
        `Loss` of the route `AnalysisForecast` and the score `MeanSquare`.
    """
    return Loss(AnalysisForecast(B, steps, lead, minimizer), MeanSquare())
