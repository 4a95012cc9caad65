"""The extended Kalman filter, which is the Kalman filter where model and operator are linear."""

from __future__ import annotations

from diffassim.gaussian.base import KalmanMethod

__all__ = ["EKF"]


class EKF(KalmanMethod):
    r"""The covariance follows the tangent-linear model M and operator H, by automatic differentiation.

    .. math::
        x_f = \mathcal M(x_a),\quad P_f = M P_a M^\top + Q,\quad K = P_f H^\top (H P_f H^\top + R)^{-1},\quad
        x_a = x_f + K (y - \mathcal H(x_f)),\quad P_a = r^2 (I - K H) P_f

    in square-root form: the columns of a root of P are carried along, one tangent each, so that a perfect model may be
    filtered with fewer columns than components (the singular evolutive filter).

    Args:
        inflation: r, a number that multiplies the posterior columns (the covariance with its square).
        Q: covariance of the model error that is gathered from one analysis to the next, or `EveryStep` of that of a
            model step; None: a perfect model.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> belief = da.gaussian.Gaussian.from_covariance(jnp.zeros(1), one)
        >>> y = da.Observations(jnp.array([[3.0]]), [1], error=one)
        >>> still = da.models.FunctionModel(lambda x, t: x)
        >>> belief, _ = da.cycle(EKF(Q=one), still, belief, y)
        >>> belief.mean.round(4).tolist(), round(float(belief.covariance()[0, 0]), 4)
        ([2.0], 0.6667)

    Source: Kalman (1960); Jazwinski (1970), theorem 8.1; low rank: Pham, Verron and Roubaud (1998).
    """
