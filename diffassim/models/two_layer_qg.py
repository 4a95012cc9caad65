"""Two-layer quasi-geostrophic turbulence on a doubly periodic square."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from diffassim.core.errors import ShapeError, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.core.linear import linear_map, with_adjoint
from diffassim.core.pytree import static
from diffassim.models.base import Model, Parameter, SpectralModel, Variable
from diffassim.models.numerics.fourier import Split, frequencies, to_grid, to_modes, wavenumbers
from diffassim.models.numerics.integrators import runge_kutta_4

__all__ = ["SpectralTwoLayerQG", "TwoLayerQG"]

CUTOFF = 0.65 * math.pi  # of the filter, as phase from one point to the next


class TwoLayerQG(SpectralModel):
    r"""Baroclinic eddies that grow on a sheared mean flow, the model of pyqg at its defaults.

    .. math::
        \partial_t q_i + \nabla \cdot \big((U_i + u_i, v_i)\, q_i\big) + Q_i\, \partial_x \psi_i
            = -\delta_{i2}\, r\, \Delta \psi_2, \qquad
        q_i = \Delta \psi_i + (-1)^i F_i (\psi_1 - \psi_2), \quad Q_i = \beta - (-1)^i F_i (U_1 - U_2)

    with \((u, v) = (-\partial_y, \partial_x) \psi\), \(F_1 = 1 / (r_d^2 (1 + \delta))\), \(F_2 = \delta F_1\). Fourier
    modes; the products keep their aliases, and after each step modes beyond .65 of the largest wavenumber, as phase
    \(\theta\) from one point to the next, are multiplied by \(\exp(-s (\theta - .65 \pi)^4)\), which is all the
    dissipation at small scales.

    The tendency is that of pyqg (and pyqg-jax) to rounding. Steps are classical Runge-Kutta ones, so that the state is
    q alone. pyqg's Adams-Bashforth scheme, a quarter of the work for the same dt, is
    `AdamsBashforth3(model.spectral(n))`, whose state holds two tendencies as well. The filter acts once a step: its
    effect over a time depends on dt.

    State: potential vorticity of the upper and lower layer, shape (..., 2, n, n), axes (layer, y, x), n >= 4; in 1/s.

    Args:
        length: L, side of the square, m.
        beta: \(\beta\), gradient of the Coriolis parameter, 1/(m s).
        deformation_radius: \(r_d\), m (`rd` in pyqg).
        thickness_ratio: \(\delta\), of the upper to the lower layer (`delta`).
        upper_flow: \(U_1\), mean zonal velocity of the upper layer, m/s (`U1`).
        lower_flow: \(U_2\), of the lower layer, m/s (`U2`).
        drag: r, of the lower layer at the bottom, 1/s (`rek`).
        filter_strength: s (`filterfac`).
        dt: time step, s.

    Raises:
        ConfigurationError: if a length is not positive.
        ShapeError: if the state is not two square fields of at least 4 points a side.

    Example:
        >>> model = TwoLayerQG()
        >>> y, x = jnp.meshgrid(*[2 * math.pi / 16 * jnp.arange(16.0)] * 2, indexing="ij")
        >>> q = 1e-6 * jnp.stack([jnp.cos(3 * x), jnp.sin(2 * x + y)])
        >>> model.step(q, 0).shape
        (2, 16, 16)

    Source: Vallis (2017), section 5.4; parameters, filter and Adams-Bashforth steps: pyqg (Abernathey et al., 2022).
    """

    length: Any = 1e6
    beta: Any = 1.5e-11
    deformation_radius: Any = 15000.0
    thickness_ratio: Any = 0.25
    upper_flow: Any = 0.025
    lower_flow: Any = 0.0
    drag: Any = 5.787e-7
    filter_strength: Any = 23.6
    dt: Any = 7200.0

    space_axes: ClassVar[int] = 2
    time_units: ClassVar[str] = "s"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "length": Parameter("m", (0.0, float("inf")), "side of the square"),
        "beta": Parameter("m-1 s-1", long_name="gradient of the Coriolis parameter"),
        "deformation_radius": Parameter("m", (0.0, float("inf")), "radius of deformation"),
        "thickness_ratio": Parameter("1", (0.0, float("inf")), "thickness of the upper over that of the lower layer"),
        "upper_flow": Parameter("m s-1", long_name="mean zonal velocity of the upper layer"),
        "lower_flow": Parameter("m s-1", long_name="mean zonal velocity of the lower layer"),
        "drag": Parameter("s-1", (0.0, float("inf")), "drag of the lower layer"),
        "filter_strength": Parameter("1", (0.0, float("inf")), "strength of the filter"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("TwoLayerQG.length", self.length)
        require_positive("TwoLayerQG.deformation_radius", self.deformation_radius)

    def tendency(self, q: Float[Array, "... 2 n n"]) -> Float[Array, "... 2 n n"]:
        """Return dq/dt, without the filter."""
        core = self._core(q)
        return to_grid(core.tendency(to_modes(q, 2, self.split)), q.shape[-2:], self.split)

    def step(self, q: Float[Array, "... 2 n n"], t: Any) -> Float[Array, "... 2 n n"]:
        """Advance by dt."""
        return to_grid(self._core(q).step(to_modes(q, 2, self.split), t), q.shape[-2:], self.split)

    def streamfunction(self, q: Float[Array, "... 2 n n"]) -> Float[Array, "... 2 n n"]:
        r"""Return \(\psi\), in m2/s, with mean zero."""
        self._check(q)
        inverse, _, _, _ = self._inversion(q.shape[-1], q.dtype)
        modes = to_modes(q, 2, self.split)
        return to_grid(_applied(inverse.astype(modes.dtype), modes), q.shape[-2:], self.split)

    def spectral(self, n: int, dtype: Any = float) -> SpectralTwoLayerQG:
        """Return this model for Fourier coefficients in place of fields, its coefficients evaluated once.

        Args:
            n: points a side.
            dtype: of the fields.

        Returns:
            A model whose state is `fourier.to_modes(q, 2, self.split)`; derivatives by the parameters pass through it.
        """
        dtype = jnp.zeros((), dtype).dtype
        inverse, y, x, layers = self._inversion(n, dtype)
        U, Q, drag = (values[:, None, None, None] for values in layers)
        zero = jnp.zeros_like(x)
        u, v = (lax.complex(jnp.zeros_like(inverse), wave[None, None] * inverse) for wave in (-y, x))
        square = jnp.square(x) + jnp.square(y)
        friction = drag * square[None, None] * inverse
        waves = -x[None, None] * (Q * inverse + U * jnp.eye(2, dtype=dtype)[:, :, None, None])
        spacing = jnp.asarray(self.length, dtype) / n
        beyond = jnp.maximum(spacing * safe_sqrt(square) - CUTOFF, 0)
        return SpectralTwoLayerQG(
            jnp.concatenate([u, v]), lax.complex(jnp.stack([zero, zero]), jnp.stack([-x, -y])),
            lax.complex(friction, waves), jnp.exp(-jnp.asarray(self.filter_strength, dtype) * beyond**4),
            jnp.asarray(self.dt, dtype), n, self.split,
        )  # fmt: skip

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("q", ("layer", "y", "x"), "s-1", "potential vorticity")

    def _core(self, q: Array) -> SpectralTwoLayerQG:
        self._check(q)
        return self.spectral(q.shape[-1], q.dtype)

    def _check(self, q: Array) -> None:
        shape = q.shape[-3:]
        if len(shape) < 3 or shape[0] != 2 or shape[1] != shape[2] or shape[1] < 4:
            raise ShapeError(
                f"TwoLayerQG: the state must have trailing axes (2, n, n) with n of at least 4; found {q.shape}"
            )

    def _inversion(self, n: int, dtype: Any) -> tuple[Array, Array, Array, tuple[Array, Array, Array]]:
        """Return the matrices from q to psi, the wavenumbers, and (U, Q, drag) by layer."""
        y, x = wavenumbers((n, n), self.length, dtype, self.split)
        if n % 2 == 0:  # the sign of the shortest wave as in pyqg: it matters for products with their aliases
            y = jnp.where(jnp.arange(n)[:, None] == n // 2, -y, y)
        delta, beta, U_1, U_2, drag, radius = (
            jnp.asarray(p, dtype)
            for p in (
                self.thickness_ratio, self.beta, self.upper_flow, self.lower_flow, self.drag, self.deformation_radius,
            )
        )  # fmt: skip
        F_1 = 1 / (jnp.square(radius) * (1 + delta))
        F_2 = delta * F_1
        x, y = jnp.broadcast_arrays(x, y)
        square = jnp.square(x) + jnp.square(y)
        determinant = square * (square + F_1 + F_2)
        factor = jnp.where(square > 0, 1, 0) / jnp.where(square > 0, determinant, 1)
        one = jnp.ones_like(square)
        matrix = jnp.stack([jnp.stack([square + F_2, F_1 * one]), jnp.stack([F_2 * one, square + F_1])])
        U, Q = jnp.stack([U_1, U_2]), jnp.stack([beta + F_1 * (U_1 - U_2), beta - F_2 * (U_1 - U_2)])
        return -factor[None, None] * matrix, y, x, (U, Q, jnp.stack([jnp.zeros_like(drag), drag]))


class SpectralTwoLayerQG(Model):
    """The two-layer model for Fourier coefficients, made by `TwoLayerQG.spectral`.

    Ten real transforms for a tendency, in two calls; in reverse mode ten more, and the fields are all that is kept.

    Args:
        velocity: from q to (u_1, u_2, v_1, v_2), shape (4, 2, n, m).
        divergence: -i k and -i l, shape (2, n, m).
        linear: from q to the linear part of its tendency, shape (2, 2, n, m).
        filter: factors of the modes after each step, shape (n, m).
        dt: time step.
        n: points a side (static).
        split: how fields lie in parts (static); None: whole.
    """

    velocity: Complex[Array, "4 2 n m"]
    divergence: Complex[Array, "2 n m"]
    linear: Complex[Array, "2 2 n m"]
    filter: Float[Array, "n m"]
    dt: Any
    n: int = static()
    split: Split | None = static(default=None, repr=False)

    def tendency(self, modes: Complex[Array, "... 2 n m"]) -> Complex[Array, "... 2 n m"]:
        """Return the tendency, without the filter."""
        to_fields, to_fields_transposed, to_divergence, to_divergence_transposed = (
            partial(function, n=self.n, split=self.split)
            for function in (_to_fields, _to_fields_transposed, _to_divergence, _to_divergence_transposed)
        )
        fields = linear_map(to_fields, to_fields_transposed, modes, self.velocity)
        advection = linear_map(to_divergence, to_divergence_transposed, _fluxes(None, fields), self.divergence)
        return advection + _applied(self.linear, modes)

    def filtered(self, modes: Complex[Array, "... 2 n m"]) -> Complex[Array, "... 2 n m"]:
        """Return the modes as they leave a step."""
        return _lifted(self.filter, modes).astype(modes.dtype) * modes

    def step(self, modes: Complex[Array, "... 2 n m"], t: Any) -> Complex[Array, "... 2 n m"]:
        """Advance by dt."""
        return self.filtered(runge_kutta_4(self.tendency, modes, jnp.asarray(self.dt).astype(modes.dtype)))

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("q", ("layer", "wavenumber_y", "wavenumber_x"), "s-1", "Fourier coefficients of q")


def _lifted(factor: Array, modes: Array) -> Array:
    """Give leading axes of length one to an array that ends in (y, x)."""
    return factor.reshape((1,) * (modes.ndim - factor.ndim) + factor.shape)


def _applied(matrix: Array, modes: Array) -> Array:
    """Return the products of 2-column matrices with the two layers."""
    first, second = (matrix[:, j].reshape((1,) * (modes.ndim - 3) + matrix[:, j].shape) for j in range(2))
    return first * modes[..., :1, :, :] + second * modes[..., 1:, :, :]


# The maps between modes and fields are written with their transposes: the derived ones go through complex transforms,
# or multiply by what is zero.


def _weights(n: int, split: Split | None, dtype: Any) -> Array:
    """Return how often the modes of each column occur in the sum over all modes."""
    _, index = frequencies((n, n), split)
    return jnp.where((index == 0) | (2 * index == n), 1, 2).reshape(-1).astype(dtype)


def _to_fields(modes: Array, velocity: Array, *, n: int, split: Split | None) -> Array:
    return to_grid(jnp.concatenate([_applied(velocity, modes), modes], axis=-3), (n, n), split)


def _to_fields_transposed(bar: Array, velocity: Array, *, n: int, split: Split | None) -> Array:
    modes = to_modes(bar, 2, split).conj()
    weights = (_weights(n, split, bar.dtype) / (n * n)).astype(modes.dtype)
    modes = modes * weights.reshape((1,) * (modes.ndim - 1) + (-1,))
    transposed = [
        jnp.sum(velocity[:, j].reshape((1,) * (modes.ndim - 3) + velocity[:, j].shape) * modes[..., :4, :, :], axis=-3)
        for j in range(2)
    ]
    return jnp.stack(transposed, axis=-3) + modes[..., 4:, :, :]


def _plain_fluxes(_: None, fields: Array) -> Array:
    """Return (u_1 q_1, u_2 q_2, v_1 q_1, v_2 q_2)."""
    q = fields[..., 4:, :, :]
    return jnp.concatenate([fields[..., :2, :, :] * q, fields[..., 2:4, :, :] * q], axis=-3)


def _adjoint_fluxes(_: None, bar: Array, fields: Array) -> tuple[Array]:
    u, v, q = (fields[..., i : i + 2, :, :] for i in (0, 2, 4))
    bar_u, bar_v = bar[..., :2, :, :], bar[..., 2:, :, :]
    return (jnp.concatenate([bar_u * q, bar_v * q, bar_u * u + bar_v * v], axis=-3),)


_fluxes = with_adjoint(_plain_fluxes, _adjoint_fluxes)


def _to_divergence(fluxes: Array, divergence: Array, *, n: int, split: Split | None) -> Array:
    modes = to_modes(fluxes, 2, split)
    along_x, along_y = (_lifted(d, modes) for d in divergence)
    return along_x * modes[..., :2, :, :] + along_y * modes[..., 2:, :, :]


def _to_divergence_transposed(bar: Array, divergence: Array, *, n: int, split: Split | None) -> Array:
    along_x, along_y = (_lifted(d, bar) for d in divergence)
    weights = (n * n / _weights(n, split, divergence.real.dtype)).astype(bar.dtype)
    both = jnp.concatenate([along_x * bar, along_y * bar], axis=-3).conj()
    return to_grid(both * weights.reshape((1,) * (bar.ndim - 1) + (-1,)), (n, n), split)
