"""Analyses whose observations stay on the disk are those of all observations at once, and bad chunks are named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.grids import Cells, Grid, Sphere
from diffassim.io.binned import BinnedObservations, Reports, bin_observations
from diffassim.observations.superobservations import superobservations

N = 6
PLANE = Grid(spacing=(1.0, 0.5), periodic=(True, False))
SHAPE = (18, 20)
TAPER = da.ensemble.GaspariCohn(0.8)
METHODS = {
    "LETKF": da.LETKF(1.05, localization=TAPER, grid=PLANE),
    "LETKF, nearest few": da.LETKF(localization=TAPER, grid=PLANE, neighbors=5),
    "LETKF, rotated": da.LETKF(da.ensemble.RelaxToPriorSpread(0.5), True, TAPER, PLANE),
    "LETKFN": da.ensemble.LETKFN(localization=TAPER, grid=PLANE),
    "LNETF": da.ensemble.LNETF(localization=TAPER, grid=PLANE),
    "LETPF": da.ensemble.LETPF(localization=TAPER, grid=PLANE),
    "LocalEnKF": da.ensemble.LocalEnKF(localization=TAPER, grid=PLANE),
}


def members(dtype=np.float64, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(0).normal(size=(N, *shape)), dtype)


def reports(seed, count, dtype=np.float64):
    """Return observations in and around the domain, most of them in a corner, some missing."""
    rng = np.random.default_rng(seed)
    places = np.concatenate([rng.uniform(0, 3, (count // 2, 2)), rng.uniform(-2, 18, (count - count // 2, 2))])
    values = rng.normal(size=count)
    values[::9] = np.nan
    places[4::11, 1] = np.nan
    return Reports(values.astype(dtype), places, rng.uniform(0.5, 2.0, count).astype(dtype))


def whole(method, ensemble, chunks, key=None):
    """Return the analysis of all chunks at once."""
    values, places, std = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    H = da.observations.Interpolate(spacing=PLANE.spacing, periodic=PLANE.periodic)
    error = da.covariances.Diagonal(jnp.asarray(std, ensemble.dtype))
    y = da.Observations(jnp.asarray(values)[None], [0], H, error, where=jnp.asarray(places, ensemble.dtype)[None])
    there = np.nan_to_num(places)
    return method.replace(places=jnp.asarray(there)).analyze(key, ensemble, y)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_an_analysis_in_blocks_is_the_whole_one(name, tmp_path):
    method, chunks, key = METHODS[name], [reports(1, 40), reports(2, 1), reports(3, 90)], None
    if method.random:
        key = jax.random.key(3)
    stored = bin_observations(iter(chunks), tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    found, info = da.ensemble.analyze_in_blocks(method, members(), stored, key)
    wanted, other = whole(method, members(), chunks, key)
    # A root of weights close to zero loses digits.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 if name == "LNETF" else 1e-12)
    for field in ("count", "chi_square", "background_spread", "analysis_spread", "log_likelihood", "non_finite"):
        np.testing.assert_allclose(getattr(info, field), getattr(other, field), rtol=1e-11, err_msg=field)
    assert int(info.result) == int(other.result)
    assert float(jnp.abs(found - members()).max()) > 0.1


@pytest.mark.slow
@pytest.mark.long
def test_it_is_the_whole_one_in_single_precision(tmp_path):
    chunks = [reports(1, 60, np.float32)]
    stored = bin_observations(chunks, tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    assert stored.dtype == np.float32
    found, _ = da.ensemble.analyze_in_blocks(METHODS["LETKF"], members(np.float32), stored)
    wanted, _ = whole(METHODS["LETKF"], members(np.float32), chunks)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_two_stores_and_a_state_of_several_fields_are_analysed_together(tmp_path):
    """Levels lie in front of the grid's axes, and each store observes one of two fields."""
    state = {"u": members(shape=(2, *SHAPE)), "v": members() + 1}
    chunks = [reports(1, 40)], [reports(2, 50)]
    fields = {"u": lambda x: x["u"][..., 1, :, :], "v": lambda x: x["v"]}
    at = da.observations.Interpolate(spacing=PLANE.spacing, periodic=PLANE.periodic)
    operators = [da.observations.Function(lambda x, where, f=f: at(f(x), where)) for f in fields.values()]
    stores = [
        BinnedObservations(bin_observations(each, tmp_path / f"{k}.zarr", PLANE, SHAPE, 5.0).path, operator)
        for k, (each, operator) in enumerate(zip(chunks, operators, strict=True))
    ]
    method = da.LETKF(localization=TAPER, grid=PLANE)
    found, info = da.ensemble.analyze_in_blocks(method, state, tuple(stores))
    streams = tuple(
        da.Observations(
            jnp.asarray(part.values)[None], [0], operator, da.covariances.Diagonal(jnp.asarray(part.std)),
            where=jnp.asarray(part.places)[None],
        )
        for (part,), operator in zip(chunks, operators, strict=True)
    )  # fmt: skip
    given = tuple(jnp.nan_to_num(jnp.asarray(part.places)) for (part,) in chunks)
    wanted, other = method.replace(places=given).analyze(None, state, streams)
    for name in state:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-12)
    assert int(info.count) == int(other.count)


@pytest.mark.slow
@pytest.mark.long
def test_observations_on_a_sphere_are_found_over_the_poles_and_the_date_line(tmp_path):
    rng = np.random.default_rng(0)
    latitude, longitude = np.linspace(-80, 80, 9), np.arange(0, 360, 30.0)
    sphere, shape = Sphere(latitude[:, None], longitude), (9, 12)
    places = np.stack([np.rad2deg(np.arcsin(rng.uniform(-1, 1, 200))), rng.uniform(-180, 540, 200)], axis=-1)
    chunk = Reports(rng.normal(size=200), places, 1.0)
    H = da.observations.InterpolateOnSphere(latitude, longitude)
    stored = BinnedObservations(bin_observations([chunk], tmp_path / "y.zarr", sphere, shape, 4000.0).path, H)
    method = da.LETKF(localization=da.ensemble.GaspariCohn(700.0), grid=sphere)
    found, info = da.ensemble.analyze_in_blocks(method, members(shape=shape), stored)
    y = da.Observations(
        jnp.asarray(chunk.values)[None], [0], H, da.covariances.Diagonal(std=1.0), where=jnp.asarray(places)[None]
    )
    wanted, other = method.replace(places=jnp.asarray(places)).analyze(None, members(shape=shape), y)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert int(info.count) == int(other.count) == 200


@pytest.mark.slow
def test_means_of_values_at_one_place_give_the_same_analysis(tmp_path):
    rng = np.random.default_rng(1)
    places = np.repeat(rng.uniform(0.2, 0.8, (30, 2)) * (18.0, 9.5), 4, axis=0)
    chunk = Reports(rng.normal(size=120), places, rng.uniform(0.5, 2, 120))
    all_of, means = (
        bin_observations([chunk], tmp_path / f"{average}.zarr", PLANE, SHAPE, 5.0, average=average)
        for average in (None, 1e-6)
    )
    assert (len(all_of), len(means)) == (120, 30)
    found, wanted = (da.ensemble.analyze_in_blocks(METHODS["LETKF"], members(), each)[0] for each in (means, all_of))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_means_on_a_sphere_stay_on_it():
    sphere = Sphere(np.array([[-45.0], [45.0]]), np.array([0.0, 120.0, 240.0]))
    values, places, std = superobservations(
        np.array([1.0, 3.0]), np.array([[10.0, 179.0], [10.0, -179.0]]), np.ones(2), sphere, (2, 3),
        Cells.of(sphere, (2, 3), 20_000.0),
    )  # fmt: skip
    assert values.tolist() == [2.0] and abs(abs(places[0, 1]) - 180) < 1e-9 and 10 < places[0, 0] < 10.01
    np.testing.assert_allclose(std, [0.5**0.5])


def test_the_order_of_chunks_and_their_size_make_no_difference_to_what_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr("diffassim.io.binned.ROWS", 16)
    monkeypatch.setattr("diffassim.io.binned.TOGETHER", 50)
    part = reports(5, 300)
    pieces = [Reports(*(array[a : a + 37] for array in part)) for a in range(0, 300, 37)]
    one = bin_observations([part], tmp_path / "one.zarr", PLANE, SHAPE, 4.0)
    many = bin_observations(iter(pieces), tmp_path / "many.zarr", PLANE, SHAPE, 4.0)
    other = bin_observations(pieces[::-1], tmp_path / "other.zarr", PLANE, SHAPE, 4.0)
    np.testing.assert_array_equal(one.starts, many.starts)
    boxes = np.arange(len(one.starts) - 1)
    for a, b in zip(one.read(boxes), many.read(boxes), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(other.read(boxes).values) == sorted(one.read(boxes).values)
    for box in boxes[::3]:
        inside = one.read(np.array([box]))
        assert (one.cells_for("x", PLANE, SHAPE).numbers(PLANE.embedding(inside.places, SHAPE)[0]) == box).all()


def test_a_zarr_store_of_chunks_is_read_chunk_by_chunk(tmp_path):
    zarr = pytest.importorskip("zarr")
    part = reports(6, 90)
    group = zarr.open_group(tmp_path / "raw.zarr", mode="w")
    for name, array in part._asdict().items():
        group.create_array(name, data=array, chunks=(20, *array.shape[1:]))
    stored = bin_observations(tmp_path / "raw.zarr", tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    there = np.isfinite(part.values) & np.isfinite(part.places).all(axis=1)
    assert len(stored) == there.sum()
    group.create_array("std", data=np.ones(5), overwrite=True)
    with pytest.raises(ShapeError, match=r"raw.zarr: there are 90 values, but .*std has shape \(5,\)"):
        bin_observations(tmp_path / "raw.zarr", tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    with pytest.raises(DataError, match=r"none.zarr: has no arrays values, places, std"):
        bin_observations(tmp_path / "none.zarr", tmp_path / "z.zarr", PLANE, SHAPE, 5.0)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"places": np.zeros((3, 1))}, ShapeError, r"chunk 1: values of shape \(4,\), places of shape \(3, 1\)"),
        ({"std": np.ones(3)}, ShapeError, r"chunk 1: .*std of shape \(3,\)"),
        ({"values": np.ones((2, 2))}, ShapeError, r"chunk 1: values of shape \(2, 2\)"),
        ({"values": np.array([1, np.inf, 1, 1])}, DataError, "chunk 1: 1 values are infinite; use NaN"),
        ({"std": np.array([1, 1, np.nan, 0.0])}, DataError, "chunk 1: the errors of 2 observed values"),
        ({"values": np.array(["a"] * 4)}, DataError, "chunk 1: values must be real numbers, found <U1"),
    ],
)
def test_a_bad_chunk_is_named_and_leaves_what_was_there(tmp_path, changed, error, said):
    sound = Reports(np.ones(4), np.ones((4, 2)), np.ones(4))
    before = bin_observations([sound], tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    with pytest.raises(error, match=said):
        bin_observations([sound, sound._replace(**changed)], tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    assert len(BinnedObservations(before.path)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["y.zarr"]


def test_what_is_missing_makes_no_error_and_nothing_at_all_does(tmp_path):
    none = Reports(np.full(3, np.nan), np.ones((3, 2)), np.full(3, np.nan))
    empty = Reports(np.zeros(0), np.zeros((0, 2)), 1.0)
    for chunks in ([], [empty], [none, none]):
        with pytest.raises(DataError, match="radiances: nothing was observed"):
            bin_observations(chunks, tmp_path / "y.zarr", PLANE, SHAPE, 5.0, name="radiances")
    one = none._replace(values=np.array([np.nan, 2.0, np.nan]), std=1.0)
    stored = bin_observations([none, empty, one], tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    assert len(stored) == 1
    with pytest.raises(ConfigurationError, match=r"an edge of 0.001 makes .* boxes, and 16777216 are possible"):
        bin_observations([one], tmp_path / "y.zarr", PLANE, SHAPE, 1e-3)
    with pytest.raises(ShapeError, match=r"chunk 0: must be \(values, places, std\), found int"):
        bin_observations([3], tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    with pytest.raises(DataError, match=r"nowhere.zarr: cannot be read as binned observations"):
        BinnedObservations(tmp_path / "nowhere.zarr")


def test_what_cannot_be_analysed_in_blocks_is_named(tmp_path):
    stored = bin_observations([reports(1, 40)], tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    letkf, analyze = METHODS["LETKF"], da.ensemble.analyze_in_blocks
    with pytest.raises(ConfigurationError, match="ETKF does not analyse points on their own"):
        analyze(da.ETKF(), members(), stored)
    with pytest.raises(ConfigurationError, match="must be BinnedObservations"):
        analyze(letkf, members(), da.Observations(jnp.ones((1, 20)), [0], error=da.covariances.Diagonal(std=1.0)))
    with pytest.raises(ConfigurationError, match=r"was made for a grid of \[18, 20\] points"):
        analyze(letkf, members(shape=(18, 22)), stored)
    with pytest.raises(ConfigurationError, match="was made for a grid"):
        analyze(letkf.replace(grid=Grid((1.0, 0.5), (True, True))), members(), stored)
    with pytest.raises(ConfigurationError, match="one finite radius"):
        analyze(letkf.replace(localization=da.ensemble.GaspariCohn(np.inf)), members(), stored)
    with pytest.raises(ConfigurationError, match="leave `nearest` and `places` out"):
        analyze(letkf.replace(places=jnp.zeros((40, 2))), members(), stored)
    coarse = bin_observations([reports(1, 40)], tmp_path / "z.zarr", PLANE, SHAPE, 9.0)
    with pytest.raises(ConfigurationError, match="need the same boxes"):
        analyze(letkf, members(), (stored, coarse))


@pytest.mark.slow
def test_observations_far_from_every_point_are_counted_and_change_nothing(tmp_path):
    far = Reports(np.ones(3), np.array([[0.0, 300.0]] * 3), 1.0)
    stored = bin_observations([far], tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    found, info = da.ensemble.analyze_in_blocks(METHODS["LETKF"].replace(inflation=1.0), members(), stored)
    np.testing.assert_allclose(found, members(), atol=1e-14)
    assert int(info.count) == 3


def test_the_memory_of_the_largest_block_is_predicted(tmp_path):
    stored = bin_observations([reports(1, 400)], tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    like = jax.ShapeDtypeStruct((N, *SHAPE), np.float64)
    report = da.diagnostics.explain_memory(METHODS["LETKF"], None, like, stored)
    most = next(name for name in report.parts if name.startswith("observations read for a block"))
    assert 150 < int(most.split()[-3]) <= len(stored)
    wide = bin_observations([reports(1, 400)], tmp_path / "z.zarr", PLANE, SHAPE, 50.0)
    assert da.diagnostics.explain_memory(METHODS["LETKF"], None, like, wide).total > report.total
