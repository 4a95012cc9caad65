"""The record of a training in files."""

from __future__ import annotations

import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.training import CsvMetrics, TensorBoardMetrics, fit

OPTIONS = {"optimizer": optax.sgd(0.1), "batch_size": 2, "chunk": 2, "validation": jnp.ones(3)}
DATA = jnp.ones(4)


def loss(w, x, key):
    return jnp.mean((w - x) ** 2), {"size": jnp.abs(w)}


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_table_is_what_fit_returns_and_a_training_goes_on_in_it(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    begun = fit(loss, jnp.asarray(3.0), DATA, steps=5, key=jax.random.key(0), record=CsvMetrics(path), **OPTIONS)
    with path.open("a") as file:
        file.write("5,99,99,99,99\n6,9")  # a process that was killed in the middle of a row
    rest = fit(loss, None, DATA, steps=7, state=begun.state, record=CsvMetrics(path), **OPTIONS)
    found = rows(path)
    assert [int(row["step"]) for row in found] == list(range(7))
    np.testing.assert_array_equal([float(row["loss"]) for row in found], [*begun.losses, *rest.losses])
    np.testing.assert_array_equal(
        [float(row["size"]) for row in found], [*begun.metrics["size"], *rest.metrics["size"]]
    )
    validated = [float(row["validation"]) for row in found]
    assert [k for k, value in enumerate(validated) if not np.isnan(value)] == [1, 3, 4, 6]
    np.testing.assert_array_equal([validated[k] for k in (1, 3, 4)], begun.validation)


def test_a_new_training_writes_a_new_table_and_other_columns_are_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,other\n0,1.0\n")
    with pytest.raises(DataError, match="step, other"):
        CsvMetrics(path)(3, {"loss": np.ones(2)})
    assert path.read_text() == "step,other\n0,1.0\n"  # nothing is lost
    CsvMetrics(path)(0, {"loss": np.ones(2)})
    assert rows(path) == [{"step": "0", "loss": "1.0"}, {"step": "1", "loss": "1.0"}]


def test_event_files_need_a_library_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ConfigurationError, match="tensorboardX"):
        TensorBoardMetrics(tmp_path)


def test_event_files_hold_the_values(tmp_path):
    pytest.importorskip("tensorboardX")
    record = TensorBoardMetrics(tmp_path)
    record(4, {"loss": np.array([2.5, np.nan, 1.5])})
    record.close()
    (file,) = tmp_path.iterdir()
    found = file.read_bytes()
    assert found.count(b"loss") == 2 and np.float32(2.5).tobytes() in found and np.float32(1.5).tobytes() in found
