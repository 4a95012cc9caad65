"""How an ensemble lies on the devices, and how it has to lie for the next piece of work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffassim.core.sharding import mapped_over, mesh_of

__all__ = ["Layout"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parts of a pytree with a leading axis (members) lie: known outside of traced code, used inside of it.

    A forecast takes whole members, an analysis takes all members at a place. `turned` goes from the one to the other:
    every device sends every other its share, and none holds more than its part. It is a hashable value, part of the
    compiled program's key, and changes no number.

    Args:
        mesh: the devices.
        names: of the mesh's axes over which something is split.
        specs: one for every array of the pytree.
    """

    mesh: Mesh
    names: tuple[str, ...]
    specs: tuple[PartitionSpec, ...]

    @classmethod
    def of(cls, x: Any) -> Layout | None:
        """Return the layout of a pytree that lies in parts; None where it does not, or is traced."""
        mesh = mesh_of(x)
        if mesh is None:
            return None
        places = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(x)]
        specs = tuple(place.spec if isinstance(place, NamedSharding) else PartitionSpec() for place in places)
        names = {name for spec in specs for part in spec for name in _names(part)}
        return cls(mesh, tuple(name for name in mesh.axis_names if name in names), specs)

    @property
    def devices(self) -> int:
        """Devices that have parts of their own."""
        return math.prod(self.mesh.shape[name] for name in self.names)

    @property
    def processes(self) -> int:
        """Processes to which these devices belong."""
        return len({device.process_index for device in self.mesh.devices.flat})

    @property
    def own(self) -> list[int]:
        """Numbers of the parts that this process has."""
        first = [self.mesh.axis_names.index(name) for name in self.names]
        owners = np.vectorize(lambda device: device.process_index)(self.mesh.devices)
        owners = np.moveaxis(owners, first, range(len(first))).reshape(self.devices, -1)
        return np.flatnonzero((owners == jax.process_index()).any(axis=1)).tolist()

    @property
    def by_member(self) -> bool:
        """Whether the leading axis is split."""
        return any(len(spec) and _names(spec[0]) for spec in self.specs)

    def kept(self, x: Any) -> Any:
        """Return a pytree, laid out as it was; one of other arrays is split along its leading axis, if that was."""
        leaves, structure = jax.tree.flatten(x)
        if len(leaves) == len(self.specs) and all(
            len(s) <= leaf.ndim for s, leaf in zip(self.specs, leaves, strict=True)
        ):
            return structure.unflatten(map(self._place, leaves, self.specs))
        if not self.by_member:
            return x
        lead = next(spec[0] for spec in self.specs if len(spec) and _names(spec[0]))
        return structure.unflatten([self._place(leaf, PartitionSpec(lead)) for leaf in leaves])

    def turned(self, x: Any, axis: int | None = None) -> Any:
        """Return a pytree, its leading axis whole, and split along another one.

        Args:
            x: pytree of arrays with a leading axis.
            axis: the one to split (counted from the end) where it is long enough; default: the longest.
        """
        if not self.by_member:
            return x
        return jax.tree.map(lambda leaf: _apart(self._place(leaf, self._across(leaf.shape, axis))), x)

    def returned(self, x: Any) -> Any:
        """Return what was turned, laid out as it was before."""
        return self.kept(jax.tree.map(_apart, x) if self.by_member else x)

    def each(self, function: Callable[[Any], Any], x: Any) -> Any:
        """Return what `jax.vmap(function)` makes of a pytree, every device with its own members.

        Left to itself the compiler gathers all members for what it cannot take apart, Fourier transforms among them.

        Args:
            function: of one member.
            x: pytree of arrays with a leading axis, laid out as this says.
        """
        leads = {spec[0] if len(spec) else None for spec in self.specs}
        lead = leads.pop() if len(leads) == 1 else None
        count = math.prod(self.mesh.shape[name] for name in _names(lead))
        if lead is None or any(leaf.shape[0] % count for leaf in jax.tree.leaves(x)):
            return jax.vmap(function)(x)
        spec = PartitionSpec(lead)
        return mapped_over(jax.vmap(function), self.mesh, _names(lead), spec, spec)(x)

    def split(self, x: Any, axis: int = 0) -> Any:
        """Return a pytree, every array split along one axis over all devices."""

        def place(leaf: Any) -> Any:
            if leaf.shape[axis] < self.devices:
                return self._place(leaf, PartitionSpec())
            return self._place(leaf, PartitionSpec(*(None,) * (axis % leaf.ndim), self.names))

        return jax.tree.map(place, x)

    def together(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Return what all devices find together, each from its part of arrays that are split along their last axis.

        Args:
            function: of the names of the mesh's axes and the parts, filled up with zeros to one length; it sends
                messages over these axes, after which all devices have the same result.
            *arrays: any number of them.
        """
        columns = self._columns(arrays)
        specs = tuple(self._last(x) for x in columns)
        return mapped_over(partial(function, self.names), self.mesh, self.names, specs, PartitionSpec())(*columns)

    def everywhere(self, function: Callable[..., Any], x: Any, *whole: Any, columns: tuple[Any, ...] = ()) -> Any:
        """Return function(x, *whole, *columns), computed by every device for its own places.

        The compiler has no say in it: what is whole is computed with on every device, so that small matrices are not
        taken apart.

        Args:
            function: of a pytree with a leading axis (members) and further pytrees; it gives back one like the first,
                and treats all places alike.
            x: pytree of arrays with a leading axis.
            *whole: pytrees that every device gets.
            columns: arrays of which every device gets a part, split along the last axis and filled up with zeros.
        """
        columns = self._columns(columns)
        leaves, structure = jax.tree.flatten(x)
        specs = [self._across(leaf.shape, None) for leaf in leaves]
        flat = [
            _in_columns(leaf, self.devices) if not _splits(spec) else leaf
            for leaf, spec in zip(leaves, specs, strict=True)
        ]
        specs = [spec if _splits(spec) else PartitionSpec(None, self.names) for spec in specs]
        apart = partial(jax.tree.map, _apart)
        run = jax.shard_map(
            lambda parts, *others: apart(jax.tree.leaves(function(structure.unflatten(apart(parts)), *others))),
            mesh=self.mesh, in_specs=(specs, *(PartitionSpec() for _ in whole), *map(self._last, columns)),
            out_specs=specs, check_vma=False,
        )  # fmt: skip
        found = run(flat, *whole, *columns)
        return structure.unflatten([_as_before(part, leaf) for part, leaf in zip(found, leaves, strict=True)])

    def _across(self, shape: tuple[int, ...], axis: int | None) -> PartitionSpec:
        """Return the layout in which the members of a place are together; an empty one where nothing can be divided."""
        sizes = [n if n % self.devices == 0 else 0 for n in shape[1:]]
        if not any(sizes):
            return PartitionSpec()
        place = sizes.index(max(sizes))
        if axis is not None and -len(sizes) <= axis < 0 and sizes[axis]:
            place = len(sizes) + axis
        return PartitionSpec(*(None,) * (place + 1), self.names)

    def _columns(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arrays with zeros up to a multiple of the devices along their last axis."""
        return tuple(jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % self.devices)]) for x in arrays)

    def _last(self, x: Any) -> PartitionSpec:
        return PartitionSpec(*(None,) * (x.ndim - 1), self.names)

    def _place(self, leaf: Any, spec: PartitionSpec) -> Any:
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))


def _names(part: Any) -> tuple[str, ...]:
    if part is None:
        return ()
    return part if isinstance(part, tuple) else (part,)


def _apart(leaf: Any) -> Any:
    """Return an array by a gather along its whole leading axis.

    The products of an analysis ask for a layout in memory that would spread over the messages into the forecast, and
    the Fourier transforms of XLA on CPUs fail at any but one.
    """
    return leaf[jnp.arange(leaf.shape[0])]


def _splits(spec: PartitionSpec) -> bool:
    return any(part is not None for part in spec)


def _in_columns(leaf: Any, devices: int) -> Any:
    """Return an array as members times places, filled up with places that do not count."""
    rows = leaf.reshape(leaf.shape[0], -1)
    return jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % devices)), mode="edge")


def _as_before(part: Any, leaf: Any) -> Any:
    if part.shape == leaf.shape:
        return part
    return part[:, : math.prod(leaf.shape[1:])].reshape(leaf.shape)
