"""Data of a training from everywhere: the same weights as from arrays, and bit by bit after a pause."""

from __future__ import annotations

import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.training import (
    Source,
    Stage,
    StoredArrays,
    TrainingError,
    TrainingState,
    fit,
    fit_stages,
    load_checkpoint,
    streams,
)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(22, 3)), RNG.normal(size=22)
KEY = jax.random.key(0)
ADAM = optax.adam(0.1)


def loss(w, batch, key):
    x, y = batch
    return jnp.mean((jnp.einsum("bi,i->b", x, w) - y) ** 2) + 0.1 * jax.random.normal(key) * w[0]


class Rows:
    """Samples by number, like a data set of PyTorch."""

    def __len__(self):
        return len(Y)

    def __getitem__(self, index):
        return X[index], Y[index]

    def __repr__(self):  # by which grain knows that a position belongs to the data
        return "Rows()"


class Again:
    """Batches that can be iterated again, like a loader of PyTorch."""

    def __init__(self, size=4):
        self.size, self.read = size, 0

    def __iter__(self):
        for k in range(0, len(Y) - self.size + 1, self.size):
            self.read += 1
            yield X[k : k + self.size], Y[k : k + self.size]


def mapped(tmp_path):
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / name, array)
    return tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))


def zarr_arrays(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    return tuple(
        group.create_array(name, data=array, chunks=(4, *array.shape[1:])) for name, array in (("x", X), ("y", Y))
    )


def grain_samples(tmp_path):
    return pytest.importorskip("grain").MapDataset.source(Rows())


INDEXED = {
    "stored": lambda _: StoredArrays((X, Y)),
    "rows": lambda _: Rows(),
    "memmap": mapped,
    "zarr": zarr_arrays,
    "grain": grain_samples,
}


def train(data, steps=17, state=None, **changes):
    settings = {"optimizer": ADAM, "batch_size": 4, "chunk": 3, "key": KEY if state is None else None} | changes
    return fit(loss, None if state is not None else jnp.zeros(3), data, steps=steps, state=state, **settings)


@pytest.mark.parametrize("name", INDEXED)
def test_samples_by_number_come_in_the_order_of_arrays(name, tmp_path):
    found, arrays = train(INDEXED[name](tmp_path)), train((X, Y))
    np.testing.assert_allclose(found.losses, arrays.losses, rtol=1e-12)
    np.testing.assert_allclose(found.trained, arrays.trained, rtol=1e-12)


@pytest.mark.parametrize("part", [1, 2**25])
def test_a_training_of_a_source_goes_on_bit_by_bit_within_an_epoch(part, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PART", part)
    whole = train(Rows())  # epochs of five batches
    train(Rows(), steps=6, checkpoint=tmp_path / "kept")
    state = load_checkpoint(tmp_path / "kept", TrainingState.create(jnp.zeros(3), ADAM, KEY))
    rest = train(StoredArrays((X, Y)), state=state)
    assert np.array_equal(rest.trained, whole.trained) and np.array_equal(rest.losses, whole.losses[6:])


def test_parts_of_another_size_change_nothing(monkeypatch):
    whole = train(Rows())
    monkeypatch.setattr(streams, "PART", 2 * 4 * 4 * 8)
    np.testing.assert_allclose(train(Rows()).losses, whole.losses, rtol=1e-12)


def by_hand(batches):
    w, memory = jnp.zeros(3), ADAM.init(jnp.zeros(3))
    for k, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.fold_in(KEY, 1), k)
        with jax.numpy_dtype_promotion("standard"):
            change, memory = ADAM.update(jax.grad(loss)(w, batch, key), memory, w)
        w = optax.apply_updates(w, change)
    return w


def test_an_iterable_begins_again_and_a_continued_training_leaves_out_what_was_read():
    whole = train(Again(), batch_size=None)
    np.testing.assert_allclose(whole.trained, by_hand(itertools.islice(itertools.cycle(Again()), 17)), rtol=1e-10)
    state = train(Again(), steps=6, batch_size=None).state
    data = Again()
    rest = train(data, state=state, batch_size=None)
    assert np.array_equal(rest.trained, whole.trained)
    assert data.read == 17  # none more than needed


def test_the_stages_of_a_curriculum_go_on_in_the_same_data():
    def weighted(w, batch, key, weight):
        value = weight * loss(w, batch, key)
        return value, {}, weight

    stages, options = [Stage(4, 1.0), Stage(5, 0.5)], {"optimizer": ADAM, "chunk": 3, "key": KEY}
    arrays = fit_stages(weighted, jnp.zeros(3), (X, Y), stages, batch_size=4, **options)
    source = fit_stages(weighted, jnp.zeros(3), Rows(), stages, batch_size=4, **options)
    np.testing.assert_allclose(source.losses, arrays.losses, rtol=1e-12)
    iterable = fit_stages(weighted, jnp.zeros(3), Again(), stages, **options)
    iterator = fit_stages(weighted, jnp.zeros(3), itertools.cycle(Again()), stages, **options)
    assert np.array_equal(iterable.losses, iterator.losses)


def test_an_iterator_is_read_no_further_than_the_last_update():
    data, batch = itertools.count(), (X[:4], Y[:4])
    train(((X[:4] + 0 * k, Y[:4]) for k in data), steps=7, batch_size=None)
    assert next(data) == 7
    batches = iter([batch] * 17)
    rest = train(batches, state=train(batches, steps=6, batch_size=None).state, batch_size=None)
    assert np.array_equal(rest.trained, train(iter([batch] * 17), batch_size=None).trained)


def shuffled(grain):
    return grain.MapDataset.source(Rows()).shuffle(seed=3).repeat(4).batch(4)


def read_by_one_thread(grain, data):
    return data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))


def loader(grain):
    sampler = grain.samplers.IndexSampler(num_records=22, shuffle=True, seed=0, num_epochs=2)
    return grain.DataLoader(data_source=Rows(), sampler=sampler, operations=[grain.transforms.Batch(4, True)])


GRAIN = {
    "batches by number": (shuffled, False),
    "iterable": (lambda grain: read_by_one_thread(grain, shuffled(grain)), True),
    "one epoch": (
        lambda grain: read_by_one_thread(grain, grain.MapDataset.source(Rows()).batch(4, drop_remainder=True)),
        True,
    ),
    "iterator": (lambda grain: iter(read_by_one_thread(grain, shuffled(grain))), True),
    "loader": (loader, True),
}


@pytest.mark.parametrize("name", GRAIN)
def test_grain_goes_on_from_the_position_in_the_checkpoint(name, tmp_path):
    grain = pytest.importorskip("grain")
    make, keeps = GRAIN[name]
    expected = by_hand(itertools.islice(itertools.chain.from_iterable(iter(make(grain)) for _ in range(9)), 17))
    whole = train(make(grain), batch_size=None)
    np.testing.assert_allclose(whole.trained, expected, rtol=1e-10)
    train(make(grain), steps=9, batch_size=None, checkpoint=tmp_path / "kept")
    state = load_checkpoint(tmp_path / "kept", TrainingState.create(jnp.zeros(3), ADAM, KEY))
    assert (state.position is not None) == keeps
    rest = train(make(grain), state=state, batch_size=None)
    assert np.array_equal(rest.trained, whole.trained) and np.array_equal(rest.losses, whole.losses[9:])


def test_a_position_is_under_the_checksums_and_must_fit_the_data(tmp_path):
    grain = pytest.importorskip("grain")
    state = train(loader(grain), steps=3, batch_size=None, checkpoint=tmp_path / "kept").state
    other = grain.DataLoader(
        data_source=Rows(), sampler=grain.samplers.IndexSampler(num_records=22, seed=5, shuffle=True, num_epochs=2),
        operations=[grain.transforms.Batch(4, True)],
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="position=None"):
        train(other, state=state, batch_size=None)
    file = tmp_path / "kept" / "manifest.json"
    file.write_text(file.read_text().replace('"position"', '"Position"'))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        load_checkpoint(tmp_path / "kept", TrainingState.create(jnp.zeros(3), ADAM, KEY))


def reading():
    return [thread for thread in threading.enumerate() if thread.name.startswith("diffassim-data")]


def test_the_next_batch_is_read_while_the_device_works():
    """Reading and computing take 30 ms each; one after the other, they would take twice as long."""
    active, most = [], []

    class Slow(Rows):
        def read(self, indices):
            active.append("read")
            most.append(len(active))
            time.sleep(0.03)
            active.remove("read")
            return X[indices], Y[indices]

    def work(x):
        active.append("work")
        most.append(len(active))
        time.sleep(0.03)
        active.remove("work")
        return x

    def slow(w, batch, key):
        y = jax.pure_callback(work, jax.ShapeDtypeStruct((4,), jnp.float64), jax.lax.stop_gradient(batch[1]))
        return jnp.mean((w[0] - y) ** 2)

    fit(slow, jnp.zeros(3), Slow(), optimizer=ADAM, steps=8, batch_size=4, chunk=1, key=KEY)
    assert max(most) >= 2
    assert not reading()  # the thread has ended


def test_a_source_that_is_read_compiles_one_program(monkeypatch):
    monkeypatch.setattr(streams, "PART", 3 * 4 * 4 * 8)
    traces = []

    def traced(w, batch, key):
        traces.append(1)
        return loss(w, batch, key)

    state = fit(traced, jnp.zeros(3), Rows(), optimizer=ADAM, steps=7, batch_size=4, chunk=5, key=KEY).state
    fit(traced, None, Rows(), optimizer=ADAM, steps=19, batch_size=4, chunk=5, state=state)
    assert len(traces) == 1


def test_validation_batch_by_batch_is_that_of_arrays():
    held = (X[:10], Y[:10])

    def plain(w, batch, key):
        return jnp.mean((jnp.einsum("bi,i->b", batch[0], w) - batch[1]) ** 2)

    options = {"optimizer": ADAM, "steps": 6, "chunk": 2, "key": KEY, "batch_size": 4}
    expected = fit(plain, jnp.zeros(3), (X, Y), validation=held, **options).validation
    parts = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:10], Y[8:10])]
    loader = type("Loader", (), {"__iter__": lambda self: iter(parts)})()
    for validation in (StoredArrays(held), loader):
        found = fit(plain, jnp.zeros(3), (X, Y), validation=validation, **options).validation
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_batch_that_is_not_finite_is_named_with_its_samples():
    x = X.copy()
    x[7, 1] = np.nan
    for data in ((x, Y), StoredArrays((x, Y))):
        with pytest.raises(TrainingError, match=r"\[0\] is NaN or infinite in 1 of 4 samples: 7\."):
            train(data, chunk=2)


class Odd(Rows):
    def __init__(self, **changes):
        self.__dict__.update(changes)

    def __getitem__(self, index):
        return (X[index][: 2 if index == 5 else 3], Y[index])


class Empty:
    def __len__(self):
        return 0

    def read(self, indices):
        raise AssertionError


class Endless(Rows):
    def __len__(self):
        return 2**60


class Short(Empty):
    def __len__(self):
        return 9

    def read(self, indices):
        return X[indices][:-1], Y[indices]


def batches(*changed):
    first = (X[:4], Y[:4])
    return iter([first, first, *changed, *[first] * 30])


@pytest.mark.parametrize(
    ("data", "size", "error", "message"),
    [
        (Empty(), 4, DataError, "no sample"),
        ((X[:0], Y[:0]), 4, DataError, "no sample"),
        (Rows(), 23, ConfigurationError, "batch_size=23 .* 22 samples"),
        ((X, Y[:9]), 4, ShapeError, "same leading sample axis"),
        (Rows.__new__(Odd), 4, ShapeError, "sample 5 has the shapes|but sample 5"),
        (Short(), 4, ShapeError, "Short.read returned arrays of"),
        (
            batches((X[:3], Y[:3])),
            None,
            ShapeError,
            r"step 2 has the shapes \[0\] \(3, 3\).*compiled anew. Drop or pad",
        ),
        (batches((X[:4].astype(np.float32), Y[:4])), None, DataError, "step 2 holds float32, but others float64"),
        (batches((X[:4], np.array(list("abcd")))), None, DataError, r"step 2 \[1\] is of type <U1"),
        (batches(), 4, ConfigurationError, "an iterator of batches none; found batch_size=4"),
        ((X, Y), None, ConfigurationError, "arrays of samples need a batch_size"),
        (StoredArrays((X, Y)), None, ConfigurationError, "arrays of samples need a batch_size"),
        (iter([]), None, DataError, "ended at step 0"),
        (Again(size=30), None, DataError, "Again holds no batch"),
        (object(), 4, ConfigurationError, "object is no data"),
    ],
)
def test_data_that_cannot_be_used_are_named(data, size, error, message):
    with pytest.raises(error, match=message):
        train(data, batch_size=size)


def test_a_dataset_is_told_how_to_become_windows():
    xr = pytest.importorskip("xarray")
    with pytest.raises(ConfigurationError, match="WindowsOfFields"):
        train(xr.Dataset({"x": ("time", Y)}))


def test_validation_that_can_be_read_only_once_is_refused():
    with pytest.raises(ConfigurationError, match="cannot be read again"):
        train((X, Y), validation=batches())
    with pytest.raises(ConfigurationError, match="never end"):
        train(batches(), validation=Endless(), batch_size=None)
    with pytest.raises(ConfigurationError, match="without a batch_size"):
        train(batches(), validation=StoredArrays((X, Y)), batch_size=None)


def test_an_error_while_reading_reaches_the_caller_and_ends_the_thread():
    class Broken(Rows):
        def read(self, indices):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk is gone"):
        train(Broken())
    assert not reading()


def test_the_protocol_is_what_fit_takes():
    assert isinstance(StoredArrays(X), Source) and not isinstance(Rows(), Source)
