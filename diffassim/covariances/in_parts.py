"""Covariances of fields that lie in parts on several devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from diffassim.core.errors import ConfigurationError
from diffassim.core.fourier import Split
from diffassim.core.layout import Layout
from diffassim.core.sharding import leading_mesh, one_split_axis
from diffassim.covariances.base import Covariance, require_covariance
from diffassim.covariances.ensemble import Ensemble
from diffassim.covariances.kronecker import Kronecker
from diffassim.covariances.measured import MeasuredSpectrum
from diffassim.covariances.spectral import Spectral
from diffassim.covariances.zonal import ZonallyHomogeneous

__all__ = ["in_parts"]


def in_parts(covariance: Covariance, x: Any, mesh: Mesh, axes: int | Mapping[str, int] | None = -1) -> Covariance:
    """Return a covariance that takes fields in parts, with the same values and derivatives.

    `Gaussian`, `Matern`, `MeasuredSpectrum` and `ZonallyHomogeneous`, also within `Sum`, `Scaled`, `Blocks`,
    `Kronecker` and as localization of `Ensemble`, get transforms of fields in parts: two all-to-alls for a product
    where fields are split along another axis than the last, four along the last and on a line, none where the split
    axis is not one of the grid's. Where the members of an `Ensemble` lie in parts, each device transforms the weights
    of its own members; they may be split over one axis of the mesh and space over another. All other covariances
    stay as they are, and take fields in parts without it: the compiler adds the messages.

    Args:
        covariance: of states like x.
        x: a state (an array for `Kronecker`), whole or in parts; only its shapes count.
        mesh: the devices.
        axes: axis of the state's arrays that is split, counted from the end; or by the name of the mesh's axis,
            {"space": -2}; None: states are whole, and members of an `Ensemble` in parts.

    Returns:
        A covariance of the same class.

    Raises:
        ShapeError: if the devices do not divide the axis (on a line, as often as they have to).
        ConfigurationError: if it is a line between walls, or a circle of latitude is split, or the mesh's axis is not
            named, or is that of the members, or these lie on another mesh.

    Example:
        >>> import diffassim as da
        >>> B = da.covariances.Gaussian(std=2.0, length=3.0, grid=da.grids.Grid(periodic=(True, True)))
        >>> x = jnp.zeros((16, 16)).at[8, 8].set(1.0)
        >>> in_parts(B, x, da.device_mesh(1), -2).apply(x)[8, 8].round(5).tolist()
        4.0
    """
    require_covariance("in_parts: covariance", covariance, x)
    split = None if axes is None else Split(mesh, *one_split_axis("in_parts", x, mesh, axes))
    given = covariance if split is None else _given(covariance, split)
    given = jax.tree.map(lambda node: _by_member(node, mesh, split), given, is_leaf=_is_ensemble)
    given.check("in_parts: x", x)
    return given


def _is_ensemble(node: Any) -> bool:
    return isinstance(node, Ensemble)


def _by_member(node: Any, mesh: Mesh, split: Split | None) -> Any:
    """Return an `Ensemble` that knows how its members lie in parts, if they do; what is none as it is."""
    if not _is_ensemble(node) or node.localization is None:
        return node
    found = leading_mesh(node.members)
    if found is None:
        return node.replace(layout=None)
    on, names = found
    if dict(on.shape) != dict(mesh.shape) or on.devices.tolist() != mesh.devices.tolist():
        raise ConfigurationError(
            f"in_parts: the members lie in parts on the mesh {dict(on.shape)}, and states shall on {dict(mesh.shape)}; "
            'take one mesh for both, for example da.device_mesh({"member": 2, "space": 2})'
        )
    if split is not None and split.name in (names if isinstance(names, tuple) else (names,)):
        raise ConfigurationError(
            f"in_parts: members and states are both split over the axis {split.name!r} of the mesh {dict(mesh.shape)}; "
            'split members over another, for example da.device_mesh({"member": 2, "space": 2})'
        )
    return node.replace(layout=Layout.of(node.members))


def _given(covariance: Any, split: Split) -> Any:
    """Return a covariance with this split in all that transforms."""
    known = (Spectral, MeasuredSpectrum, ZonallyHomogeneous, Kronecker)

    def give(node: Any) -> Any:
        if isinstance(node, Spectral | MeasuredSpectrum | ZonallyHomogeneous):
            return node.replace(split=split)
        if not isinstance(node, Kronecker):
            return node
        factors, after = [], node.ndim
        for factor in node.factors:
            after -= factor.ndim  # axes of later factors; the product brings those of this one to the end
            axis = split.axis
            if -after <= axis:
                axis -= factor.ndim
            elif -after - factor.ndim <= axis:
                axis += after
            factors.append(_given(factor, Split(split.mesh, split.name, axis)))
        return Kronecker(*factors)

    return jax.tree.map(give, covariance, is_leaf=lambda node: isinstance(node, known))
