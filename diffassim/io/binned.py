"""Observations of one time that do not fit in memory: sorted by place once, then read box by box."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.grids.cells import Cells
from diffassim.io.fields import require_zarr
from diffassim.io.messages import single_line
from diffassim.observations.interpolation import Interpolate
from diffassim.observations.superobservations import superobservations

__all__ = ["BinnedObservations", "Reports", "bin_observations"]

ROWS = 1 << 17  # of a chunk of the store
MOST = 1 << 24  # boxes
TOGETHER = 1 << 20  # rows that are sorted together when the store is written


class Reports(NamedTuple):
    """A chunk of observations of one time.

    values, shape (m,), NaN where one is missing; places, coordinates on the grid, shape (m, D); std, the standard
    deviations of their errors, shape (m,) or one number.
    """

    values: Any
    places: Any
    std: Any


@dataclasses.dataclass(frozen=True)
class BinnedObservations:
    """Observations of one time in a store that `bin_observations` has made; a method reads them box by box.

    Args:
        path: of the store.
        operator: observation operator H(x, where), for which `where` is the places, shape (m, D); default:
            `Interpolate` on a `Grid` of the method.
    """

    path: Path
    operator: Any = None

    def __post_init__(self) -> None:
        require_zarr(str(self.path))
        import zarr

        try:
            group = zarr.open_group(Path(self.path), mode="r")
            arrays = {name: group[name] for name in ("values", "places", "std")}
            starts, facts = np.asarray(group["starts"][...]), dict(group.attrs)  # type: ignore[index]
            cells = Cells(*(tuple(facts[name]) for name in ("lower", "sizes", "counts", "wraps")))  # type: ignore[arg-type]
        except (OSError, KeyError, AttributeError, ValueError, TypeError) as error:
            raise DataError(
                f"{self.path}: cannot be read as binned observations ({single_line(error, 200)}); make such a store "
                "with bin_observations"
            ) from None
        object.__setattr__(self, "_read", (arrays, starts, facts, cells))

    @property
    def starts(self) -> np.ndarray:
        """Where the observations of every box begin, shape (boxes + 1,)."""
        return self._read[1]  # type: ignore[attr-defined,no-any-return]

    @property
    def slack(self) -> float:
        """How far, in the straight space, a mean may lie outside of the box to which it belongs (on a sphere)."""
        return float(self._read[2]["slack"])  # type: ignore[attr-defined]

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return np.dtype(self._read[0]["values"].dtype)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def cells_for(self, name: str, grid: Any, shape: tuple[int, ...]) -> Cells:
        """Return the boxes; raise `ConfigurationError`, naming `name`, unless they were made for this grid."""
        _, _, facts, cells = self._read  # type: ignore[attr-defined]
        wanted = Cells.of(grid, shape, facts["edge"])
        if list(facts["shape"]) != list(shape) or not _alike(cells, wanted):
            raise ConfigurationError(
                f"{name}: {self.path} was made for a grid of {facts['shape']} points whose boxes begin at "
                f"{list(cells.lower)} with edges {list(cells.sizes)}, but the state has {list(shape)} points, and "
                f"boxes from {list(wanted.lower)} with edges {list(wanted.sizes)}; bin the observations for this grid"
            )
        return wanted

    def operator_for(self, grid: Any) -> Any:
        """Return the operator."""
        if self.operator is not None:
            return self.operator
        if not hasattr(grid, "periodic"):
            raise ConfigurationError(
                f"BinnedObservations: give the operator of {self.path}; for fields on a sphere InterpolateOnSphere"
            )
        return Interpolate(spacing=grid.spacing, periodic=grid.periodic)

    def read(self, boxes: np.ndarray) -> Reports:
        """Return the observations of some boxes, whose numbers ascend, in the order of the store."""
        arrays, starts, _, _ = self._read  # type: ignore[attr-defined]
        edges = [(int(starts[box]), int(starts[box + 1])) for box in boxes]
        slices: list[list[int]] = []
        for a, b in edges:
            if a == b:
                continue
            if slices and slices[-1][1] == a:
                slices[-1][1] = b
            else:
                slices.append([a, b])
        parts = {
            name: [np.asarray(array[a:b]) for a, b in slices] or [np.asarray(array[:0])]
            for name, array in arrays.items()
        }
        return Reports(**{name: np.concatenate(found) for name, found in parts.items()})


def bin_observations(
    chunks: Iterable[Any] | str | Path, path: str | Path, grid: Any, shape: tuple[int, ...], edge: float,
    *, average: float | None = None, name: str = "observations",
) -> BinnedObservations:  # fmt: skip
    """Sort observations by place into a zarr store, chunk by chunk; one pass, in any order.

    Memory is that of a chunk, of a box with the rows that are written together (a million), and of a few numbers for
    each box and chunk; while it runs the disk holds everything twice.

    Args:
        chunks: `Reports` (or such tuples) one after the other, from any iterator; or the path of a zarr store with the
            arrays values, places and std, which is read in its own chunks.
        path: of the store to be made, in place of what it held.
        grid: `Grid` or `Sphere` of the state.
        shape: of a field's trailing axes, those of the grid.
        edge: of the boxes that are analysed together, in the unit of the grid's distances; two reaches of the taper or
            more, so that not much is read more than once.
        average: edge of smaller boxes, each of which is left with one observation (`superobservations`); None: all are
            kept.
        name: of the observations, for messages.

    Returns:
        `BinnedObservations`.

    Raises:
        ShapeError: if a chunk has another shape: it names the chunk.
        DataError: if a value is infinite, the error of an observed value is not positive, or nothing was observed.
        ConfigurationError: if a length is not positive, or zarr is not installed.

    Example:
        >>> from diffassim.grids import Grid
        >>> chunk = Reports(np.array([1.0, np.nan, 2.0]), np.array([[7.5], [3.0], [0.5]]), 0.5)
        >>> stored = bin_observations([chunk], "reports.zarr", Grid(), (10,), 5.0)
        >>> len(stored), stored.read(np.array([1])).values.tolist()
        (2, [1.0])
    """
    require_zarr(str(path))
    cells = Cells.of(grid, shape, edge)
    if cells.total > MOST:
        raise ConfigurationError(
            f"{name}: an edge of {edge} makes {cells.total} boxes, and {MOST} are possible; take a longer one, two "
            "reaches of the taper or more"
        )
    fine = None if average is None else Cells.of(grid, shape, average)
    path = Path(path)
    new = path.with_name(f".{path.name}.part")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        dtype, runs = _spooled(_chunks_of(chunks), new / "rows", cells, grid, shape, name)
        if dtype is None:
            raise DataError(f"{name}: nothing was observed; there is no chunk with a value")
        facts = {"edge": float(edge), "shape": list(map(int, shape)), **dataclasses.asdict(cells)}
        facts["slack"] = 0.0 if average is None else float(grid.straight(average))
        _write(new, dtype, runs, cells, facts, grid, shape, fine)
        shutil.rmtree(path, ignore_errors=True)
        (new / "store").rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return BinnedObservations(path)


def _chunks_of(chunks: Any) -> Iterator[Any]:
    """Yield the chunks of an iterator, or those of a zarr store."""
    if not isinstance(chunks, str | Path):
        yield from chunks
        return
    import zarr

    try:
        group = zarr.open_group(Path(chunks), mode="r")
        stored: Any = [group[name] for name in Reports._fields]
        size, total = int(stored[0].chunks[0]), int(stored[0].shape[0])
    except (OSError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise DataError(
            f"{chunks}: has no arrays {', '.join(Reports._fields)} that could be read ({single_line(error, 200)})"
        ) from None
    for array in stored[1:]:
        if array.shape[:1] not in ((total,), ()):
            raise ShapeError(f"{chunks}: there are {total} values, but {array.name} has shape {array.shape}")
    for first in range(0, total, size):
        yield Reports(*(array[first : first + size] if array.shape else array[...] for array in stored))


def _checked(chunk: Any, where: str, grid: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what is observed of a chunk: values, places, standard deviations."""
    try:
        values, places, std = (np.asarray(part) for part in chunk)
    except (TypeError, ValueError):
        raise ShapeError(f"{where}: must be (values, places, std), found {type(chunk).__name__}") from None
    for part, what in ((values, "values"), (places, "places"), (std, "std")):
        if part.dtype.kind not in "fiu":
            raise DataError(f"{where}: {what} must be real numbers, found {part.dtype}")
    if values.ndim != 1 or places.shape != (len(values), grid.coordinates) or std.shape not in ((), values.shape):
        raise ShapeError(
            f"{where}: values of shape {values.shape}, places of shape {places.shape} and std of shape {std.shape} do "
            f"not fit; they must be (m,), (m, {grid.coordinates}) and (m,) or one number"
        )
    std = np.broadcast_to(std, values.shape)
    if np.isinf(values).any():
        raise DataError(f"{where}: {np.isinf(values).sum()} values are infinite; use NaN for missing")
    there = np.isfinite(values) & np.isfinite(places).all(axis=1)
    values, places, std = values[there], places[there], std[there]
    wrong = ~(np.isfinite(std) & (std > 0))
    if wrong.any():
        raise DataError(
            f"{where}: the errors of {wrong.sum()} observed values are not finite and positive, the first is "
            f"{std[wrong][0]}"
        )
    grid.check_places(where, places)
    return values, places, std


def _spooled(chunks: Iterator[Any], path: Path, cells: Cells, grid: Any, shape: tuple[int, ...], name: str) -> Any:
    """Write what is observed one chunk after the other, each sorted by box.

    Returns:
        Type of a row, None where there is none; and where the rows of a box are: boxes, first rows and their numbers.
    """
    runs: list[tuple[np.ndarray, ...]] = []
    written, dtype = 0, None
    with path.open("wb") as file:
        for number, chunk in enumerate(chunks):
            values, places, std = _checked(chunk, f"{name}: chunk {number}", grid)
            if dtype is None:
                real = np.float64 if values.dtype.itemsize > 4 else np.float32
                dtype = np.dtype([("values", real), ("std", real), ("places", np.float64, (grid.coordinates,))])
            if not len(values):
                continue
            boxes = cells.numbers(grid.embedding(places, shape)[0])
            order = np.argsort(boxes, kind="stable")
            rows = np.empty(len(values), dtype)
            rows["values"], rows["places"], rows["std"] = values[order], places[order], std[order]
            rows.tofile(file)
            own, first, count = np.unique(boxes[order], return_index=True, return_counts=True)
            runs.append((own, written + first, count))
            written += len(values)
    if not written:
        return None, None
    return dtype, tuple(np.concatenate(part) for part in zip(*runs, strict=True))


def _write(
    path: Path, dtype: Any, runs: Any, cells: Cells, facts: dict[str, Any], grid: Any, shape: tuple[int, ...], fine: Any
) -> None:
    """Bring the rows of each box together, box after box."""
    boxes, firsts, counts = runs
    order = np.argsort(boxes, kind="stable")  # within a box in the order of the chunks
    boxes, firsts, counts = boxes[order], firsts[order], counts[order]
    edges = np.flatnonzero(np.diff(boxes, prepend=-1))  # runs at which a box begins
    sizes = np.add.reduceat(counts, edges)
    store = _Store(path / "store", dtype, int(sizes.sum()), facts)
    kept = np.zeros(cells.total, np.int64)
    with (path / "rows").open("rb") as file:
        for a, b in _groups(sizes):
            first, last = int(edges[a]), int(edges[b]) if b < len(edges) else len(boxes)
            slices = zip(firsts[first:last], counts[first:last], strict=True)
            parts = np.split(_rows_at(file, dtype, slices), np.cumsum(sizes[a:b])[:-1])
            if fine is not None:
                parts = [_averaged(part, grid, shape, fine) for part in parts]
            kept[boxes[edges[a:b]]] = [len(part) for part in parts]
            store.append(np.concatenate(parts))
    store.close(np.concatenate([[0], np.cumsum(kept)]))


def _rows_at(file: Any, dtype: Any, slices: Any) -> np.ndarray:
    """Return rows of the disk; read and not mapped, so that no more is in memory than is asked for."""
    found = []
    for first, count in slices:
        file.seek(int(first) * dtype.itemsize)
        found.append(np.fromfile(file, dtype, int(count)))
    return np.concatenate(found)


class _Store:
    """The zarr store, written in whole chunks."""

    def __init__(self, path: Path, dtype: Any, most: int, facts: dict[str, Any]) -> None:
        import zarr

        self._group = zarr.open_group(path, mode="w", zarr_format=3, attributes=facts)
        self._arrays = {}
        for key in Reports._fields:
            beyond, size = dtype[key].shape, min(ROWS, most)
            self._arrays[key] = self._group.create_array(
                key, shape=(most, *beyond), chunks=(size, *beyond), dtype=dtype[key].base, compressors=None
            )
        self._written, self._waiting = 0, np.empty(0, dtype)

    def append(self, rows: np.ndarray) -> None:
        self._waiting = np.concatenate([self._waiting, rows])
        self._flush(len(self._waiting) // ROWS * ROWS)

    def _flush(self, count: int) -> None:
        for key, array in self._arrays.items():
            array[self._written : self._written + count] = self._waiting[key][:count]
        self._written, self._waiting = self._written + count, self._waiting[count:].copy()

    def close(self, starts: np.ndarray) -> None:
        """Write what waits, and where each box begins."""
        self._flush(len(self._waiting))
        for array in self._arrays.values():
            array.resize((self._written, *array.shape[1:]))
        self._group.create_array("starts", data=starts)


def _groups(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield boxes that are written together."""
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]) // TOGETHER
    cuts = np.flatnonzero(np.diff(begins, prepend=-1)).tolist()
    yield from itertools.pairwise([*cuts, len(sizes)])


def _averaged(part: np.ndarray, grid: Any, shape: tuple[int, ...], fine: Cells) -> np.ndarray:
    values, places, std = superobservations(part["values"], part["places"], part["std"], grid, shape, fine)
    found = np.empty(len(values), part.dtype)
    found["values"], found["places"], found["std"] = values, places, std
    return found


def _alike(a: Cells, b: Cells) -> bool:
    return a.counts == b.counts and a.wraps == b.wraps and np.allclose(
        [*a.lower, *a.sizes], [*b.lower, *b.sizes], rtol=1e-5, atol=1e-5
    )  # fmt: skip
