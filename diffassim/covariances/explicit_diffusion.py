"""Correlations by explicit diffusion."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.pytree import static
from diffassim.covariances.diffusion import Diffusion

__all__ = ["ExplicitDiffusion"]


class ExplicitDiffusion(Diffusion):
    r"""Correlation by M explicit steps of diffusion, one axis after the other; lengths may vary along their axis.

    .. math::
        L = \sigma \prod_d N_d^{-1/2} \Big(1 + \frac{\partial}{\partial x_d} \frac{\ell_d^2}{2 M}
            \frac{\partial}{\partial x_d}\Big)^{M/2}

    The correlation tends to the Gaussian of length \(\ell_d\) as M grows, with the standard deviation exactly `std` at
    every point, as for `Diffusion`. Each step reads the two neighbors, so that there is nothing to solve; but the steps
    are stable, and L positive definite, only for \(M > 2\,(\ell_d / h_d)^2\), where `Diffusion` takes any length. It
    pays for lengths of some cells (up to about seven beside ten implicit steps on a CPU, `benchmarks.diffusion`). Each
    step only damps, so the inverse is ill-conditioned beyond use: there is no `whiten`, `solve` or `logdet`.

    Args:
        std: standard deviation \(\sigma\), a number or a field that broadcasts to the state; in the unit of the state.
        length: \(\ell_d\), a number for all axes or a tuple of one entry per axis; an entry may be an array along its
            axis, shape (n_d,). In the unit of the grid spacing.
        grid: grid of the state's trailing axes; a periodic axis needs at least three points.
        order: M, even (static).

    Raises:
        ConfigurationError: if std or length is not positive, the order is not a positive even number, or the lengths,
            where they are known, need a higher one.
        ShapeError: if the lengths do not fit the grid.

    Example:
        >>> from diffassim.grids.grid import Grid
        >>> B = ExplicitDiffusion(std=2.0, length=1.5, grid=Grid(periodic=False))
        >>> B.apply(jnp.eye(9)).diagonal().round(3)[:3].tolist()
        [4.0, 4.0, 4.0]

    Source: Weaver and Courtier (2001), section 3.1 and equation 19 for the limit of stability.
    """

    order: int = static(default=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, (length, spacing) in enumerate(zip(self._lengths(), self.grid.spacing, strict=True)):
            cells, h = concrete(length), concrete(spacing)
            if cells is None or h is None:
                continue
            least = 2 * float(np.max(cells / h)) ** 2
            if not self.order > least:
                needed = 2 * (int(least) // 2 + 1)
                raise ConfigurationError(
                    f"ExplicitDiffusion: {self.order} steps are not stable for the length of axis {axis}; give an "
                    f"order of at least {needed}, or use Diffusion, which takes any"
                )

    def whiten(self, x: Any) -> Any:
        """Raise `NotAvailableError`: ill-conditioned."""
        raise self._unavailable("whiten")

    def solve(self, x: Any) -> Any:
        """Raise `NotAvailableError`: ill-conditioned."""
        raise self._unavailable("solve")

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Raise `NotAvailableError`: ill-conditioned."""
        raise self._unavailable("logdet")

    def _unavailable(self, operation: str, advice: str = "") -> Any:
        return super()._unavailable(operation, advice or "Explicit steps only damp; Diffusion has an inverse.")

    @property
    def _exponent(self) -> int:
        return self.order

    def _diffusivity(self, length: Array) -> Array:
        # negative: A = 1 - d/dx kappa d/dx is then one explicit step
        return -jnp.square(length) / (2 * self.order)
