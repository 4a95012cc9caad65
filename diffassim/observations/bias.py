"""Observation bias as a sum of predictors, whose coefficients the analysis can estimate."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError
from diffassim.observations.operators import Operator, as_operator, check_operator, places_of_operator

__all__ = ["Biased"]


def _offset(x: Any, where: Any = None) -> Any:
    return jnp.ones(())


class Biased(Operator):
    r"""An operator whose instrument has a bias: \(H(x, w) + \sum_j \beta_j\, p_j(x, w)\).

    Variational bias correction is an analysis that estimates the coefficients with the state:

        H = Biased(H, predictors=(offset, scan_angle))
        obs = Observations(y, steps, H, R, parameters={"coefficients": Diagonal(std=0.5)})

    What tells bias from model error is prior knowledge: unbiased observations of the same quantity (an anchor), a
    background that is right on average, or predictors that vary where the state does not.

    Args:
        operator: H, an operator or plain function.
        predictors: functions (x, where) -> a number or an array that broadcasts to the observed values of one time;
            default: one, the constant 1.
        coefficients: \(\beta\), shape (predictors,), in the unit of the observation over that of the predictor; default
            zero.

    Raises:
        ShapeError: if the number of coefficients is not that of the predictors.

    Example:
        >>> H = Biased(lambda x: x[:2], coefficients=jnp.array([0.5]))
        >>> H(jnp.array([1.0, 2.0, 3.0])).tolist()
        [1.5, 2.5]

    Source: Derber and Wu (1998), equation 2; Dee (2005), section 3.
    """

    operator: Any
    predictors: Any = None
    coefficients: Float[Array, " predictors"] | None = None

    def __post_init__(self) -> None:
        given = (_offset,) if self.predictors is None else tuple(self.predictors)
        count = len(given)
        coefficients = jnp.zeros(count) if self.coefficients is None else jnp.asarray(self.coefficients)
        # A leading axis of windows is allowed, as `split_windows` makes it.
        if coefficients.shape[-1:] != (count,):
            raise ShapeError(f"Biased: coefficients have shape {coefficients.shape}, but there are {count} predictors")
        self._set(
            operator=as_operator(self.operator), predictors=tuple(map(as_operator, given)), coefficients=coefficients
        )

    def check(self, name: str, x: Any, where: Any = None) -> None:
        """Check H."""
        check_operator(self.operator, name, x, where)

    def check_grid(self, name: str, grid: Any) -> None:
        """Check H."""
        if isinstance(self.operator, Operator):
            self.operator.check_grid(name, grid)

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Return H(x, where) and the bias."""
        y = self.operator(x, where)
        assert self.coefficients is not None
        for j, predictor in enumerate(self.predictors):
            p = jnp.asarray(predictor(x, where)).astype(y.dtype)
            p = p.reshape((1,) * (y.ndim - p.ndim) + p.shape)
            y = y + self.coefficients[j].astype(y.dtype) * p
        return y

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return the places of H."""
        return places_of_operator(self.operator, points, where)
